"""A base checkpoint as ``.safetensors``, under the names it had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..files.tensor_file import open_tensor_file, write_tensors
from .conversion import SCHEDULE_BUFFERS
from .loading import counted, plan, read_weights


def rewrite_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> Path:
    """Write VideoCrafter2's checkpoint as ``.safetensors``; weights of another type than the file's are held in memory.

    Args:
        source: a checkpoint in any format that loading reads.
        target: the new file; a failure leaves what was there before.
        dtype: of the weights; by default as they are. Tables of the noise schedule keep theirs.
        on_tensor: called with (tensors read, tensors in all).

    Raises:
        InputError: not such a checkpoint, damaged, NaN, or values out of the range of ``dtype``.
        OSError: the disk is full or the folder cannot be written.
    """
    with open_tensor_file(source) as file:
        plan(file)
        dtypes = {
            name: value.dtype if dtype is None or name in SCHEDULE_BUFFERS or not value.is_floating_point() else dtype
            for name, value in file.tensors.items()
        }
        weights = dict(counted(read_weights(file, dtypes), len(dtypes), on_tensor))
        write_tensors(Path(target), {n: w.contiguous() for n, w in weights.items()}, {"format": "pt", **file.metadata})
    return Path(target)
