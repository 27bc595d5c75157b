"""Less memory for more time: layers of the UNet that keep no intermediate results and compute them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint

LAYERS = ("resnets", "temp_convs", "attentions", "temp_attentions")


class RecomputedLayer(nn.Module):
    """A layer of which the backward pass keeps the inputs only."""

    def __init__(self, layer: nn.Module, again_in: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__()
        self.layer, self._again_in = layer, again_in

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own result, whatever it is."""
        if not torch.is_grad_enabled():
            return self.layer(*args, **kwargs)
        return checkpoint(
            self.layer,
            *args,
            use_reentrant=False,
            context_fn=self._contexts,
            preserve_rng_state=self.layer.training,  # dropout; else nothing is random
            **kwargs,
        )

    def _contexts(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """Where the layer runs first, and where it runs again."""
        return nullcontext(), self._again_in()


@contextmanager
def recomputed(
    unet: UNet3DConditionModel, *, again_in: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[None]:
    """Let the backward pass compute again what happens inside each layer of the UNet's blocks.

    The gradients stay the same. diffusers' own gradient checkpointing is switched off for this class. While the
    context lasts the layers have other names, so whatever replaces layers by name has to be done before and undone
    afterwards.

    Args:
        unet: the network.
        again_in: makes the context in which a layer runs for the second time. The backward pass is not inside the
            contexts of the forward pass.
    """
    replaced: list[tuple[nn.ModuleList, int, nn.Module]] = []
    try:
        for layers in _layer_lists(unet):
            for i, layer in enumerate(layers):
                layers[i] = RecomputedLayer(layer, again_in)
                replaced.append((layers, i, layer))
        yield
    finally:
        for layers, i, layer in replaced:
            layers[i] = layer


def _layer_lists(unet: UNet3DConditionModel) -> list[nn.ModuleList]:
    """The lists of layers in all blocks, each block's present kinds only: some levels have no attention."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [getattr(block, kind) for block in blocks for kind in LAYERS if hasattr(block, kind)]
