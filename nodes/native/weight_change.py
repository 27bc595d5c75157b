"""What a LoRA adds to one weight at the strength of the moment, as the layer asks for its weight."""

from __future__ import annotations

from typing import Any, Protocol

import comfy.lora
import torch
from comfy.weight_adapter import LoRAAdapter

PRODUCTS = (torch.float32, torch.float16, torch.bfloat16)
"""Types in which a product is added to a weight in one operation."""


class Strength(Protocol):
    """The strength of a LoRA during the current call of the model."""

    def use(self) -> float:
        """The strength, for what follows it."""


class WeightChange:
    """What one LoRA adds to one weight; called by the layer with a weight, returns the changed one."""

    def __init__(
        self, strength: Strength, key: str, patch: Any, offset: Any, function: Any, scale: float = 1.0
    ) -> None:
        """Args:
        strength: the strength that counts.
        key: the weight's name.
        patch: the host's LoRA patch.
        offset: the part of the weight it changes.
        function: what is done to the change, as the host asks.
        scale: the layer holds the weight divided by this.
        """
        self._strength, self._key, self._patch = strength, key, patch
        self._offset, self._function, self._scale = offset, function, scale
        self._is_plain = offset is None and function is None and scale == 1.0 and is_one_product(patch)
        self._factors: tuple[torch.Tensor, torch.Tensor] | None = None  # in the layer's own type

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with the LoRA at its current strength; the very same tensor at 0.

        A plain LoRA is added in one operation and rounded once; the host's function takes six, and a copy in float32.
        """
        strength = self._strength.use()
        if strength == 0:
            return weight
        if self._is_plain and weight.dtype in PRODUCTS:
            up, down = self._factors_like(weight)
            if weight.dim() > 1 and weight.flatten(1).shape == (len(up), down.shape[1]):
                by = strength * scale_of(self._patch)
                return torch.addmm(weight.flatten(1), up, down, alpha=by).view(weight.shape)
        change = (strength, self._patch, 1.0, self._offset, self._function)
        if self._scale == 1.0:
            return comfy.lora.calculate_weight([change], weight.clone(), self._key)
        return comfy.lora.calculate_weight([change], weight * self._scale, self._key) / self._scale

    def _factors_like(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``up (out, rank)`` and ``down (rank, in)`` on the weight's device and of its type, made once."""
        if self._factors is None or (self._factors[0].device, self._factors[0].dtype) != (weight.device, weight.dtype):
            up, down = (factor.flatten(1).to(weight.device, weight.dtype) for factor in self._patch.weights[:2])
            self._factors = up, down
        return self._factors

    def move_to(self, device: torch.device) -> int:
        """Bring the factors to a device, as the host asks when it loads or frees the model; returns their bytes."""
        self._factors, patch = None, self._patch
        if hasattr(patch, "weights"):
            patch.weights, size = _moved(patch.weights, device)
        else:
            self._patch, size = _moved(patch, device)
        return size


def is_one_product(patch: Any) -> bool:
    """Whether a patch of the host is a product of two factors and nothing more (LoCon's middle, DoRA, a new shape)."""
    return type(patch) is LoRAAdapter and not any(more is not None for more in patch.weights[3:])


def scale_of(patch: Any) -> float:
    """``alpha / rank`` of a LoRA, 1 where its file tells no alpha."""
    alpha, down = patch.weights[2], patch.weights[1]
    return 1.0 if alpha is None else float(alpha) / len(down)


def _moved(value: Any, device: torch.device) -> tuple[Any, int]:
    if isinstance(value, torch.Tensor):
        moved = value.to(device)
        return moved, moved.nbytes
    if isinstance(value, (tuple, list)):
        parts = [_moved(part, device) for part in value]
        return type(value)(part for part, _ in parts), sum(size for _, size in parts)
    return value, 0
