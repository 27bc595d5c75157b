"""VideoCrafter2 as one object, and the way between pixels and latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from einops import rearrange
from transformers import CLIPTextModel

from ..diffusion.schedule import NoiseSchedule
from ..errors import InputError
from .config import Defaults, ModelConfig

SCALE_FACTOR = 0.18215  # VideoCrafter2's factor between the autoencoder's latents and the UNet's
MAX_POSITIONS = 2560  # of latents in the autoencoder: a frame of 512x320; on a CPU more take no less time


@dataclass
class VideoCrafter2:
    """The base model: three networks, the noise schedule, and the video it was made for."""

    unet: UNet3DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    config: ModelConfig
    defaults: Defaults
    schedule: NoiseSchedule
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the UNet's weights lie."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the UNet's weights."""
        return self.unet.conv_in.weight.dtype

    def latent_shape(self, width: int, height: int, frames: int, batch: int = 1) -> tuple[int, ...]:
        """Shape ``(b, c, t, h, w)`` of the latent of a video of ``width × height`` pixels.

        Raises:
            InputError: a size is not positive or not divisible by the pixels behind one latent position.
        """
        unit = self.config.pixels_per_latent
        if min(width, height, frames, batch) < 1 or width % unit or height % unit:
            raise InputError(
                expected=f"width and height divisible by {unit}, and at least one frame and one video",
                found=f"{width}x{height}, {frames} frames, {batch} videos",
                remedy=f"Use {max(round(width / unit), 1) * unit}x{max(round(height / unit), 1) * unit}, for example.",
            )
        return (batch, self.config.vae.latent_channels, frames, height // unit, width // unit)

    def encode_moments(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of images.

        Args:
            images: ``(n, c, h, w)``, values -1 … 1.

        Returns:
            Two tensors ``(n, c, h, w)``, scaled by `SCALE_FACTOR`.
        """
        posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean * SCALE_FACTOR, posterior.std * SCALE_FACTOR

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode a latent into pixels, a few frames at a time.

        Args:
            latent: ``(b, c, t, h, w)``.

        Returns:
            ``(b, t, h, w, 3)``, float32, values 0 … 1, on the CPU.
        """
        frames = rearrange(latent / SCALE_FACTOR, "b c t h w -> (b t) c h w").to(self.vae.device, self.vae.dtype)
        chunks = frames.split(frames_at_once(*frames.shape[-2:]))
        decoded = [self.vae.decode(chunk).sample.float().cpu() for chunk in chunks]
        pixels = (torch.cat(decoded) / 2 + 0.5).clamp(0, 1)
        return rearrange(pixels, "(b t) c h w -> b t h w c", b=latent.shape[0])


def frames_at_once(height: int, width: int) -> int:
    """How many frames of ``height × width`` latent positions go through the autoencoder together."""
    return max(MAX_POSITIONS // max(height * width, 1), 1)
