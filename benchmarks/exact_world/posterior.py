"""The exact denoiser: what a network would predict that had learned its clips without fault.

For ``x = signal · x0 + noise · n`` and a prior over clips it is the mean of ``x0`` given ``x``. Given the path the parts of a
look are independent, so the sum over all ``2^n`` looks is a product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .world import World


@dataclass(frozen=True)
class Prior:
    """What a model takes to be likely before it sees anything."""

    path: torch.Tensor
    """Log probability of each path ``(p,)``."""
    look: torch.Tensor
    """Half the log odds of a part's sign being + ``(b, n)``, or ``(1, n)`` for all."""

    def towards(self, other: Prior, share: float) -> Prior:
        """The prior ``self^(1-share) · other^share``."""
        path = torch.log_softmax((1 - share) * self.path + share * other.path, 0)
        return Prior(path, (1 - share) * self.look + share * other.look)


def path_prior(world: World, shares: dict[str, float]) -> torch.Tensor:
    """Log probabilities ``(p,)`` in which each motion has its share, spread evenly over its paths."""
    each = [shares[motion] / world.motions.count(motion) for motion in world.motions]
    return torch.log(torch.tensor(each) / sum(each))


def look_prior(look: torch.Tensor, right: float) -> torch.Tensor:
    """Each part has the sign it has in ``look (b, n)`` with probability ``right``; a half is no preference."""
    return look * 0.5 * math.log(right / (1 - right))


def posterior_mean(world: World, x: torch.Tensor, signal: float, noise: float, prior: Prior) -> torch.Tensor:
    """The mean of the clean clip given a noisy one, ``(b, r)``.

    Args:
        world: its clips.
        x: noisy clips ``(b, r)``.
        signal: factor of the clean clip in them.
        noise: factor of the noise, above 0.
        prior: over paths and looks.
    """
    fit, signs = explained(world, x, signal, noise, prior.look)
    return world.clip(torch.softmax(fit + prior.path, 1), signs)


def explained(
    world: World, x: torch.Tensor, signal: float, noise: float, look: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each path says about a noisy clip, all looks considered.

    Returns:
        The log likelihood of the path ``(b, p)``, up to a constant, and given the path the mean sign of each part
        ``(b, p, n)``.
    """
    evidence = signal / noise**2
    on_base, on_parts = world.products(evidence * x)
    # given the path, half the log odds of a part's sign
    odds = on_parts.sub_(evidence * signal * world.base_on_part).add_(look[:, None])
    size = evidence * signal / 2 * (world.base_energy + world.part_energy.sum(1))
    return on_base + log_cosh(odds) - size, torch.tanh(odds)


def log_cosh(x: torch.Tensor) -> torch.Tensor:
    """``Σ log(2 cosh x)`` over the last axis, without overflow: the product is at most ``2^n``."""
    size = x.abs()
    return size.sum(-1) + size.mul_(-2).exp_().add_(1).prod(-1).log()
