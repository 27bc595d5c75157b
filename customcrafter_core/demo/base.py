"""The demo base model's sizes and its networks before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ..base_model.config import (
    Defaults,
    ModelConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
)
from ..base_model.frame_rate import zero_frame_rate_output
from ..base_model.networks import build_text_encoder, build_unet, build_vae, text_tower
from . import world

DEFAULTS = Defaults(  # more guidance leaves stray colours
    width=world.SIDE, height=world.SIDE, frames=world.FRAMES, fps=world.FPS, cfg=3.5
)
CONFIG = ModelConfig(
    unet=UNetConfig(
        block_out_channels=(32, 64),
        layers_per_block=1,
        attends=(True, True),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=4,
    ),
    text=TextConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4),
    vae=VAEConfig(
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
    ),
)
FIRST_UNET = replace(CONFIG.unet, attends=(False, True))
"""The first stage learns motion, colour and background without attention on the fine level: half the time a step."""
TOKEN_GAIN = 4.0
"""Token embeddings are enlarged by this, so that words weigh more than positions in the untrained encoder."""
RESIDUAL_GAIN = 0.1
OUTPUT_GAIN = 0.05
CONSTANT = 8.0


def build_demo_codec() -> AutoencoderKL:
    """The autoencoder with fresh weights."""
    return build_vae(CONFIG.vae)


@torch.no_grad()
def build_demo_text_encoder(seed: int = 0) -> CLIPTextModel:
    """The text encoder: random and never trained.

    Trained from nothing together with the UNet it was seen to erase what tells the directions apart; random features
    keep all words apart. Weights are rounded to half precision, so that the shipped file holds exactly these.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_text_encoder(CONFIG.text)
    text_tower(encoder).embeddings.token_embedding.weight.mul_(TOKEN_GAIN)
    for parameter in encoder.parameters():
        parameter.copy_(parameter.half().float())
    return encoder.eval().requires_grad_(False)


def build_demo_unet(seed: int = 0) -> UNet3DConditionModel:
    """The denoising network of the first stage, started as ``eps = x_t`` (see :func:`start_as_identity`)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = build_unet(FIRST_UNET)
    start_as_identity(unet)
    zero_frame_rate_output(unet.time_embedding)
    return unet


@torch.no_grad()
def grow(unet: UNet3DConditionModel, seed: int = 0) -> UNet3DConditionModel:
    """The same function with attention on the fine level too: the new layers start without effect."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = build_unet(CONFIG.unet)
    new = set(grown.state_dict()) - set(unet.state_dict())
    grown.load_state_dict(unet.state_dict(), strict=False)
    for name in new:
        if ".proj_out." in name:
            grown.get_parameter(name).zero_()
    return grown


@torch.no_grad()
def start_as_identity(unet: UNet3DConditionModel) -> None:
    """Make an untrained UNet return its input: at high noise that is nearly the right answer.

    The input goes as +x and -x through the last skip connection and two groups of the last norm, and
    ``silu(x) - silu(-x) = x`` takes it back out. The norm would divide by each frame's own spread, which is off by 4 %
    from frame to frame: as an error of the clean latent at t = 980 that is nearly as large as what is to be learned.
    So each group also holds a pair of large constants, against which the frame's spread hardly counts.
    All residual branches start small.
    """
    channels, groups = unet.config.in_channels, unet.config.norm_num_groups
    size, half = unet.config.block_out_channels[0] // groups, unet.config.in_channels // 2
    if size < channels + 2 or groups < 3:
        raise ValueError("The identity start needs three norm groups that hold the latent's channels and two more.")
    # in each group: half of the input's channels, the same negated, a pair of constants
    plus = [c % half + size * (c // half) for c in range(channels)]
    minus = [c + half for c in plus]
    constants = [channels, channels + 1, size + channels, size + channels + 1]
    carried = [*plus, *minus, *constants]
    last = unet.up_blocks[-1].resnets[-1]
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")) and hasattr(module, "weight"):
            module.weight *= RESIDUAL_GAIN
            module.bias *= RESIDUAL_GAIN
    for layer in (unet.conv_in, unet.transformer_in.proj_out, last.conv_shortcut, last.conv2):
        layer.weight[carried] = 0
        layer.bias[carried] = 0
    unet.conv_out.weight *= OUTPUT_GAIN
    unet.conv_out.weight[:, carried] = 0
    unet.conv_out.bias.zero_()
    skip = last.conv_shortcut.in_channels - unet.conv_in.out_channels
    for sign, places in ((1.0, plus), (-1.0, minus)):
        for channel, at in enumerate(places):
            unet.conv_in.weight[at, channel, 1, 1] = sign
            last.conv_shortcut.weight[at, skip + at] = 1.0
            unet.conv_out.weight[channel, at, 1, 1] = sign
    last.conv_shortcut.bias[constants] = CONSTANT * torch.tensor([1.0, -1.0, 1.0, -1.0])
    # undoes the division by the group's spread: two constants, and the input's variance of about 1
    unet.conv_norm_out.weight[: 2 * size] = ((2 * CONSTANT**2 + channels) / size) ** 0.5


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
