"""Finds the layers that a subject changes from the structure of the network."""

from __future__ import annotations

from diffusers import UNet3DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

PROJECTIONS = ("to_q", "to_k", "to_v")


def spatial_blocks(unet: UNet3DConditionModel) -> dict[str, BasicTransformerBlock]:
    """The spatial transformer blocks, by name: 16 in VideoCrafter2; temporal ones are of another class."""
    return {
        f"{name}.transformer_blocks.{i}": block
        for name, module in unet.named_modules()
        if isinstance(module, Transformer2DModel)
        for i, block in enumerate(module.transformer_blocks)
    }


def lora_targets(unet: UNet3DConditionModel) -> dict[str, nn.Linear]:
    """q, k and v of self- and cross-attention in every spatial transformer block (paper, SSLM): 96 in VideoCrafter2.

    Temporal transformers, output projections and feed-forward layers are not changed.
    """
    return {
        f"{name}.{attention}.{projection}": getattr(getattr(block, attention), projection)
        for name, block in spatial_blocks(unet).items()
        for attention in ("attn1", "attn2")
        for projection in PROJECTIONS
    }
