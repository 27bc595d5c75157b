"""The machine's share of a benchmark: device, type, threads, sizes, and a model with random weights of that size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import UNet3DConditionModel
from torch import nn

from customcrafter_core.base_model.config import VIDEOCRAFTER2, Defaults, UNetConfig
from customcrafter_core.base_model.fingerprint import fingerprint
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.networks import build_networks, build_unet, restore_buffers
from customcrafter_core.demo import demo_checkpoint
from customcrafter_core.diffusion.schedule import NoiseSchedule

from .full_size import SCALE

CONFIGS = {
    "full": VIDEOCRAFTER2.unet,
    "small": replace(
        VIDEOCRAFTER2.unet, block_out_channels=(96, 192, 384, 384), cross_attention_dim=256, attention_head_dim=32
    ),
    "quick": replace(
        VIDEOCRAFTER2.unet, block_out_channels=(32, 64, 64, 64), cross_attention_dim=32, attention_head_dim=16
    ),
}
LATENTS = {"full": (16, 40, 64), "small": (16, 16, 32), "quick": (4, 8, 8)}
"""Frames, height and width; multiples of 8, as the original asks."""
NAMES = {"full": "VideoCrafter2's widths", "small": "three tenths of VideoCrafter2's widths", "quick": "a toy's widths"}


@dataclass(frozen=True)
class Setup:
    """Where and how large to measure."""

    device: torch.device
    scale: str
    """full: VideoCrafter2's size; small: three tenths of its widths and the demo model; quick: only whether it runs."""
    rounds: int
    videocrafter: Path | None = None
    """A checkout of the original."""
    folder: Path | None = None
    """Where large files may lie for a while; None: the system's temporary folder."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights: half on a GPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def dtype_name(self) -> str:
        """As people write it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def on_h200(self) -> bool:
        """Whether on the GPU that absolute times are promised for."""
        return self.device.type == "cuda" and "H200" in torch.cuda.get_device_name(self.device)

    @property
    def full(self) -> bool:
        """Whether at VideoCrafter2's size."""
        return self.scale == "full"

    @property
    def config(self) -> UNetConfig:
        """Of the UNet."""
        return CONFIGS[self.scale]

    @property
    def latent(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return LATENTS[self.scale]

    @property
    def size(self) -> str:
        """In words."""
        t, h, w = self.latent
        return f"{NAMES[self.scale]}, latent {t}x{h}x{w}, {self.dtype_name}"

    def steps(self, count: int) -> int:
        """How many steps to sample: as many, or two if only to see whether it runs."""
        return min(count, 2) if self.scale == "quick" else count


def random_unet(setup: Setup) -> UNet3DConditionModel:
    """The UNet of the setup's sizes with random weights, which no layer leaves without effect."""
    with torch.device("meta"):
        unet = build_unet(setup.config)
    nn.Module.to(unet, setup.dtype)  # diffusers' own `to` warns about an empty list
    unet.to_empty(device=setup.device).eval().requires_grad_(False)
    fill(unet)
    return unet


def fill(network: nn.Module) -> None:
    """Random weights: small ones, and norms near 1."""
    generator = torch.Generator(next(network.parameters()).device).manual_seed(0)
    for name, parameter in network.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else SCALE
        parameter.data.normal_(0, scale, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data.add_(1)


def model_for(setup: Setup) -> VideoCrafter2:
    """A whole model: with random weights at full size, else the demo model."""
    if setup.full:
        return random_model(setup)
    return load_videocrafter2(demo_checkpoint(), dtype=setup.dtype, device=setup.device)


def random_model(setup: Setup) -> VideoCrafter2:
    """A whole model of the setup's sizes with random weights; its own video is as large as the setup's latent."""
    config = replace(VIDEOCRAFTER2, unet=setup.config)
    if not setup.full:
        width = setup.config.cross_attention_dim
        text = replace(
            VIDEOCRAFTER2.text,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=4,
            num_attention_heads=2,
        )
        config = replace(config, text=text, vae=replace(VIDEOCRAFTER2.vae, block_out_channels=(32, 32, 64, 64)))
    with torch.device("meta"):
        networks = build_networks(config)
    for network in (networks.unet, networks.text_encoder, networks.vae):
        nn.Module.to(network, setup.dtype)
        network.to_empty(device=setup.device).eval().requires_grad_(False)
        fill(network)
    restore_buffers(networks.text_encoder)
    networks.text_encoder.to(setup.device)
    frames, height, width = setup.latent
    return VideoCrafter2(
        networks.unet, networks.text_encoder, networks.vae, config,
        Defaults(8 * width, 8 * height, frames), NoiseSchedule.videocrafter2(), fingerprint(networks.unet),
    )  # fmt: skip


def hollow_full_size(device: torch.device) -> VideoCrafter2:
    """VideoCrafter2's sizes in bfloat16, to count on; its memory is never filled, which on a CPU takes none."""
    with torch.device("meta"):
        networks = build_networks(VIDEOCRAFTER2)
    for network in (networks.unet, networks.text_encoder, networks.vae):
        nn.Module.to(network, torch.bfloat16).requires_grad_(False)
        network.to_empty(device=device)
    restore_buffers(networks.text_encoder)
    return VideoCrafter2(
        networks.unet, networks.text_encoder, networks.vae, VIDEOCRAFTER2, Defaults(),
        NoiseSchedule.videocrafter2(), fingerprint="",
    )  # fmt: skip
