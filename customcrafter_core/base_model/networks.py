"""The three networks as diffusers and transformers modules, built from a geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .frame_rate import FrameRateTimestepEmbedding
from .geometry import IMAGE_CHANNELS, PROMPT_LENGTH, VOCAB_SIZE, Geometry, TextGeometry, UNetGeometry, VAEGeometry
from .video_layers import use_video_layers


@dataclass
class Networks:
    """Denoising UNet, text encoder and image autoencoder."""

    unet: UNet3DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL


def build_networks(geometry: Geometry) -> Networks:
    """Build all three networks, with fresh weights on the current default device."""
    return Networks(build_unet(geometry.unet), build_text_encoder(geometry.text), build_vae(geometry.vae))


def build_unet(geometry: UNetGeometry) -> UNet3DConditionModel:
    """VideoCrafter2's denoising network.

    Called as ``unet(latent (b, c, t, h, w), timesteps (b,), text (b, n, d), timestep_cond=fps (b,))``.
    """
    down = tuple("CrossAttnDownBlock3D" if attends else "DownBlock3D" for attends in geometry.attends)
    up = tuple("CrossAttnUpBlock3D" if attends else "UpBlock3D" for attends in reversed(geometry.attends))
    unet = UNet3DConditionModel(
        in_channels=geometry.in_channels,
        out_channels=geometry.in_channels,
        block_out_channels=geometry.channels,
        layers_per_block=geometry.blocks_per_level,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=geometry.context_dim,
        attention_head_dim=geometry.head_dim,
        norm_num_groups=geometry.norm_groups,
    )
    unet.time_embedding = FrameRateTimestepEmbedding(geometry.channels[0], geometry.channels[0] * 4)
    use_video_layers(unet)
    return unet


def build_text_encoder(geometry: TextGeometry) -> CLIPTextModel:
    """OpenCLIP's text tower without its last block: its last hidden state is the original's penultimate layer, normed."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCAB_SIZE,
            max_position_embeddings=PROMPT_LENGTH,
            hidden_size=geometry.width,
            intermediate_size=geometry.mlp_width,
            num_hidden_layers=geometry.layers,
            num_attention_heads=geometry.heads,
            hidden_act="gelu",
        )
    )


def build_vae(geometry: VAEGeometry) -> AutoencoderKL:
    """The image autoencoder, applied to each frame by itself."""
    levels = len(geometry.channels)
    return AutoencoderKL(
        in_channels=IMAGE_CHANNELS,
        out_channels=IMAGE_CHANNELS,
        latent_channels=geometry.latent_channels,
        block_out_channels=geometry.channels,
        layers_per_block=geometry.blocks_per_level,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=geometry.norm_groups,
    )


def text_tower(text_encoder: CLIPTextModel) -> Any:
    """The module that holds ``embeddings``, ``encoder`` and ``final_layer_norm``: transformers 4 nests it, 5 does not."""
    return getattr(text_encoder, "text_model", text_encoder)


def restore_buffers(text_encoder: CLIPTextModel) -> None:
    """Fill the one buffer that no checkpoint holds, after building on the meta device."""
    embeddings = text_tower(text_encoder).embeddings
    positions = embeddings.position_embedding.num_embeddings
    embeddings.position_ids = torch.arange(positions).unsqueeze(0)
