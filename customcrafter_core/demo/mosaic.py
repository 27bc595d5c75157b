"""The demo's autoencoder, whose weights follow from its task: a latent position is the mean colour of 4 x 4 pixels.

It has VideoCrafter2's class and file format. The world's clips are mosaics of such squares, so it is exact and needs no
training.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from ..base_model.config import VAEConfig
from ..base_model.networks import build_vae

LATENT_FACTOR = 0.18215
"""VideoCrafter2's own factor between the autoencoder's latents and the diffusion's."""
MIX = 0.5 * torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
"""RGB to the four channels of the diffusion's latent: brightness and three differences. Its transpose takes it back.

The latent is as large as the picture, [-1, 1]. At this size the noise at t = 881 hides a motion and its opposite from each
other up to 3.3 standard deviations (8.0 at t = 681), and one mark up to 0.4 (0.9): motion is decided first.
"""
CONFIG = VAEConfig(block_out_channels=(16, 16, 16), layers_per_block=1, norm_num_groups=2)
CONSTANT = 32.0
"""Beside it the picture hardly counts in a norm's spread (0.1 %), so that norms only scale."""
LOG_VARIANCE = -30.0
_RGB = 3
_PLUS, _MINUS = slice(0, _RGB), slice(_RGB, 2 * _RGB)


def cells_to_latents(cells: torch.Tensor) -> torch.Tensor:
    """Colours of cells ``(b, f, h, w, 3)`` in [-1, 1] to diffusion latents ``(b, 4, f, h, w)``."""
    return torch.einsum("bfhwc,kc->bkfhw", cells, MIX.to(cells))


def latents_to_cells(latents: torch.Tensor) -> torch.Tensor:
    """The way back: ``(b, 4, f, h, w)`` to ``(b, f, h, w, 3)``."""
    return torch.einsum("bkfhw,kc->bfhwc", latents, MIX.to(latents))


@torch.no_grad()
def build_mosaic_codec() -> AutoencoderKL:
    """The autoencoder, finished and frozen.

    A picture goes through as +x and -x, and ``silu(x) - silu(-x) = x`` takes it through an activation. Constants in the
    same norm group keep the norm from dividing by the picture's own spread. All residual branches are silent.
    """
    codec = build_vae(CONFIG)
    for name, module in codec.named_modules():
        if isinstance(module, nn.Conv2d) or name.endswith("to_out.0"):
            for parameter in module.parameters():
                parameter.zero_()
    encoder, decoder = codec.encoder, codec.decoder
    for half in (encoder, decoder):
        _carry_norm(half.conv_norm_out)
    _open(encoder.conv_in, torch.eye(_RGB))
    for block in encoder.down_blocks:
        for sampler in block.downsamplers or []:
            _copy(sampler.conv, slice(0, 2), 0.25)
    for block in decoder.up_blocks:
        for sampler in block.upsamplers or []:
            _copy(sampler.conv, slice(1, 2), 1.0)
    mean = MIX / LATENT_FACTOR
    _close(encoder.conv_out, torch.eye(_RGB))
    codec.quant_conv.weight[:4, :_RGB, 0, 0] = mean
    codec.quant_conv.bias[4:] = LOG_VARIANCE
    codec.post_quant_conv.weight[:_RGB, :, 0, 0] = MIX.T * LATENT_FACTOR
    _open(decoder.conv_in, torch.eye(_RGB, 4))
    _close(decoder.conv_out, torch.eye(_RGB))
    return codec.eval().requires_grad_(False)


def _open(conv: nn.Conv2d, colours: torch.Tensor) -> None:
    """Put the picture into a convolution's output as +x and -x, beside two pairs of constants (one for each norm group)."""
    conv.weight[_PLUS, :, 1, 1] = colours
    conv.weight[_MINUS, :, 1, 1] = -colours
    bias = conv.get_parameter("bias")
    bias[_constants(conv.out_channels)] = CONSTANT * torch.tensor([1.0, -1.0, 1.0, -1.0])


def _constants(channels: int) -> list[int]:
    half = channels // CONFIG.norm_num_groups
    return [half - 2, half - 1, channels - 2, channels - 1]


def _copy(conv: nn.Conv2d, taps: slice, weight: float) -> None:
    """Carry every channel through a convolution, with the same weight at some taps of each axis."""
    for channel in range(conv.out_channels):
        conv.weight[channel, channel, taps, taps] = weight


def _carry_norm(norm: nn.GroupNorm) -> None:
    """Undo the norm's division by the spread that the two constants make."""
    size = norm.num_channels // norm.num_groups
    norm.weight.fill_((2 / size) ** 0.5 * CONSTANT)
    norm.bias.zero_()


def _close(conv: nn.Conv2d, colours: torch.Tensor) -> None:
    """Take the picture out of an activation's +x and -x."""
    conv.weight[: len(colours), _PLUS, 1, 1] = colours
    conv.weight[: len(colours), _MINUS, 1, 1] = -colours
