"""DDIM as VideoCrafter2 samples (Song et al. 2021, https://arxiv.org/abs/2010.02502), one step at a time.

`ddim_steps` is the only sampling loop here; whoever samples by DDIM iterates over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..errors import InputError
from .schedule import NoiseSchedule

ETA = 1.0  # VideoCrafter2's text-to-video script runs with this; the default everywhere


@dataclass(frozen=True)
class Prediction:
    """Noise predicted in one noisy latent, each part in its shape ``(b, c, t, h, w)``."""

    eps: torch.Tensor
    """What the step follows: with guidance ``uncond + cfg · (cond - uncond)``."""
    cond: torch.Tensor | None = None
    """With the prompt; None if it was not told apart."""
    uncond: torch.Tensor | None = None
    """With the negative prompt; None if it was not told apart or not made."""


Predict = Callable[[torch.Tensor, int], Prediction]
"""``(x_t (b, c, t, h, w), step) -> Prediction``."""

StepNoise = Callable[[int], torch.Tensor]
"""``step -> standard normal noise (b, c, t, h, w)`` that it adds; steps ask for it in their order, once each."""


@dataclass(frozen=True)
class Level:
    """Noise level of one timestep: ``x = signal · x0 + noise · eps``; ``alpha`` is abar without the scale."""

    alpha: float
    signal: float

    @property
    def noise(self) -> float:
        """Factor of the noise."""
        return math.sqrt(max(1.0 - self.alpha, 0.0))

    def clean(self, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The clean latent ``x0`` that a noise ``eps`` in ``x`` implies (DDIM, eq. 9); all ``(b, c, t, h, w)``."""
        return (x - self.noise * eps) / self.signal


CLEAN = Level(1.0, 1.0)


@dataclass(frozen=True)
class DDIMStep:
    """One step that was made; all latents are ``(b, c, t, h, w)``."""

    step: int
    """Counted from 0."""
    x: torch.Tensor
    """The noisy latent before the step."""
    prediction: Prediction
    """The noise predicted in it."""
    x0: torch.Tensor
    """The clean latent that the prediction implies."""
    following: torch.Tensor
    """The latent after the step."""


def ddim_levels(schedule: NoiseSchedule, timesteps: Sequence[int], exact_tail: bool) -> list[Level]:
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
    noise: Callable[[], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of DDIM (eq. 12 of the paper; VideoCrafter2's `DDIMSampler.p_sample_ddim`).

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
    x0 = now.clean(x, eps)
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


def ddim_steps(
    predict: Predict,
    latent: torch.Tensor,
    levels: Sequence[Level],
    *,
    noise: StepNoise,
    eta: float = ETA,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[DDIMStep]:
    """Sample by DDIM.

    Args:
        predict: predicts the noise; it is told the step, so that it can set the subject's strength (Algorithm 1).
        latent: at the level of ``start``; a whole run begins with ``x_T``, standard normal noise ``(b, c, t, h, w)``.
        levels: the noise level before each step and, at the end, that of the result: `ddim_levels`.
        noise: gives the noise that a step adds; not called where none is added.
        eta: 0 is deterministic, 1 as noisy as the DDPM.
        start: the first step, counted from 0.
        stop: the step to end before; None: all are made.

    Yields:
        Each step after it was made. ``following`` of the last is the result.

    Raises:
        InputError: ``eta`` is not a finite number from 0 to 1.
    """
    check_eta(eta)
    x = latent
    for step in range(start, len(levels) - 1 if stop is None else stop):
        prediction = predict(x, step)
        following, x0 = ddim_step(
            x, prediction.eps, levels[step], levels[step + 1], eta=eta, noise=partial(noise, step)
        )
        yield DDIMStep(step, x, prediction, x0, following)
        x = following
