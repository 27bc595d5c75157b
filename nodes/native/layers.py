"""Turn the layers of a finished network into the host's own."""

from __future__ import annotations

from typing import Any

from torch import nn

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


def use_host_layers(network: nn.Module, layers: Any) -> None:
    """Give every plain layer the class of the same name in ``layers``; weights stay where they are.

    The host's classes differ from torch's only in how they fetch their weights: cast, moved and patched on the way.
    """
    host_class = {kind: getattr(layers, kind.__name__) for kind in KINDS}
    for module in network.modules():
        if type(module) in host_class:
            module.__class__ = host_class[type(module)]
            module.weight_function, module.bias_function = [], []  # the classes share theirs
