"""The shipped checkpoint: the trained networks in VideoCrafter2's own format."""

from __future__ import annotations

from pathlib import Path

import torch

from ..base_model.networks import Networks
from ..base_model.writing import write_checkpoint
from . import demo_checkpoint
from .base import CONFIG, DEFAULTS, build_demo_text_encoder
from .codec import load_codec
from .train_base import load_trained_unet

DEMO_BASE = demo_checkpoint()
"""The demo base model that comes with the project."""


def trained_networks(work_dir: Path) -> Networks:
    """The averaged networks of a training run, frozen, in float32."""
    unet, _ = load_trained_unet(work_dir / "fine" / "unet_state.safetensors")
    return Networks(unet, build_demo_text_encoder(), load_codec(work_dir / "codec.safetensors"))


def write_base(work_dir: Path, path: Path = DEMO_BASE) -> Path:
    """Write what is trained so far as a checkpoint in half precision; returns its path."""
    write_checkpoint(path, trained_networks(work_dir), CONFIG, defaults=DEFAULTS, dtype=torch.float16)
    return path
