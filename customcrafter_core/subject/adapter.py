"""Attaches subjects to the UNet: their strength can change between steps, the base weights never do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from diffusers import UNet3DConditionModel
from torch import nn
from torch.nn.utils import parametrize

from .identity_adapter import adapters_attached
from .subject import LoRAFactors, Subject


class AttachedSubjects:
    """Subjects attached to a UNet; `set_strengths` scales each of them."""

    def __init__(self, cells: Sequence[list[float]]) -> None:
        """Args:
        cells: the strength of each subject, shared by everything the subject changes.
        """
        self._cells = cells

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strength of each subject."""
        return tuple(strength for cell in self._cells for strength in cell)

    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Set one strength for each subject; at strength 0 a subject takes no part in the forward pass."""
        for cell, strength in zip(self._cells, strengths, strict=True):
            cell[0] = strength


class LowRankChange(nn.Module):
    """A weight plus the changes of subjects, each at its strength, recomputed whenever the layer uses it.

    Adding to the weight costs less than adding to the layer's output, which has far more rows.
    """

    def __init__(self, changes: Sequence[tuple[list[float], torch.Tensor, torch.Tensor]]) -> None:
        """Args:
        changes: for each subject the cell with its strength, ``up (out, rank)`` and ``down (rank, in)``.
        """
        super().__init__()
        self._changes = tuple(changes)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight ``(out, in)``; the same tensor object if every strength is 0."""
        for (strength,), up, down in self._changes:
            if strength != 0:
                weight = torch.addmm(weight, up, down, alpha=strength)
        return weight


@contextmanager
def attached(unet: UNet3DConditionModel, subjects: Sequence[Subject]) -> Iterator[AttachedSubjects]:
    """Attach subjects, at strength 0, within the context; on exit, even after an error, the UNet is as it was.

    Weights created in torch's inference mode can only be changed in that mode.
    """
    cells = [[0.0] for _ in subjects]
    with ExitStack() as stack:
        for name in {name: None for subject in subjects for name in subject.factors}:
            layer = unet.get_submodule(name)
            changes = [
                (cell, *_on_unet(subject.factors[name], unet))
                for cell, subject in zip(cells, subjects, strict=True)
                if name in subject.factors
            ]
            stack.callback(_restore, layer)
            parametrize.register_parametrization(layer, "weight", LowRankChange(changes))
        for subject, cell in zip(subjects, cells, strict=True):
            adapters = {name: one.to(unet.device, unet.dtype) for name, one in subject.adapters.items()}
            stack.enter_context(adapters_attached(unet, adapters, cell))
        yield AttachedSubjects(cells)


def _on_unet(pair: LoRAFactors, unet: UNet3DConditionModel) -> tuple[torch.Tensor, torch.Tensor]:
    return pair.up.to(unet.device, unet.dtype), pair.down.to(unet.device, unet.dtype)


def _restore(layer: nn.Module) -> None:
    if parametrize.is_parametrized(layer, "weight"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
