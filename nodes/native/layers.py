"""Turn the layers of a finished network into the host's own."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

from ...customcrafter_core.base_model.video_layers import FrameConvolution, WideLinear

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


def use_host_layers(network: nn.Module, layers: Any) -> None:
    """Give every plain layer the class of the same name in ``layers``; weights stay where they are.

    The host's classes differ from torch's only in how they fetch their weights: cast, moved and patched on the way. A
    `FrameConvolution` stays one, over the host's ``Conv2d``; a `WideLinear` becomes the host's ``Linear``.
    """
    host_class = {kind: getattr(layers, kind.__name__) for kind in KINDS}
    host_class |= {FrameConvolution: _over_frames(layers), WideLinear: layers.Linear}
    for module in network.modules():
        if type(module) in host_class:
            module.__class__ = host_class[type(module)]
            module.weight_function, module.bias_function = [], []  # the classes share theirs


@cache
def _over_frames(layers: Any) -> type[nn.Module]:
    """A convolution whose weights the host fetches and whose products ours makes."""
    return type("HostFrameConvolution", (FrameConvolution, layers.Conv2d), {})
