"""A LoRA beside a layer: ``y + strength · B (A x)``, for layers whose weight is no plain tensor.

Layers of formats of their own (GGUF) hold bytes, and turn them into a weight in their own way while they run. As the host's
bypass mode does, the LoRA is then added to what the layer gives; nothing is read of the layer but its sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.utils
import torch
from torch import nn
from torch.nn import functional

from .weight_change import Now, Place, Use, is_one_product, patch_on, scale_of

CONVOLUTIONS = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}


class OutputBranch:
    """What one LoRA adds to the output of one layer."""

    def __init__(self, key: str, patch: Any, offset: Any) -> None:
        """Args:
        key: the weight's name.
        patch: the host's LoRA patch, for which `goes_beside` holds.
        offset: the part of the output it changes: (0, start, length); None for all.
        """
        self.key, self._patch, self._offset = key, patch, offset
        self._placed: dict[tuple[torch.device, torch.dtype | None], Any] = {}

    def __call__(
        self, use: Use, layer: nn.Module, run: Callable[..., torch.Tensor], x: torch.Tensor, *rest: Any, **more: Any
    ) -> torch.Tensor:
        """What the layer gives for ``x``, and the LoRA of the current strength; the very same tensor at 0."""
        result = run(x, *rest, **more)
        strength = use.strength()
        if strength == 0:
            return result
        change = self._of(x, layer).to(result.dtype)
        by = strength * scale_of(self._patch)
        if self._offset is None:
            return torch.add(result, change, alpha=by)
        _, start, length = self._offset
        result = result.clone()
        result.narrow(channels_of(layer, result), start, length).add_(change, alpha=by)
        return result

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Copy the patch to where a model computes."""
        if (device, dtype) not in self._placed:
            self._placed[(device, dtype)] = patch_on(self._patch, device, dtype)

    def _of(self, x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
        self.place(x.device, x.dtype)
        up, down = self._placed[(x.device, x.dtype)].weights[:2]
        convolve = next((function for kind, function in CONVOLUTIONS.items() if isinstance(layer, kind)), None)
        if convolve is None:
            return functional.linear(functional.linear(x, down.flatten(1)), up.flatten(1))
        rank = len(down)
        inner = convolve(x, down.view(rank, *_kernel(layer, down)), None, layer.stride, layer.padding, layer.dilation)
        return convolve(inner, up.view(len(up), rank, *[1] * (x.ndim - 2)))

    def let_go(self) -> None:
        """Free the copies."""
        self._placed = {}


def _kernel(layer: Any, down: torch.Tensor) -> tuple[int, ...]:
    """Shape of the first factor without its rank: one of matrices is of a kernel of all positions, or of one."""
    return tuple(down.shape[1:]) if down.ndim > 2 else (layer.in_channels, *layer.kernel_size)


def channels_of(layer: nn.Module, result: torch.Tensor) -> int:
    """The dimension of a layer's output that its weight's rows make."""
    return 1 if isinstance(layer, tuple(CONVOLUTIONS)) else result.ndim - 1


def branch_of(model: nn.Module, branch: OutputBranch, now: Now) -> Place:
    """Where a branch belongs in the host's model, whose weight it names."""
    layer = comfy.utils.get_attr(model, branch.key.rpartition(".")[0])
    use = Use(now)
    return Place(branch.key, layer, "forward", lambda run: partial(branch, use, layer, run), use)


def goes_beside(layer: nn.Module, kind: str, patch: Any, offset: Any, function: Any) -> bool:
    """Whether a patch can be applied to a layer's output."""
    plain = kind == "weight" and function is None and is_one_product(patch) and (offset is None or offset[0] == 0)
    return plain and (isinstance(layer, nn.Linear) or (isinstance(layer, tuple(CONVOLUTIONS)) and layer.groups == 1))


def holds_bytes(layer: nn.Module, kind: str) -> bool:
    """Whether a layer holds its weight in a format of its own."""
    weight = getattr(layer, kind, None)
    return kind == "weight" and isinstance(weight, torch.Tensor) and not weight.is_floating_point()


def shape_of(layer: Any, weight: torch.Tensor, kind: str) -> tuple[int, ...]:
    """The shape that a layer's weight has when the layer uses it."""
    if not holds_bytes(layer, kind):
        return tuple(weight.shape)
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, tuple(CONVOLUTIONS)):
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
    return tuple(weight.shape)
