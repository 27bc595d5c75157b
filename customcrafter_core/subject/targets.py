"""The layers a subject changes, found by the structure of the network."""

from __future__ import annotations

from diffusers import UNet3DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

PROJECTIONS = ("to_q", "to_k", "to_v")


def lora_targets(unet: UNet3DConditionModel) -> dict[str, nn.Linear]:
    """q, k and v of self- and cross-attention in every spatial transformer block (paper, SSLM): 96 in VideoCrafter2.

    Temporal transformers are of another class and stay untouched, and so do output projections and feed-forwards.
    """
    targets = {}
    for name, module in unet.named_modules():
        if isinstance(module, Transformer2DModel):
            for i, block in enumerate(module.transformer_blocks):
                for attention in ("attn1", "attn2"):
                    for projection in PROJECTIONS:
                        layer = getattr(getattr(block, attention), projection)
                        targets[f"{name}.transformer_blocks.{i}.{attention}.{projection}"] = layer
    return targets
