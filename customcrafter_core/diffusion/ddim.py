"""DDIM as VideoCrafter2 samples, with the strength of the subject set before each step (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import InputError
from .schedule import NoiseSchedule

ETA = 1.0  # VideoCrafter2's text-to-video script runs with this; the default everywhere

Denoise = Callable[[torch.Tensor, int, int], torch.Tensor]
"""``(x_t (b, c, t, h, w), timestep, step) -> predicted noise`` of the same shape."""

NoiseSource = Callable[[], torch.Tensor]
"""Gives the next draw of standard normal noise, in the latent's shape."""


@dataclass(frozen=True)
class Level:
    """Noise level of one timestep: ``x = signal · x0 + noise · eps``; ``alpha`` is abar without the scale."""

    alpha: float
    signal: float

    @property
    def noise(self) -> float:
        """Factor of the noise."""
        return math.sqrt(max(1.0 - self.alpha, 0.0))


CLEAN = Level(1.0, 1.0)


@dataclass(frozen=True)
class DDIMStep:
    """What a callback sees after each step: ``x0`` is the predicted clean latent ``(b, c, t, h, w)``."""

    step: int
    steps: int
    timestep: int
    x0: torch.Tensor


def ddim_levels(schedule: NoiseSchedule, timesteps: list[int], exact_tail: bool) -> list[Level]:
    """Levels a run passes through, one more than steps.

    VideoCrafter2 ends at timestep 0, which leaves noise of amplitude 0.029 in the latent; ``exact_tail`` ends at the
    clean latent instead.
    """
    tail = CLEAN if exact_tail else level_of(schedule, 0)
    return [*(level_of(schedule, timestep) for timestep in timesteps), tail]


def level_of(schedule: NoiseSchedule, timestep: int) -> Level:
    """Noise level of a timestep."""
    return Level(float(schedule.alphas_cumprod[timestep]), float(schedule.signal[timestep]))


def ddim_sigma(level: Level, following: Level, eta: float) -> float:
    """Standard deviation of the noise a step adds (DDIM, eq. 16), on abar without the scale as VideoCrafter2 does."""
    ratio = (1 - following.alpha) / (1 - level.alpha) * (1 - level.alpha / following.alpha)
    return eta * math.sqrt(max(ratio, 0.0))


def ddim_step(
    x: torch.Tensor,
    eps: torch.Tensor,
    now: Level,
    following: Level,
    *,
    eta: float,
    noise: NoiseSource,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of DDIM.

    Args:
        x: ``x_t`` at the level ``now``.
        eps: the noise predicted in it.
        now: level of ``x``.
        following: level to go to.
        eta: 0 is deterministic, 1 as noisy as the DDPM.
        noise: gives the noise that the step adds; not called where none is added.

    Returns:
        ``x`` at the level ``following``, and the predicted clean latent.
    """
    sigma = ddim_sigma(now, following, eta)
    x0 = (x - now.noise * eps) / now.signal
    x = following.signal * x0 + math.sqrt(max(1 - following.alpha - sigma**2, 0.0)) * eps
    if sigma > 0:
        x = x + sigma * noise()
    return x, x0


def check_eta(eta: float) -> None:
    """Refuse more noise than the DDPM adds, and less than none.

    Raises:
        InputError: ``eta`` is not a finite number from 0 to 1.
    """
    if not 0 <= eta <= 1:
        raise InputError(expected="eta from 0 to 1", found=f"{eta}", remedy=f"VideoCrafter2 samples at {ETA:g}.")


def ddim_sample(
    denoise: Denoise,
    latent: torch.Tensor,
    schedule: NoiseSchedule,
    timesteps: list[int],
    *,
    noise: NoiseSource,
    eta: float = ETA,
    exact_tail: bool = False,
    on_step: Callable[[DDIMStep], None] | None = None,
) -> torch.Tensor:
    """Sample by DDIM.

    Args:
        denoise: predicts the noise; it is told the step, so that it can set the subject's strength.
        latent: ``x_T``, standard normal noise ``(b, c, t, h, w)``.
        schedule: the noise schedule.
        timesteps: from high to low, `NoiseSchedule.ddim_timesteps`.
        noise: gives the noise that a step adds; not called where none is added.
        eta: 0 is deterministic, 1 as noisy as the DDPM.
        exact_tail: end at the clean latent instead of timestep 0.
        on_step: called after each step; an exception it raises ends the run.

    Returns:
        The latent ``(b, c, t, h, w)``.

    Raises:
        InputError: ``eta`` is not a finite number from 0 to 1.
    """
    check_eta(eta)
    levels = ddim_levels(schedule, timesteps, exact_tail)
    x = latent
    for step, timestep in enumerate(timesteps):
        eps = denoise(x, timestep, step)
        x, x0 = ddim_step(x, eps, levels[step], levels[step + 1], eta=eta, noise=noise)
        if on_step is not None:
            on_step(DDIMStep(step, len(timesteps), timestep, x0))
    return x
