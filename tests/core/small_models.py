"""Small models for tests: made from the reference vectors' recipe or at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.geometry import Defaults, HiddenSizes, metadata_of
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from tests.core import vectors


def hidden_sizes(description: dict[str, Any]) -> HiddenSizes:
    """The sizes that shapes do not show, from the vectors' configs."""
    text = description["text"]["config"]
    return HiddenSizes(
        unet_head_dim=description["unet"]["config"]["num_head_channels"], text_head_dim=text["width"] // text["heads"]
    )


def state_dict(description: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All weights of the three reference models, under VideoCrafter2's names."""
    salt = description["recipe"]["salt"]
    state: dict[str, torch.Tensor] = {}
    for part in ("unet", "text", "vae"):
        state.update(vectors.weights(description[part]["keys"], salt))
    return state


def write_reference_checkpoint(path: Path, description: dict[str, Any]) -> Path:
    """The reference models as one checkpoint file."""
    metadata = metadata_of(hidden_sizes(description), Defaults(width=64, height=48, frames=4, fps=8))
    save_file(state_dict(description), path, metadata=metadata)
    return path


def load_reference(path: Path, description: dict[str, Any]) -> VideoCrafter2:
    """Write and load the reference models."""
    return load_videocrafter2(write_reference_checkpoint(path, description))
