"""The smallest model with every part of VideoCrafter2's layout, for tests that write many checkpoint files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.config import (
    Defaults,
    ModelConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
    config_metadata,
)
from customcrafter_core.base_model.networks import Networks, build_networks
from customcrafter_core.base_model.writing import original_state_dict

DEFAULTS = Defaults(width=32, height=16, frames=2, fps=8, cfg=7.5)
CONFIG = ModelConfig(
    UNetConfig(
        (4, 8),
        layers_per_block=1,
        attends=(True, False),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=2,
    ),
    TextConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2),
    VAEConfig((4, 8), layers_per_block=1, norm_num_groups=2),
)


def networks(seed: int = 0) -> Networks:
    """The networks with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_networks(CONFIG)


def state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights under VideoCrafter2's names."""
    state = original_state_dict(networks(seed), CONFIG)
    return {name: value.detach().contiguous() for name, value in state.items()}


def write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """Write weights with the model's sizes as metadata."""
    save_file(state, path, metadata=config_metadata(CONFIG, DEFAULTS))
    return path
