"""The small model that the host's tests run on: every part of VideoCrafter2's layout, eight pixels per latent."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from customcrafter_core.base_model.geometry import (
    Defaults,
    Geometry,
    TextGeometry,
    UNetGeometry,
    VAEGeometry,
)
from customcrafter_core.base_model.networks import build_networks
from customcrafter_core.base_model.video_layers import TemporalConvolution
from customcrafter_core.base_model.writing import write_checkpoint

DEFAULTS = Defaults(width=64, height=48, frames=4, fps=8)
GEOMETRY = Geometry(
    UNetGeometry((16, 32), blocks_per_level=1, attends=(True, True), context_dim=32, head_dim=8, norm_groups=4),
    TextGeometry(width=32, mlp_width=64, layers=2, heads=4),
    VAEGeometry((8, 8, 8, 8), blocks_per_level=1, norm_groups=4),
)


def write_model(path: Path, seed: int = 0, geometry: Geometry = GEOMETRY) -> Path:
    """Write the model, or one of other sizes, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = build_networks(geometry)
        for module in networks.unet.modules():
            if isinstance(module, TemporalConvolution):  # its last one is 0 in a fresh network, which adds nothing
                nn.init.normal_(module.conv4[-1].weight, std=0.1)
    write_checkpoint(path, networks, geometry, defaults=DEFAULTS, dtype=torch.float32)
    return path
