"""What a finished clip shows: the clean clip nearest to it says how it moves and which look it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .world import World


@dataclass(frozen=True)
class Seen:
    """Of each clip ``(b,)``."""

    moves: torch.Tensor
    """Whether it moves as asked."""
    identity: torch.Tensor
    """Share of the look, by energy, that is the subject's, less the share that is not: 1 all of it, 0 chance."""
    blur: torch.Tensor
    """Squared distance to the nearest clean clip, relative to that clip's energy: 0 is a clean clip."""


def measure(world: World, x: torch.Tensor, asked: str, look: torch.Tensor) -> Seen:
    """Measure clips.

    Args:
        world: its clips.
        x: clips ``(b, r)``.
        asked: the motion that was asked for.
        look: signs of the subject's parts ``(b, n)``.
    """
    on_base, on_parts = world.products(x)
    beyond = on_parts - world.base_on_part
    # |x - base - Σ sign·part|² for each path, with the signs that make it smallest
    energy = world.base_energy + world.part_energy.sum(1)
    distance = x.square().sum(1, keepdim=True) - 2 * on_base + energy - 2 * beyond.abs().sum(2)
    nearest = distance.argmin(1)
    signs = beyond[torch.arange(len(x)), nearest].sign()
    sizes = world.part_energy[nearest]
    clip_energy = energy[nearest] + 2 * (signs * world.base_on_part[nearest]).sum(1)
    return Seen(
        world.of(asked)[nearest],
        (signs * look * sizes).sum(1) / sizes.sum(1),
        distance.min(1).values.clamp(min=0) / clip_energy,
    )
