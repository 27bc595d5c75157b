"""Read all of a checkpoint without building the model: does it fit, and is every weight finite?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..files.tensor_file import TensorFile
from .config import Defaults, ModelConfig
from .conversion import named_parts
from .loading import counted, plan, read_weights, stored_fingerprint


@dataclass(frozen=True)
class CheckpointFacts:
    """What a usable checkpoint holds."""

    config: ModelConfig
    defaults: Defaults
    parameters: tuple[int, int, int]
    """Of UNet, text encoder and autoencoder."""
    dtypes: tuple[torch.dtype, ...]
    """Of the weights that are used."""
    tensors: int
    fingerprint: str


def check_checkpoint(file: TensorFile, on_tensor: Callable[[int, int], None] | None = None) -> CheckpointFacts:
    """Match a checkpoint as strictly as loading does and read every tensor in it, one at a time.

    Args:
        file: an open checkpoint.
        on_tensor: called with (tensors read, tensors in all).

    Raises:
        InputError: not a VideoCrafter2 checkpoint, a weight that does not fit, NaN or infinity.
    """
    networks, config, defaults, sources = plan(file)
    check_numbers(file, on_tensor)
    counts = [sum(p.numel() for p in module.parameters()) for _, module, _ in named_parts(networks, config)]
    return CheckpointFacts(
        config=config,
        defaults=defaults,
        parameters=(counts[0], counts[1], counts[2]),
        dtypes=tuple(sorted({file.tensors[source.name].dtype for source in sources.values()}, key=str)),
        tensors=len(file.tensors),
        fingerprint=stored_fingerprint(file, networks, sources),
    )


def check_numbers(file: TensorFile, on_tensor: Callable[[int, int], None] | None = None) -> None:
    """Read all tensors and look at every number in them.

    Args:
        file: an open file.
        on_tensor: called with (tensors read, tensors in all).

    Raises:
        InputError: NaN or infinity.
    """
    dtypes = {name: value.dtype for name, value in file.tensors.items()}
    for _ in counted(read_weights(file, dtypes), len(dtypes), on_tensor):
        pass
