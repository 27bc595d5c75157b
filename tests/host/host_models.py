"""The small model that the host's tests run on: every part of VideoCrafter2's layout, eight pixels per latent."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from customcrafter_core.base_model.config import (
    Defaults,
    ModelConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
)
from customcrafter_core.base_model.networks import build_networks
from customcrafter_core.base_model.video_layers import TemporalConvolution
from customcrafter_core.base_model.writing import write_checkpoint

DEFAULTS = Defaults(width=64, height=48, frames=4, fps=8)
CONFIG = ModelConfig(
    UNetConfig(
        (16, 32),
        layers_per_block=1,
        attends=(True, True),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=4,
    ),
    TextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4),
    VAEConfig((8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
)


def write_model(path: Path, seed: int = 0, config: ModelConfig = CONFIG) -> Path:
    """Write the model, or one of other sizes, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = build_networks(config)
        for module in networks.unet.modules():
            if isinstance(module, TemporalConvolution):  # its last one is 0 in a fresh network, which adds nothing
                nn.init.normal_(module.conv4[-1].weight, std=0.1)
    write_checkpoint(path, networks, config, defaults=DEFAULTS, dtype=torch.float32)
    return path
