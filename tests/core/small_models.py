"""Small models for tests: made from the reference vectors' recipe or at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from tests.core import vectors


def config_of(description: dict[str, Any]) -> ModelConfig:
    """The sizes of the reference models, from the configs of the original's classes."""
    unet, text, vae = (description[part]["config"] for part in ("unet", "text", "vae"))
    return ModelConfig(
        UNetConfig(
            block_out_channels=tuple(unet["model_channels"] * factor for factor in unet["channel_mult"]),
            layers_per_block=unet["num_res_blocks"],
            attends=tuple(2**level in unet["attention_resolutions"] for level in range(len(unet["channel_mult"]))),
            cross_attention_dim=unet["context_dim"],
            attention_head_dim=unet["num_head_channels"],
            norm_num_groups=32,
        ),
        TextConfig(
            text["width"], 4 * text["width"], num_hidden_layers=text["layers"] - 1, num_attention_heads=text["heads"]
        ),
        VAEConfig(tuple(vae["ch"] * factor for factor in vae["ch_mult"]), vae["num_res_blocks"], norm_num_groups=32),
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
    metadata = config_metadata(config_of(description), Defaults(width=64, height=48, frames=4, fps=8))
    save_file(state_dict(description), path, metadata=metadata)
    return path


def load_reference(path: Path, description: dict[str, Any]) -> VideoCrafter2:
    """Write and load the reference models."""
    return load_videocrafter2(write_reference_checkpoint(path, description))
