"""The sizes of a base model: VideoCrafter2's as data, those of other models from the metadata of their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from ..errors import InputError

UNET_PREFIX = "model.diffusion_model."
TEXT_PREFIX = "cond_stage_model.model."
VAE_PREFIX = "first_stage_model."
CONFIG_KEY = "customcrafter.config"
FORMER_KEY = "customcrafter.geometry"  # of version 0.1.0, which wrote its demo model only

VOCAB_SIZE = 49408  # of CLIP's tokenizer; learned tokens follow behind it
PROMPT_LENGTH = 77  # ids, start and end included
IMAGE_CHANNELS = 3  # red, green, blue
DTYPE_NAMES = ("float32", "float16", "bfloat16")  # of torch, that weights can be held in
MAX_SIZE, MAX_LAYERS = 65535, 100  # a file that says more is damaged

Shapes = Mapping[str, tuple[int, ...]]
Part = TypeVar("Part")


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the denoising network, as `UNet3DConditionModel` of diffusers names them."""

    block_out_channels: tuple[int, ...]
    """Of each level, the finest first."""
    layers_per_block: int
    attends: tuple[bool, ...]
    """Which levels have spatial and temporal attention."""
    cross_attention_dim: int
    """Width of the text."""
    attention_head_dim: int
    """Channels of one attention head."""
    norm_num_groups: int
    in_channels: int = 4
    """Of the latent that comes in, and of the noise that comes out."""


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder, as `CLIPTextConfig` of transformers names them."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    """Those that are used: one less than in VideoCrafter2's file."""
    num_attention_heads: int


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the image autoencoder, as `AutoencoderKL` of diffusers names them."""

    block_out_channels: tuple[int, ...]
    """Of each level, the finest first; one side shrinks by ``2 ** (levels - 1)``."""
    layers_per_block: int
    norm_num_groups: int
    latent_channels: int = 4


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of all three networks."""

    unet: UNetConfig
    text: TextConfig
    vae: VAEConfig

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels behind one latent position."""
        return 2 ** (len(self.vae.block_out_channels) - 1)


@dataclass(frozen=True)
class Defaults:
    """The video a model was made for: pixels, frames, frames per second, and the guidance scale that suits it.

    The defaults are VideoCrafter2's: its paper's 512x320, and fps 28 and cfg 12 of its own text-to-video script.
    """

    width: int = 512
    height: int = 320
    frames: int = 16
    fps: int = 28
    cfg: float = 12.0


VIDEOCRAFTER2 = ModelConfig(
    UNetConfig(
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        attends=(True, True, True, False),
        cross_attention_dim=1024,
        attention_head_dim=64,
        norm_num_groups=32,
    ),
    TextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16),
    VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32),
)
"""Source: ``inference_t2v_512_v2.0.yaml`` of VideoCrafter's repository, and OpenCLIP's ViT-H-14."""

FORMER_DEMO = ModelConfig(
    UNetConfig(
        (32, 64),
        layers_per_block=1,
        attends=(True, True),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=4,
    ),
    TextConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4),
    VAEConfig((32, 64, 64), layers_per_block=1, norm_num_groups=8),
)
FORMER_DEFAULTS = Defaults(width=32, height=32, frames=8, fps=8, cfg=3.5)
FORMER_METADATA = (
    '{"cfg": 3.5, "fps": 8, "frames": 8, "height": 32, "text_head_dim": 16, "unet_head_dim": 8, "unet_norm_groups": 4, '
    '"vae_norm_groups": 8, "width": 32}'
)
"""What the demo model of version 0.1.0 says of itself; the rest of its sizes was read from shapes."""


def config_metadata(config: ModelConfig, defaults: Defaults) -> dict[str, str]:
    """Metadata of a checkpoint file, which `read_config` reads back."""
    return {CONFIG_KEY: json.dumps({**asdict(config), "video": asdict(defaults)}, sort_keys=True)}


def read_config(metadata: Mapping[str, str]) -> tuple[ModelConfig, Defaults]:
    """What a file's metadata say of its model; without any it is VideoCrafter2.

    Raises:
        InputError: they cannot be read, or their sizes do not fit each other.
    """
    if CONFIG_KEY in metadata:
        return _parse(metadata[CONFIG_KEY])
    if FORMER_KEY not in metadata:
        return VIDEOCRAFTER2, Defaults()
    if metadata[FORMER_KEY] == FORMER_METADATA:
        return FORMER_DEMO, FORMER_DEFAULTS
    raise InputError(
        expected=f"all sizes of the model in the metadata {CONFIG_KEY}",
        found=f"only {FORMER_KEY} of version 0.1.0: {metadata[FORMER_KEY]:.200}",
        remedy="Write the file again with this version.",
    )


def _parse(text: str) -> tuple[ModelConfig, Defaults]:
    try:
        stored = json.loads(text)
        if stored.keys() != {"unet", "text", "vae", "video"}:
            raise ValueError(f"{sorted(stored)}")
        unet, words, vae = (_part(stored[name], getattr(VIDEOCRAFTER2, name)) for name in ("unet", "text", "vae"))
        config, defaults = ModelConfig(unet, words, vae), _part(stored["video"], Defaults())
        problems = _problems(config)
        if problems:
            raise ValueError("; ".join(problems))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            expected=f"all sizes of the model, fitting each other, in the metadata {CONFIG_KEY}",
            found=f"{error}"[:500],
            remedy="The file is damaged or was changed by hand; get it again.",
        ) from error
    return config, defaults


def _part(stored: Mapping[str, Any], example: Part) -> Part:
    """Read one network's sizes, each of the kind that VideoCrafter2's is of."""
    names = {field.name for field in fields(example)}  # type: ignore[arg-type]
    wrong = {
        name: stored[name] for name in names & set(stored) if not _is_like(stored[name], getattr(example, name), name)
    }
    if wrong or stored.keys() != names:
        raise ValueError(f"{wrong or sorted(stored)}")
    return type(example)(**{name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()})


def _is_like(value: Any, example: Any, name: str) -> bool:
    if isinstance(example, tuple):
        return (
            isinstance(value, list)
            and 0 < len(value) <= MAX_LAYERS
            and all(_is_like(v, example[0], name) for v in value)
        )
    if isinstance(example, bool):
        return isinstance(value, bool)
    kinds = (int, float) if isinstance(example, float) else (int,)
    return type(value) in kinds and 0 < value <= (MAX_LAYERS if "layers" in name else MAX_SIZE)


def _problems(config: ModelConfig) -> list[str]:
    """What of the sizes would build no network, or one that another could not work with."""
    unet, text, vae = config.unet, config.text, config.vae
    checks = {
        "one attends for each level": len(unet.attends) == len(unet.block_out_channels),
        "UNet channels that heads divide": not any(c % unet.attention_head_dim for c in unet.block_out_channels),
        "UNet channels that groups divide": not any(c % unet.norm_num_groups for c in unet.block_out_channels),
        "autoencoder channels that groups divide": not any(c % vae.norm_num_groups for c in vae.block_out_channels),
        "a text width that heads divide": not text.hidden_size % text.num_attention_heads,
        "text as wide as the UNet takes it": text.hidden_size == unet.cross_attention_dim,
        "as many latent channels as the UNet takes": vae.latent_channels == unet.in_channels,
    }
    return [f"not {wanted}" for wanted, holds in checks.items() if not holds]
