"""A checkpoint of VideoCrafter2's size with random weights: 7.4 GB in float32."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.config import VIDEOCRAFTER2
from customcrafter_core.base_model.networks import build_networks
from customcrafter_core.base_model.writing import original_state_dict

BLOCK = 2**22  # values drawn once; all weights are cut from them, for time and disk do not depend on what they are
SCALE = 0.02


def write_full_size(path: Path) -> Path:
    """Write it in float32, as ``.safetensors`` or, like the original, as ``.ckpt``."""
    with torch.device("meta"):
        shapes = {
            name: value.shape
            for name, value in original_state_dict(build_networks(VIDEOCRAFTER2), VIDEOCRAFTER2).items()
        }
    block = SCALE * torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))
    state = {name: _cut(block, shape) for name, shape in shapes.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return path


def _cut(block: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A tensor of that shape with memory of its own, no more than it needs."""
    count = shape.numel()
    return torch.cat([block] * (count // BLOCK) + [block[: count % BLOCK]]).reshape(shape)
