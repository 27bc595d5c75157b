"""Gradient checkpointing: layers of the UNet keep no intermediate results, the backward pass computes them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint

LAYERS = ("resnets", "temp_convs", "attentions", "temp_attentions")


class CheckpointedLayer(nn.Module):
    """A layer of which the backward pass keeps the inputs only."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own result, whatever it is."""
        if not torch.is_grad_enabled():
            return self.layer(*args, **kwargs)
        # dropout needs the same random numbers again; else nothing is random
        random = self.layer.training
        return checkpoint(self.layer, *args, use_reentrant=False, preserve_rng_state=random, **kwargs)


@contextmanager
def gradient_checkpointing(unet: UNet3DConditionModel) -> Iterator[None]:
    """Checkpoint each layer of the UNet's blocks while the context lasts; gradients stay the same.

    diffusers' own checkpointing is switched off for this class. Meanwhile the layers have other names, so whatever
    replaces layers by name has to be done before and undone afterwards.
    """
    replaced: list[tuple[nn.ModuleList, int, nn.Module]] = []
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]  # some levels have no attention
    try:
        for layers in (getattr(block, kind) for block in blocks for kind in LAYERS if hasattr(block, kind)):
            for i, layer in enumerate(layers):
                layers[i] = CheckpointedLayer(layer)
                replaced.append((layers, i, layer))
        yield
    finally:
        for layers, i, layer in replaced:
            layers[i] = layer
