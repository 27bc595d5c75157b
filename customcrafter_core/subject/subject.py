"""What a learned subject is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import UNet3DConditionModel

from ..base_model.fingerprint import same_base
from ..base_model.model import VideoCrafter2
from ..base_model.text import check_placeholder
from ..diffusion.strength import TwoPhase
from ..errors import InputError, some_names
from .targets import lora_targets

PLACEHOLDER = "<new1>"


@dataclass(frozen=True)
class LoRAFactors:
    """Low-rank change of one linear layer, ``W = W0 + strength · up @ down`` (paper, eq. 2)."""

    down: torch.Tensor
    """``(rank, in)``"""
    up: torch.Tensor
    """``(out, rank)``"""

    @property
    def rank(self) -> int:
        """Inner width."""
        return self.down.shape[0]


@dataclass(frozen=True)
class Subject:
    """A subject: LoRA factors by layer name, the learned token V*, and how it came about."""

    factors: Mapping[str, LoRAFactors]
    embedding: torch.Tensor
    """V*, one or more rows ``(n, d)`` of the text encoder's token table."""
    placeholder: str = PLACEHOLDER
    class_word: str = ""
    steps: int = 0
    base: str = ""
    """Fingerprint of the base model, empty if unknown."""
    recommended: TwoPhase = field(default_factory=TwoPhase)
    training: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    """A small PNG, or nothing."""

    @property
    def rank(self) -> int:
        """Largest rank of all layers."""
        return max((factors.rank for factors in self.factors.values()), default=0)

    @property
    def trigger(self) -> str:
        """How the subject is called in a prompt, such as ``<new1> teddy bear``."""
        return f"{self.placeholder} {self.class_word}".strip()

    def called(self, placeholder: str) -> Subject:
        """The same subject under another token, so that two subjects fit into one prompt.

        Raises:
            InputError: the token is not usable.
        """
        check_placeholder(placeholder)
        return replace(self, placeholder=placeholder)


def check_fits(subject: Subject, model: VideoCrafter2, *, any_base: bool = False) -> None:
    """Refuse a subject that was not learned on this base model.

    Args:
        subject: the subject.
        model: the base model.
        any_base: accept other weights of the same widths, such as a fine-tune of the base.

    Raises:
        InputError: layers or widths differ, or the weights are those of another base.
    """
    _check_layers(subject, model.unet)
    width = model.geometry.text.width
    if subject.embedding.shape[1] != width:
        raise InputError(
            expected=f"a learned token of width {width}, the base model's",
            found=f"one of width {subject.embedding.shape[1]}",
            remedy="Use the base model this subject was trained on.",
        )
    if subject.base and not any_base and not same_base(subject.base, model.fingerprint):
        raise InputError(
            expected="a subject trained on this base model",
            found=f"{subject.trigger}, trained on other weights of the same widths",
            remedy="Load the base model it was trained on, or allow any base to try it on this one.",
        )


def _check_layers(subject: Subject, unet: UNet3DConditionModel) -> None:
    targets = lora_targets(unet)
    unknown = sorted(set(subject.factors) - set(targets))
    if unknown:
        raise InputError(
            expected="LoRA factors for the spatial attention of this base model",
            found=f"factors for layers it does not have: {some_names(unknown)}",
            remedy="Use the base model this subject was trained on.",
        )
    wrong = []
    for name, factors in subject.factors.items():
        found, width = (factors.up.shape[0], factors.down.shape[1]), tuple(targets[name].weight.shape)
        if found != width:
            wrong.append(f"{name} {found[0]}x{found[1]} instead of {width[0]}x{width[1]}")
    if wrong:
        raise InputError(
            expected="LoRA factors as wide as this base model's layers",
            found=some_names(wrong, 3),
            remedy="Use the base model this subject was trained on.",
        )


def check_factors(factors: Mapping[str, LoRAFactors], embedding: torch.Tensor) -> None:
    """Refuse factors that do not fit each other, an empty token table, NaN and infinity.

    Raises:
        InputError: it names the tensors.
    """
    for name, pair in factors.items():
        if pair.down.ndim != 2 or pair.up.ndim != 2 or pair.up.shape[1] != pair.down.shape[0] or not pair.rank:
            raise InputError(
                expected="one rank in both factors of a layer",
                found=f"{name} with down {tuple(pair.down.shape)} and up {tuple(pair.up.shape)}",
                remedy="The file is damaged or was put together from two; export it again.",
            )
    if embedding.ndim != 2 or not embedding.shape[0]:
        raise InputError(
            expected="a learned token (n, width)",
            found=f"a tensor {tuple(embedding.shape)}",
            remedy="Train the subject again.",
        )
    tensors: Iterable[tuple[str, torch.Tensor]] = [
        ("the learned token", embedding),
        *((f"{name} {part}", getattr(pair, part)) for name, pair in factors.items() for part in ("down", "up")),
    ]
    broken = [name for name, tensor in tensors if not tensor.is_floating_point() or not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            expected="finite numbers in the subject",
            found=f"NaN, infinity or integers in {some_names(broken)}",
            remedy="Its training went wrong (try a lower learning rate) or the file is damaged.",
        )
