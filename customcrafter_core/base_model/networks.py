"""The three networks as diffusers and transformers modules, built from a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .config import IMAGE_CHANNELS, PROMPT_LENGTH, VOCAB_SIZE, ModelConfig, TextConfig, UNetConfig, VAEConfig
from .frame_rate import FrameRateTimestepEmbedding
from .video_layers import use_video_layers


@dataclass
class Networks:
    """Denoising UNet, text encoder and image autoencoder."""

    unet: UNet3DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL


def build_networks(config: ModelConfig) -> Networks:
    """Build all three networks, with fresh weights on the current default device."""
    return Networks(build_unet(config.unet), build_text_encoder(config.text), build_vae(config.vae))


def build_unet(config: UNetConfig) -> UNet3DConditionModel:
    """VideoCrafter2's denoising network.

    Called as ``unet(latent (b, c, t, h, w), timesteps (b,), text (b, n, d), timestep_cond=fps (b,))``.
    """
    down = tuple("CrossAttnDownBlock3D" if attends else "DownBlock3D" for attends in config.attends)
    up = tuple("CrossAttnUpBlock3D" if attends else "UpBlock3D" for attends in reversed(config.attends))
    unet = UNet3DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
    )
    unet.time_embedding = FrameRateTimestepEmbedding(config.block_out_channels[0], config.block_out_channels[0] * 4)
    use_video_layers(unet)
    return unet


def build_text_encoder(config: TextConfig) -> CLIPTextModel:
    """OpenCLIP's text tower without its last block: its last hidden state is the original's penultimate layer, normed."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCAB_SIZE,
            max_position_embeddings=PROMPT_LENGTH,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            hidden_act="gelu",
        )
    )


def build_vae(config: VAEConfig) -> AutoencoderKL:
    """The image autoencoder, applied to each frame by itself."""
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        in_channels=IMAGE_CHANNELS,
        out_channels=IMAGE_CHANNELS,
        latent_channels=config.latent_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=config.norm_num_groups,
    )


def text_tower(text_encoder: CLIPTextModel) -> Any:
    """The module that holds ``embeddings``, ``encoder`` and ``final_layer_norm``: transformers 4 nests it, 5 does not."""
    return getattr(text_encoder, "text_model", text_encoder)


def restore_buffers(text_encoder: CLIPTextModel) -> None:
    """Fill the one buffer that no checkpoint holds, after building on the meta device."""
    embeddings = text_tower(text_encoder).embeddings
    positions = embeddings.position_embedding.num_embeddings
    embeddings.position_ids = torch.arange(positions).unsqueeze(0)
