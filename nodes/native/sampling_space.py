"""VideoCrafter2's noise schedule in the form the host samples in."""

from __future__ import annotations

import torch
from comfy.model_sampling import EPS, ModelSamplingDiscrete, reshape_sigma

from ...customcrafter_core.diffusion.ddim import Level, level_of
from ...customcrafter_core.diffusion.schedule import NoiseSchedule

ON_TABLE = 1e-5  # a sigma this near (in log) to one of the schedule's is that one


class VideoCrafter2Sampling(ModelSamplingDiscrete, EPS):
    """``x' = x_t / signal = x0 + sigma · eps`` with ``sigma = noise / signal``, 0.029 … 20.9 over t = 0 … 999.

    The host's samplers work on ``x'``; the network is given ``x_t`` again by `calculate_input`.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.set_sigmas(schedule.noise / schedule.signal)
        self.register_buffer("log_signal", schedule.signal.log().float())

    def signal(self, sigma: torch.Tensor) -> torch.Tensor:
        """Factor of ``x0`` in ``x_t``, by log-log interpolation; same shape as ``sigma``."""
        table, values = self.log_sigmas.to(sigma.device), self.log_signal.to(sigma.device)
        at = sigma.float().log().clamp(table[0], table[-1])
        right = torch.searchsorted(table, at).clamp(1, len(table) - 1)
        share = (at - table[right - 1]) / (table[right] - table[right - 1])
        return torch.lerp(values[right - 1], values[right], share).exp()

    def level(self, sigma: float) -> Level:
        """Noise level of a sigma in double precision; 0 is VideoCrafter2's last level, timestep 0."""
        if sigma <= 0:
            return level_of(self.schedule, 0)
        distance = (self.log_sigmas.cpu().double() - torch.tensor(sigma, dtype=torch.float64).log()).abs()
        if float(distance.min()) < ON_TABLE:
            return level_of(self.schedule, int(distance.argmin()))
        signal = float(self.signal(torch.tensor(sigma)))
        return Level(alpha=max(1.0 - (sigma * signal) ** 2, 1e-12), signal=signal)

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``x_t`` for the network from ``x'``."""
        return noise * reshape_sigma(self.signal(sigma), noise.ndim)

    def noise_scaling(
        self, sigma: torch.Tensor, noise: torch.Tensor, latent_image: torch.Tensor, max_denoise: bool = False
    ) -> torch.Tensor:
        """Noise a latent; from an empty one sampling starts at ``x_T = noise``, as VideoCrafter2 does."""
        if not latent_image.any():
            return noise / reshape_sigma(self.signal(sigma), noise.ndim)
        return latent_image + noise * reshape_sigma(sigma, noise.ndim)
