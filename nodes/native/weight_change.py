"""What a LoRA adds to weights at the strength of the moment, as their layers ask for them.

Layers of the host hand their weight to a list of functions. Changes are in these lists for the length of one call of the
model, not by `ModelPatcher.add_weight_wrapper`: after that the host takes the model for another one, and moves all of it
off the GPU and back before the next run. The price: factors on the GPU, until a run ends, are not in the host's count of
its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.lora
import comfy.utils
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import nn

PRODUCTS = (torch.float32, torch.float16, torch.bfloat16)
"""Types in which a product is added to a weight in one operation."""


class Now:
    """The strength of a LoRA in the call of one model that is under way; 0 between calls.

    An object rather than a number that a thread holds: layers may fetch their weights in another thread.
    """

    def __init__(self) -> None:
        self.strength = 0.0


class Use:
    """The strength for one layer of a model, and whether the layer has ever asked for it.

    Each layer has its own: what a compiled layer writes to an object of its own is seen outside of it.
    """

    def __init__(self, now: Now) -> None:
        self._now, self.taken = now, False

    def strength(self) -> float:
        """The strength of the moment; notes that it was asked for."""
        self.taken = True
        return self._now.strength


class WeightChange:
    """What one LoRA adds to one weight."""

    def __init__(self, key: str, patch: Any, offset: Any, function: Any, scale: float = 1.0) -> None:
        """Args:
        key: the weight's name.
        patch: the host's LoRA patch.
        offset: the part of the weight it changes.
        function: what is done to the change, as the host asks.
        scale: the layer holds the weight divided by this.
        """
        self.key = key
        self._patch, self._offset, self._function, self._scale = patch, offset, function, scale
        self._is_plain = offset is None and function is None and scale == 1.0 and is_one_product(patch)
        self._placed: dict[tuple[torch.device, torch.dtype | None], Any] = {}

    def __call__(self, use: Use, weight: torch.Tensor) -> torch.Tensor:
        """The weight with the LoRA at the current strength; the very same tensor at 0.

        A plain LoRA is added in one operation and rounded once; the host's function takes six, and a copy in float32.
        """
        strength = use.strength()
        if strength == 0:
            return weight
        if self._is_plain and weight.dtype in PRODUCTS:
            up, down = (factor.flatten(1) for factor in self._on(weight.device, weight.dtype).weights[:2])
            if weight.dim() > 1 and weight.flatten(1).shape == (len(up), down.shape[1]):
                by = strength * scale_of(self._patch)
                return torch.addmm(weight.flatten(1), up, down, alpha=by).view(weight.shape)
        change = (strength, self._on(weight.device, None), 1.0, self._offset, self._function)
        if self._scale == 1.0:
            return comfy.lora.calculate_weight([change], weight.clone(), self.key)
        return comfy.lora.calculate_weight([change], weight * self._scale, self.key) / self._scale

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Copy the patch to where a model computes, before it does: a compiled layer could not."""
        self._on(device, dtype if self._is_plain and dtype in PRODUCTS else None)

    def _on(self, device: torch.device, dtype: torch.dtype | None) -> Any:
        """The patch on a device and in a type, None for its own; copied once for each."""
        place = (device, dtype)
        if place not in self._placed:
            self._placed[place] = patch_on(self._patch, device, dtype)
        return self._placed[place]

    def let_go(self) -> None:
        """Free the copies."""
        self._placed = {}


@dataclass
class Place:
    """What a LoRA changes in a layer of a model, and how."""

    key: str
    """The weight's name."""
    layer: nn.Module
    attribute: str
    """That is replaced for the length of a call."""
    changed: Callable[[Any], Any]
    """Gives its value with the change from the one before."""
    use: Use


def place_of(model: nn.Module, change: WeightChange, now: Now) -> Place:
    """Where a change belongs in the host's model, whose weight it names."""
    layer, _, kind = change.key.rpartition(".")
    use = Use(now)
    function = partial(change, use)
    # never in place: layers may share a list
    return Place(
        change.key, comfy.utils.get_attr(model, layer), f"{kind}_function", lambda before: [*before, function], use
    )


@contextmanager
def changed_layers(places: Iterable[Place]) -> Iterator[None]:
    """Let layers apply changes while the context lasts; what they had before comes back."""
    with ExitStack() as stack:
        for place in places:
            own, before = vars(place.layer), getattr(place.layer, place.attribute)
            if place.attribute in own:
                stack.callback(setattr, place.layer, place.attribute, before)
            else:
                stack.callback(delattr, place.layer, place.attribute)
            setattr(place.layer, place.attribute, place.changed(before))
        yield


def is_one_product(patch: Any) -> bool:
    """Whether a patch of the host is a product of two factors and nothing more (LoCon's middle, DoRA, a new shape)."""
    return type(patch) is LoRAAdapter and not any(more is not None for more in patch.weights[3:])


def scale_of(patch: Any) -> float:
    """``alpha / rank`` of a LoRA, 1 where its file tells no alpha."""
    alpha, down = patch.weights[2], patch.weights[1]
    return 1.0 if alpha is None else float(alpha) / len(down)


def patch_on(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A patch with its tensors on a device; the patch itself stays as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype)
    if isinstance(value, (tuple, list)):
        return type(value)(patch_on(part, device, dtype) for part in value)
    if hasattr(value, "weights"):
        moved = copy(value)
        moved.weights = patch_on(value.weights, device, dtype)
        return moved
    return value
