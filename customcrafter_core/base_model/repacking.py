"""A base checkpoint as ``.safetensors``, under the names it had, written one tensor at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import torch

from ..files.tensor_file import SAFETENSORS_DTYPES, TensorInfo, open_tensor_file
from ..files.writing import atomic_file
from .conversion import SCHEDULE_BUFFERS
from .loading import counted, plan, read_weights

ALIGNMENT = 8  # bytes; the format wants its data to start at a multiple


def rewrite_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> Path:
    """Write VideoCrafter2's checkpoint as ``.safetensors``; never much more than one tensor is in memory.

    Args:
        source: a checkpoint in any format that loading reads.
        target: the new file; a failure leaves what was there before.
        dtype: of the weights; by default as they are. Tables of the noise schedule keep theirs.
        on_tensor: called with (tensors written, tensors in all).

    Raises:
        InputError: not such a checkpoint, damaged, NaN, or values out of the range of ``dtype``.
        OSError: the disk is full or the folder cannot be written.
    """
    with open_tensor_file(source) as file:
        plan(file)
        dtypes = {name: _new_dtype(name, info, dtype) for name, info in file.tensors.items()}
        # wide types first, so that every tensor is aligned and can be mapped into memory
        names = sorted(file.in_order(dtypes), key=lambda name: -dtypes[name].itemsize)
        with atomic_file(Path(target)) as out:
            out.write(_header(names, dtypes, file.tensors, file.metadata))
            with closing(read_weights(file, {name: dtypes[name] for name in names})) as weights:
                for _, value in counted(weights, len(names), on_tensor):
                    _write(out, value)
    return Path(target)


def _new_dtype(name: str, info: TensorInfo, dtype: torch.dtype | None) -> torch.dtype:
    return info.dtype if dtype is None or name in SCHEDULE_BUFFERS or not info.dtype.is_floating_point else dtype


def _header(
    names: list[str],
    dtypes: Mapping[str, torch.dtype],
    tensors: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
) -> bytes:
    """Length (8 bytes, little endian), then JSON: name -> type, shape, begin and end behind the header."""
    codes = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    begin = 0
    for name in names:
        end = begin + math.prod(tensors[name].shape) * dtypes[name].itemsize
        entries[name] = {
            "dtype": codes[dtypes[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write(out: BinaryIO, value: torch.Tensor) -> None:
    if value.numel():
        out.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
