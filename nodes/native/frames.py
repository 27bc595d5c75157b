"""The image autoencoder as a VAE that encodes and decodes whole videos, a few frames at a time."""

from __future__ import annotations

from typing import Any

import comfy.model_management as memory
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL as HostAutoencoder
from comfy.model_patcher import ModelPatcher
from diffusers import AutoencoderKL
from torch import nn

from ...customcrafter_core.base_model.model import VideoCrafter2, frames_at_once
from .. import host
from .layers import use_host_layers

# The smallest autoencoder that the host builds: it only carries the host's own VAE object until ours takes its place.
STAND_IN = {
    "ddconfig": {"double_z": True, "z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3, "ch": 32,
                 "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
    "embed_dim": 4,
}  # fmt: skip
DECODE_BYTES, ENCODE_BYTES = 2178 * 64, 1767  # per latent position and per pixel, the host's own estimate


class FrameByFrame(nn.Module):
    """An image autoencoder with time folded into the batch."""

    def __init__(self, vae: AutoencoderKL, unit: int) -> None:
        """Args:
        vae: the autoencoder.
        unit: pixels behind one latent position, along each side.
        """
        super().__init__()
        self.vae, self.unit = vae, unit

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images or videos ``(b, 3, [t,] h, w)``, -1 … 1, to latents ``(b, c, [t,] h, w)``: the most likely ones."""
        return _some_at_once(pixels, self.unit, lambda frames: self.vae.encode(frames).latent_dist.mode())

    def decode(self, latent: torch.Tensor, **_: Any) -> torch.Tensor:
        """Latents ``(b, c, [t,] h, w)`` to images or videos ``(b, 3, [t,] h, w)``, -1 … 1."""
        return _some_at_once(latent, 1, lambda frames: self.vae.decode(frames).sample)


def _some_at_once(x: torch.Tensor, unit: int, apply: Any) -> torch.Tensor:
    folded = x.movedim(2, 1).flatten(0, 1) if x.ndim == 5 else x
    height, width = x.shape[-2] // unit, x.shape[-1] // unit
    result = torch.cat([apply(frames) for frames in folded.split(frames_at_once(height, width))])
    return result.unflatten(0, (x.shape[0], x.shape[2])).movedim(1, 2) if x.ndim == 5 else result


def make_vae(base: VideoCrafter2, dtype: torch.dtype | None) -> comfy.sd.VAE:
    """A VAE around the autoencoder of a loaded base model, which is taken over.

    Args:
        base: its autoencoder in float32.
        dtype: float32, or by default what the host prefers; half precision has too small a range here.
    """
    stand_in = HostAutoencoder(**STAND_IN).state_dict()
    vae = comfy.sd.VAE(sd=stand_in, config={"params": STAND_IN}, dtype=dtype)
    network = FrameByFrame(base.vae, base.config.pixels_per_latent).to(vae.vae_dtype).eval()
    use_host_layers(network, host.layers_for(vae.vae_dtype, None))
    vae.first_stage_model = network
    vae.patcher = ModelPatcher(network, load_device=vae.device, offload_device=memory.vae_offload_device())
    vae.size = None

    unit = base.config.pixels_per_latent
    vae.latent_dim, vae.latent_channels = 3, base.config.vae.latent_channels
    vae.upscale_ratio = vae.downscale_ratio = (lambda frames: frames, unit, unit)
    vae.upscale_index_formula = vae.downscale_index_formula = (1, unit, unit)
    vae.memory_used_decode = lambda shape, kind: DECODE_BYTES * _at_once(shape, 1) * memory.dtype_size(kind)
    vae.memory_used_encode = lambda shape, kind: ENCODE_BYTES * _at_once(shape, unit) * memory.dtype_size(kind)
    return vae


def _at_once(shape: tuple[int, ...], unit: int) -> int:
    """Positions, or pixels, that go through the autoencoder together."""
    height, width = shape[-2:]
    return height * width * frames_at_once(height // unit, width // unit)
