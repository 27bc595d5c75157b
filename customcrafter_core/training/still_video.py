"""Photos as still videos in latent space (paper: each photo repeated N times)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..base_model.model import VideoCrafter2

IMAGES_AT_ONCE = 4


@dataclass(frozen=True)
class StillVideos:
    """Latent distributions of photos, each encoded once; a frame is a fresh draw from its photo's distribution."""

    mean: torch.Tensor
    """``(n, c, h, w)``"""
    std: torch.Tensor
    """``(n, c, h, w)``"""

    @classmethod
    @torch.no_grad()
    def encode(cls, model: VideoCrafter2, images: torch.Tensor) -> StillVideos:
        """Encode images ``(n, 3, h, w)``, values -1 … 1; kept on the CPU in float32."""
        moments = [model.encode_moments(chunk) for chunk in images.split(IMAGES_AT_ONCE)]
        mean, std = (torch.cat(parts).float().cpu() for parts in zip(*moments, strict=True))
        return cls(mean, std)

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, index: torch.Tensor, frames: int, generator: torch.Generator) -> torch.Tensor:
        """Draw still videos.

        Args:
            index: which photos ``(b,)``.
            frames: frames of each video.
            generator: of the draws, on the CPU.

        Returns:
            Latents ``(b, c, t, h, w)``.
        """
        mean, std = self.mean[index].unsqueeze(2), self.std[index].unsqueeze(2)
        b, c, _, h, w = mean.shape
        return mean + std * torch.randn(b, c, frames, h, w, generator=generator)
