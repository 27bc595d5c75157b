"""The trained subject and its checks."""

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
from .identity_adapter import IdentityAdapter
from .placeholder import PLACEHOLDER as PLACEHOLDER
from .targets import lora_targets, spatial_blocks


@dataclass(frozen=True)
class LoRAFactors:
    """Low-rank change of one linear layer, ``W = W0 + strength · up @ down`` (paper, eq. 2)."""

    down: torch.Tensor
    """``(rank, in)``"""
    up: torch.Tensor
    """``(out, rank)``"""

    @property
    def rank(self) -> int:
        """The rank of the change."""
        return self.down.shape[0]


@dataclass(frozen=True)
class Subject:
    """A subject: LoRA factors by layer name, the learned token V*, and how it was trained.

    A subject trained by a baseline may have identity adapters, by block name, instead of factors, or only a token.
    """

    factors: Mapping[str, LoRAFactors]
    embedding: torch.Tensor
    """V*, one or more rows ``(n, d)`` of the text encoder's token table."""
    placeholder: str = PLACEHOLDER
    class_word: str = ""
    steps: int = 0
    base: str = ""
    """The base model's fingerprint; empty if unknown."""
    recommended: TwoPhase = field(default_factory=TwoPhase)
    training: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    """A small PNG; may be empty."""
    adapters: Mapping[str, IdentityAdapter] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank of any layer."""
        return max((factors.rank for factors in self.factors.values()), default=0)

    @property
    def trigger(self) -> str:
        """What to write in prompts, such as ``<new1> teddy bear``."""
        return f"{self.placeholder} {self.class_word}".strip()

    def called(self, placeholder: str) -> Subject:
        """The same subject with another token, so that one prompt can use two subjects.

        Raises:
            InputError: the token is invalid.
        """
        check_placeholder(placeholder)
        return replace(self, placeholder=placeholder)


def check_fits(subject: Subject, model: VideoCrafter2, *, any_base: bool = False) -> None:
    """Refuse a subject that was not trained on this base model.

    Args:
        subject: the subject.
        model: the base model.
        any_base: accept another base model with the same layer sizes, such as a fine-tune.

    Raises:
        InputError: layers or widths differ, or the base model is another one.
    """
    _check_layers(subject, model.unet)
    width = model.config.text.hidden_size
    if subject.embedding.shape[1] != width:
        raise InputError(
            expected=f"a learned token of width {width}, the base model's",
            found=f"one of width {subject.embedding.shape[1]}",
            remedy="Use the base model this subject was trained on.",
        )
    if subject.base and not any_base and not same_base(subject.base, model.fingerprint):
        raise InputError(
            expected="a subject trained on this base model",
            found=f"{subject.trigger}, trained on another base model with the same layer sizes",
            remedy="Load the base model it was trained on, or turn on any_base to try it with this one.",
        )


def _check_layers(subject: Subject, unet: UNet3DConditionModel) -> None:
    targets, blocks = lora_targets(unet), spatial_blocks(unet)
    unknown = sorted({*(set(subject.factors) - set(targets)), *(set(subject.adapters) - set(blocks))})
    if unknown:
        raise InputError(
            expected="weights for the spatial attention of this base model",
            found=f"weights for layers it does not have: {some_names(unknown)}",
            remedy="Use the base model this subject was trained on.",
        )
    found: dict[str, tuple[int, ...]] = {
        name: (pair.up.shape[0], pair.down.shape[1]) for name, pair in subject.factors.items()
    }
    found |= {name: tuple(adapter.up_bias.shape) for name, adapter in subject.adapters.items()}
    own = {name: tuple(targets[name].weight.shape) for name in subject.factors}
    own |= {name: tuple(blocks[name].norm2.weight.shape) for name in subject.adapters}
    wrong = [
        f"{name} {_shape(found[name])} instead of {_shape(own[name])}" for name in found if found[name] != own[name]
    ]
    if wrong:
        raise InputError(
            expected="weights with the widths of this base model's layers",
            found=some_names(wrong, 3),
            remedy="Use the base model this subject was trained on.",
        )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def check_tensors(
    factors: Mapping[str, LoRAFactors], embedding: torch.Tensor, adapters: Mapping[str, IdentityAdapter] | None = None
) -> None:
    """Refuse inconsistent tensors, an empty token, NaN and infinity.

    Raises:
        InputError: the message names the tensors.
    """
    adapters = adapters or {}
    for name, pair in factors.items():
        if pair.down.ndim != 2 or pair.up.ndim != 2 or pair.up.shape[1] != pair.down.shape[0] or not pair.rank:
            raise InputError(
                expected="the same rank in both factors of a layer",
                found=f"{name} with down {tuple(pair.down.shape)} and up {tuple(pair.up.shape)}",
                remedy="The file is damaged or was merged from two different ones; export it again.",
            )
    odd = [name for name, adapter in adapters.items() if not adapter.is_consistent()]
    if odd:
        raise InputError(
            expected="identity adapters with consistent widths",
            found=f"inconsistent shapes in {some_names(odd)}",
            remedy="The file is damaged; save the subject again.",
        )
    if embedding.ndim != 2 or not embedding.shape[0]:
        raise InputError(
            expected="a learned token of shape (n, width)",
            found=f"shape {tuple(embedding.shape)}",
            remedy="Train the subject again.",
        )
    tensors: Iterable[tuple[str, torch.Tensor]] = [
        ("the learned token", embedding),
        *((f"{name} {part}", getattr(pair, part)) for name, pair in factors.items() for part in ("down", "up")),
        *((f"{name} {part}", value) for name, one in adapters.items() for part, value in one.tensors().items()),
    ]
    broken = [name for name, tensor in tensors if not tensor.is_floating_point() or not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            expected="finite numbers in the subject",
            found=f"NaN, infinity or integers in {some_names(broken)}",
            remedy="Either its training diverged (try a lower learning rate) or the file is damaged.",
        )
