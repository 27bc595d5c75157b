"""The demo base model's sizes and its networks before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from torch import nn
from transformers import CLIPTextModel

from customcrafter_core.base_model.frame_rate import zero_frame_rate_output
from customcrafter_core.base_model.geometry import (
    Defaults,
    Geometry,
    HiddenSizes,
    TextGeometry,
    UNetGeometry,
    VAEGeometry,
)
from customcrafter_core.base_model.networks import build_text_encoder, build_unet, build_vae, text_tower
from customcrafter_core.demo import world

HIDDEN = HiddenSizes(unet_head_dim=8, unet_norm_groups=4, text_head_dim=16, vae_norm_groups=8)
DEFAULTS = Defaults(width=world.SIDE, height=world.SIDE, frames=world.FRAMES, fps=world.FPS)
GEOMETRY = Geometry(
    unet=UNetGeometry(
        in_channels=4,
        out_channels=4,
        channels=(32, 64),
        blocks_per_level=1,
        attends=(False, True),
        context_dim=64,
        head_dim=HIDDEN.unet_head_dim,
        norm_groups=HIDDEN.unet_norm_groups,
    ),
    text=TextGeometry(vocab_size=49408, positions=77, width=64, mlp_width=256, layers=2, heads=4),
    vae=VAEGeometry(
        image_channels=3,
        latent_channels=4,
        channels=(32, 64, 64),
        blocks_per_level=1,
        norm_groups=HIDDEN.vae_norm_groups,
    ),
)
TOKEN_GAIN = 4.0
"""Token embeddings are enlarged by this, so that words weigh more than positions in the untrained encoder."""
RESIDUAL_GAIN = 0.1


def build_demo_codec() -> AutoencoderKL:
    """The autoencoder with fresh weights."""
    return build_vae(GEOMETRY.vae)


@torch.no_grad()
def build_demo_text_encoder(seed: int = 0) -> CLIPTextModel:
    """The text encoder: random and never trained.

    Trained from nothing together with the UNet it was seen to erase what tells the directions apart; random features
    keep all words apart. Weights are rounded to half precision, so that the shipped file holds exactly these.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_text_encoder(GEOMETRY.text)
    text_tower(encoder).embeddings.token_embedding.weight.mul_(TOKEN_GAIN)
    for parameter in encoder.parameters():
        parameter.copy_(parameter.half().float())
    return encoder.eval().requires_grad_(False)


def build_demo_unet(seed: int = 0) -> UNet3DConditionModel:
    """The denoising network, started as ``eps = x_t`` (see :func:`start_as_identity`)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = build_unet(GEOMETRY.unet)
    start_as_identity(unet)
    zero_frame_rate_output(unet.time_embedding)
    return unet


@torch.no_grad()
def start_as_identity(unet: UNet3DConditionModel) -> None:
    """Make an untrained UNet return about its input: at high noise that is nearly the right answer.

    The input goes as +x and -x through the last skip connection; they fill one group of the last norm exactly, and
    ``silu(x) - silu(-x) = x`` takes them back out. All residual branches start small.
    """
    channels = unet.config.in_channels
    pair = 2 * channels
    if unet.config.block_out_channels[0] // unet.config.norm_num_groups != pair:
        raise ValueError("The identity start needs norm groups of twice the latent's channels on the first level.")
    eye = torch.eye(channels)
    unet.conv_in.weight[:pair] = 0
    unet.conv_in.weight[:pair, :, 1, 1] = torch.cat([eye, -eye])
    unet.conv_in.bias[:pair] = 0
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")) and hasattr(module, "weight"):
            module.weight *= RESIDUAL_GAIN
            module.bias *= RESIDUAL_GAIN
    shortcut = unet.up_blocks[-1].resnets[-1].conv_shortcut
    skip = shortcut.in_channels - unet.conv_in.out_channels
    shortcut.weight[:pair] = 0
    shortcut.weight[:pair, skip : skip + pair, 0, 0] = torch.eye(pair)
    shortcut.bias[:pair] = 0
    unet.conv_out.weight *= RESIDUAL_GAIN
    unet.conv_out.weight[:, :pair] = 0
    unet.conv_out.weight[:, :pair, 1, 1] = torch.cat([eye, -eye], 1)
    unet.conv_out.bias.zero_()


def identity_path(unet: UNet3DConditionModel) -> list[nn.Module]:
    """The modules that carry the input to the output at the start; they learn slowly."""
    return [unet.conv_in, unet.up_blocks[-1].resnets[-1].conv_shortcut, unet.conv_norm_out, unet.conv_out]


def keep_precise(modules: Sequence[nn.Module]) -> None:
    """Let modules of one input compute in float32 under autocast.

    At high noise the clean latent is a difference of two nearly equal numbers, 20 times smaller than they are.
    """
    for module in modules:
        module.forward = partial(_in_float32, module.forward)


def _in_float32(forward: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    with torch.autocast(value.device.type, enabled=False):
        return forward(value.float())
