"""The smallest model with every part of VideoCrafter2's layout, for tests that write many checkpoint files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.geometry import (
    Defaults,
    Geometry,
    TextGeometry,
    UNetGeometry,
    VAEGeometry,
    config_metadata,
)
from customcrafter_core.base_model.networks import Networks, build_networks
from customcrafter_core.base_model.writing import original_state_dict

DEFAULTS = Defaults(width=32, height=16, frames=2, fps=8, cfg=7.5)
GEOMETRY = Geometry(
    UNetGeometry((4, 8), blocks_per_level=1, attends=(True, False), context_dim=8, head_dim=4, norm_groups=2),
    TextGeometry(width=8, mlp_width=16, layers=2, heads=2),
    VAEGeometry((4, 8), blocks_per_level=1, norm_groups=2),
)


def networks(seed: int = 0) -> Networks:
    """The networks with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_networks(GEOMETRY)


def state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights under VideoCrafter2's names."""
    state = original_state_dict(networks(seed), GEOMETRY)
    return {name: value.detach().contiguous() for name, value in state.items()}


def write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """Write weights with this geometry's metadata."""
    save_file(state, path, metadata=config_metadata(GEOMETRY, DEFAULTS))
    return path
