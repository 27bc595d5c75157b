"""VideoCrafter2's noise schedule, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ..errors import InputError

TRAIN_TIMESTEPS = 1000
STEPS = 50  # of a DDIM run; the paper's value and that of VideoCrafter2's text-to-video script, the default everywhere
BETA_START, BETA_END = 0.00085, 0.012
SCALE_END, SCALE_TIMESTEPS = 0.7, 400


@dataclass(frozen=True)
class NoiseSchedule:
    """``x_t = scale_t · sqrt(abar_t) · x_0 + sqrt(1 - abar_t) · eps``, float64 tables over t = 0 … 999.

    The scale falls from 1 to 0.7 over t = 0 … 399 and stays: VideoCrafter2 shrinks the signal, not the noise.
    """

    alphas_cumprod: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def videocrafter2(cls) -> NoiseSchedule:
        """The schedule of VideoCrafter2: scaled-linear betas and the dynamic rescaling of its version 2."""
        betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
        falling = torch.linspace(1.0, SCALE_END, SCALE_TIMESTEPS, dtype=torch.float64)
        flat = torch.full((TRAIN_TIMESTEPS - SCALE_TIMESTEPS,), SCALE_END, dtype=torch.float64)
        return cls(torch.cumprod(1.0 - betas, 0), torch.cat([falling, flat]))

    @cached_property
    def signal(self) -> torch.Tensor:
        """Factor of ``x_0`` in ``x_t``, per timestep ``(1000,)``."""
        return self.scale * self.alphas_cumprod.sqrt()

    @cached_property
    def noise(self) -> torch.Tensor:
        """Factor of the noise in ``x_t``, per timestep ``(1000,)``."""
        return (1.0 - self.alphas_cumprod).sqrt()

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noise a clean latent.

        Args:
            x0: latent ``(b, c, t, h, w)``.
            noise: the same shape.
            timesteps: ``(b,)``, 0 … 999.

        Returns:
            ``x_t`` in the shape and dtype of ``x0``.
        """
        shape = (-1,) + (1,) * (x0.ndim - 1)
        index = timesteps.to(self.signal.device)
        signal = self.signal[index].to(x0).reshape(shape)
        sigma = self.noise[index].to(x0).reshape(shape)
        return signal * x0 + sigma * noise

    def ddim_timesteps(self, steps: int) -> list[int]:
        """Timesteps of a DDIM run, from high to low; uniform as in VideoCrafter2: 1, 21, …, 981 for 50 steps.

        The spacing is ``1000 // steps``, so the list can be longer than asked (30 gives 31). Everything that counts
        steps, K of the paper's Algorithm 1 included, counts on this list.

        Raises:
            InputError: ``steps`` is not within 1 … 1000.
        """
        if not 1 <= steps <= TRAIN_TIMESTEPS:
            raise InputError(
                expected=f"1 to {TRAIN_TIMESTEPS} sampling steps",
                found=f"{steps}",
                remedy=f"{STEPS} is the paper's value.",
            )
        uniform = range(1, TRAIN_TIMESTEPS + 1, TRAIN_TIMESTEPS // steps)
        return [t for t in reversed(uniform) if t < TRAIN_TIMESTEPS]
