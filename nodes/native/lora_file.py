"""What a LoRA changes in a model, by the host's own reading of LoRA files, checked before anything is sampled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...customcrafter_core.errors import InputError, some_names
from .output_branch import goes_beside, holds_bytes, shape_of

log = logging.getLogger(__name__)

Patches = Mapping[Any, Any]
"""The host's LoRA patches: weight name, or (name, offset, function), -> patch."""


def parts_of(target: Any) -> tuple[str, Any, Any]:
    """Weight, offset and function of a patch's target."""
    if not isinstance(target, tuple):
        return target, None, None
    return target if len(target) == 3 else (*target, None)


def lora_patches(model: ModelPatcher, tensors: Mapping[str, torch.Tensor], name: str) -> Patches:
    """What a LoRA file changes in a model.

    Raises:
        InputError: no name in it fits the model, a size does not, or a layer cannot take its change while it samples.
    """
    kind = type(model.model).__name__
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    tensors = comfy.lora_convert.convert_lora(dict(tensors))
    patches = comfy.lora.load_lora(tensors, names, log_missing=False)
    patches = {target: patch for target, patch in patches.items() if _can_change(model, parts_of(target)[0])}
    if not patches:
        raise InputError(
            expected=f"a LoRA for {kind}",
            found=f"{name}, of whose names none fits what can change while it samples: {some_names(list(tensors), 3)}",
            remedy="Choose a LoRA that was made for this model.",
        )
    values = [value for key, value in tensors.items() if not key.endswith(".alpha")]
    taken = {id(value) for patch in patches.values() for value in _tensors_of(patch)}
    count = sum(id(value) in taken for value in values)
    if count < len(values):
        log.warning(
            "%s: %d of %d tensors are used; the others (of a text encoder or of other layers) fit nothing that can change "
            "while %s samples.",
            name, count, len(values), kind,
        )  # fmt: skip
    for target, patch in patches.items():
        _check(model, name, target, patch)
    return patches


def _check(model: ModelPatcher, name: str, target: Any, patch: Any) -> None:
    """Raises:
    InputError: a patch does not fit its weight, changes its shape, or cannot change while the model samples.
    """
    key, offset, function = parts_of(target)
    layer, weight, kind = _layer_of(model, key)
    shape = shape_of(layer, weight, kind)
    if holds_bytes(layer, kind) and not goes_beside(layer, kind, patch, offset, function):
        raise InputError(
            expected=f"a plain LoRA for {key}, whose layer holds its weight in a format of its own (GGUF and others)",
            found=f"{name}, which changes it in another way (as a LoHa, LoKr, DoRA or difference)",
            remedy="Load the model in fp16 or fp8, or use two KSampler Advanced, one of them behind Load LoRA.",
        )
    changed = _shape_with(shape, key, patch, offset, function)
    if changed is None:
        raise InputError(
            expected=f"a LoRA for {type(model.model).__name__}",
            found=f"{name}, whose sizes do not fit {key} of {shape}",
            remedy="Choose a LoRA that was made for this model.",
        )
    if changed != shape:
        raise InputError(
            expected="a LoRA that leaves the model's shapes as they are",
            found=f"{name}, which makes {key} of {shape} one of {changed}: that cannot follow the steps",
            remedy="Use Load LoRA for it.",
        )


def _layer_of(model: ModelPatcher, key: str) -> tuple[Any, torch.Tensor, str]:
    layer, _, kind = key.rpartition(".")
    found = model.get_model_object(layer)
    return found, getattr(found, kind), kind


def _can_change(model: ModelPatcher, key: str) -> bool:
    """Whether a weight is in the model, and its layer asks for changes of it or has an output to change.

    The host's own layers ask, for ``weight`` and ``bias`` only.
    """
    try:
        layer, weight, kind = _layer_of(model, key)
    except (AttributeError, IndexError, KeyError):
        return False
    if not isinstance(weight, torch.Tensor):
        return False
    return (kind in ("weight", "bias") and hasattr(layer, f"{kind}_function")) or holds_bytes(layer, kind)


def _tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.weights if hasattr(value, "weights") else value
    return [found for part in parts for found in _tensors_of(part)] if isinstance(parts, (tuple, list)) else []


def _shape_with(shape: tuple[int, ...], key: str, patch: Any, offset: Any, function: Any) -> tuple[int, ...] | None:
    """The shape of a weight with a patch; None if it cannot be applied: the host only logs that, and samples without it.

    The host's own computation runs without numbers; it reaches ``function`` only with a change of the weight's shape.
    """
    reached = []

    def reach(change: torch.Tensor) -> torch.Tensor:
        reached.append(True)
        return change if function is None else function(change)

    def tried(device: str) -> tuple[int, ...] | None:
        blank = torch.zeros(shape, device=device)
        try:
            changed = comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, reach)], blank, key)
        except (RuntimeError, IndexError, ValueError):
            return None
        done = bool(reached) or (isinstance(patch, tuple) and patch[0] == "set")
        return tuple(changed.shape) if done else None

    return tried("meta") or tried("cpu")  # some adapters need numbers


def same_as_carried(model: ModelPatcher, patches: Patches, others: list[Patches]) -> bool:
    """Whether the same LoRA is on a model already, by the host's loader or in one of ``others``."""
    target, patch = next(iter(patches.items()))
    key = parts_of(target)[0]
    known = [one[1] for one in model.patches.get(key, [])] + [one[target] for one in others if target in one]
    mine = _tensors_of(patch)
    return any(
        len(theirs) == len(mine) and all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(mine, theirs, strict=True))
        for theirs in map(_tensors_of, known)
    )
