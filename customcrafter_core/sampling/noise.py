"""The noise of a run, which depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class SeededNoise:
    """Standard normal noise that depends on the seed alone: drawn on the CPU, one stream for each video of a batch."""

    def __init__(
        self, shape: tuple[int, ...], seed: int, device: torch.device, videos: Sequence[int] | None = None
    ) -> None:
        """Args:
        shape: of the latent, ``(b, c, t, h, w)``.
        seed: video number ``n`` uses ``seed + n``, modulo 2**64.
        device: where the noise goes.
        videos: number of each video; by default 0, 1, ...
        """
        self._shape, self._device = shape[1:], device
        numbers = range(shape[0]) if videos is None else videos
        self._generators = [torch.Generator().manual_seed((seed + n) % 2**64) for n in numbers]

    def __call__(self) -> torch.Tensor:
        """The next draw, ``(b, c, t, h, w)``."""
        draws = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        noise = torch.stack(draws)
        if self._device.type == "cuda":  # copied while the GPU works
            return noise.pin_memory().to(self._device, non_blocking=True)
        return noise.to(self._device)

    def of_step(self, step: int) -> torch.Tensor:
        """The draw that a step adds; a run asks for ``x_T`` first, then for one step after another."""
        return self()
