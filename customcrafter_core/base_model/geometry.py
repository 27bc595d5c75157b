"""The sizes of a VideoCrafter2 model, read from the names and shapes in its checkpoint.

What shapes cannot tell (the width of an attention head, the number of groups of a norm) comes from the file's metadata
and else has VideoCrafter2's value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import InputError

UNET_PREFIX = "model.diffusion_model."
TEXT_PREFIX = "cond_stage_model.model."
VAE_PREFIX = "first_stage_model."
METADATA_KEY = "customcrafter.geometry"
UNET_INPUT = UNET_PREFIX + "input_blocks.0.0.weight"
UNET_CONTEXT = UNET_PREFIX + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
TEXT_TOKENS = TEXT_PREFIX + "token_embedding.weight"
VAE_LATENT = VAE_PREFIX + "post_quant_conv.weight"
TEXT_POSITIONS = TEXT_PREFIX + "positional_embedding"
UNET_OUTPUT = UNET_PREFIX + "out.2.weight"
VAE_PIXELS = VAE_PREFIX + "encoder.conv_in.weight"

VOCABULARY = 49408  # of CLIP's tokenizer; learned tokens follow behind it
PROMPT_LENGTH = 77  # ids, start and end included
RGB = 3
FULL_WIDTH, FULL_BLOCKS = 1024, 24  # of VideoCrafter2's text encoder, whose last block is not used

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class HiddenSizes:
    """What tensor shapes do not show. The defaults are VideoCrafter2's.

    Every field is a count: channels of one attention head, groups of a group norm, or blocks of the text encoder.
    """

    unet_head_dim: int = 64
    unet_norm_groups: int = 32
    text_head_dim: int = 64
    vae_norm_groups: int = 32
    text_layers: int = 0
    """Blocks of the text encoder that are used; 0 if unknown, which is then all of the file's but the last."""


@dataclass(frozen=True)
class Defaults:
    """The video the model was made for: pixels, frames, frames per second, and the guidance scale that suits it."""

    width: int = 512
    height: int = 320
    frames: int = 16
    fps: int = 28
    cfg: float = 12.0


@dataclass(frozen=True)
class UNetGeometry:
    """Sizes of the denoising network; ``attends[i]``: level ``i`` has spatial and temporal attention."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    blocks_per_level: int
    attends: tuple[bool, ...]
    context_dim: int
    head_dim: int
    norm_groups: int


VIDEOCRAFTER2_UNET = UNetGeometry(
    in_channels=4,
    out_channels=4,
    channels=(320, 640, 1280, 1280),
    blocks_per_level=2,
    attends=(True, True, True, False),
    context_dim=FULL_WIDTH,
    head_dim=HiddenSizes.unet_head_dim,
    norm_groups=HiddenSizes.unet_norm_groups,
)
"""Where there is no checkpoint to read sizes from."""


@dataclass(frozen=True)
class TextGeometry:
    """Sizes of the text encoder; ``layers`` counts those that are used, one less than the file holds."""

    vocab_size: int
    positions: int
    width: int
    mlp_width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class VAEGeometry:
    """Sizes of the image autoencoder; one side shrinks by ``2 ** (len(channels) - 1)``."""

    image_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    blocks_per_level: int
    norm_groups: int


@dataclass(frozen=True)
class Geometry:
    """Sizes of all three networks."""

    unet: UNetGeometry
    text: TextGeometry
    vae: VAEGeometry

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels behind one latent position."""
        return 2 ** (len(self.vae.channels) - 1)


def metadata_of(hidden: HiddenSizes, defaults: Defaults) -> dict[str, str]:
    """Metadata of a checkpoint file that `hidden_sizes_of` and `defaults_of` read back."""
    known = {name: value for name, value in {**asdict(hidden), **asdict(defaults)}.items() if value}
    return {METADATA_KEY: json.dumps(known, sort_keys=True)}


def hidden_sizes_of(metadata: Mapping[str, str]) -> HiddenSizes:
    """Sizes that shapes do not show, from a file's metadata, else VideoCrafter2's."""
    return HiddenSizes(**_numbers(metadata, HiddenSizes))


def defaults_of(metadata: Mapping[str, str]) -> Defaults:
    """The video a model was made for, from its file's metadata, else VideoCrafter2's."""
    return Defaults(**_numbers(metadata, Defaults))


def _numbers(metadata: Mapping[str, str], kind: type[HiddenSizes] | type[Defaults]) -> dict[str, Any]:
    try:
        stored = json.loads(metadata.get(METADATA_KEY, "{}"))
        if not isinstance(stored, dict):
            raise TypeError(f"{stored!r:.60}")
        values = {field.name: stored[field.name] for field in fields(kind) if field.name in stored}
        wrong = {name: value for name, value in values.items() if not _usable(value, is_count=name != "cfg")}
    except (ValueError, TypeError, RecursionError) as error:
        raise _bad_metadata(str(error)) from error
    if wrong:
        raise _bad_metadata(str(wrong))
    return values


def _usable(value: Any, *, is_count: bool) -> bool:
    return (type(value) is int or (type(value) is float and not is_count)) and 0 < value < 65536


def _bad_metadata(found: str) -> InputError:
    return InputError(
        expected=f"positive numbers in the metadata {METADATA_KEY}", found=found, remedy="Write the file again."
    )


def read_geometry(shapes: Shapes, hidden: HiddenSizes) -> Geometry:
    """Read all sizes from the tensor names and shapes of a checkpoint in VideoCrafter2's format.

    Raises:
        InputError: the names are not those of VideoCrafter2; the message says which model it looks like instead.
    """
    try:
        geometry = Geometry(_unet(shapes, hidden), _text(shapes, hidden), _vae(shapes, hidden))
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            expected="a VideoCrafter2 text-to-video checkpoint",
            found=f"{_looks_like(shapes)} ({error} is absent)",
            remedy="Use VideoCrafter2's model.ckpt (text-to-video, 512, version 2).",
        ) from error
    _check_widths(geometry, hidden.text_head_dim)
    return geometry


def _looks_like(shapes: Shapes) -> str:
    if any("lora" in name for name in shapes):
        return "a LoRA file"
    unet = [name for name in shapes if name.startswith(UNET_PREFIX)]
    if unet and not any(".temopral_conv." in name for name in unet):
        return "an image model (Stable Diffusion format, no temporal layers)"
    if unet and not any("fps_embedding" in name for name in unet):
        return "a video model without frame-rate embedding (VideoCrafter1 or older)"
    if unet:
        return "an incomplete VideoCrafter2 checkpoint"
    if any(name.startswith(("conv_in", "down_blocks", "unet.")) for name in shapes):
        return "a model in diffusers format"
    return f"other weights, such as {next(iter(shapes), 'none at all')!r}"


def _count(shapes: Shapes, pattern: str) -> int:
    """Count indices 0, 1, 2 … without a gap; what lies behind a gap is reported as unexpected later."""
    found = {int(match.group(1)) for name in shapes if (match := re.match(pattern, name))}
    count = next(i for i in range(len(found) + 1) if i not in found)
    if not count:
        raise KeyError(pattern.replace("\\", "").replace("(d+)", "0"))
    return count


def _size(shapes: Shapes, name: str, axis: int) -> int:
    shape = shapes[name]
    if axis >= len(shape) or not shape[axis]:
        raise InputError(
            expected=f"a weight of more than {axis} dimensions, none of them 0",
            found=f"{name} {tuple(shape)}",
            remedy="The file is damaged or belongs to another model; get VideoCrafter2's model.ckpt again.",
        )
    return shape[axis]


def _has(shapes: Shapes, prefix: str) -> bool:
    """Whether any weight is there: a single missing one must not look like another geometry."""
    return any(name.startswith(prefix) for name in shapes)


def _unet(shapes: Shapes, hidden: HiddenSizes) -> UNetGeometry:
    blocks = UNET_PREFIX + "input_blocks."
    for required in (
        "init_attn.0.norm.weight",
        "fps_embedding.0.weight",
        "input_blocks.1.0.temopral_conv.conv1.0.weight",
    ):
        if UNET_PREFIX + required not in shapes:
            raise KeyError(UNET_PREFIX + required)
    levels: list[list[int]] = [[]]
    for i in range(1, _count(shapes, re.escape(blocks) + r"(\d+)\.")):
        if _has(shapes, f"{blocks}{i}.0.op."):
            levels.append([])
        else:
            levels[-1].append(i)
    channels = tuple(_size(shapes, f"{blocks}{level[0]}.0.out_layers.3.weight", 0) for level in levels)
    return UNetGeometry(
        in_channels=_size(shapes, UNET_INPUT, 1),
        out_channels=_size(shapes, UNET_OUTPUT, 0),
        channels=channels,
        blocks_per_level=len(levels[0]),
        attends=tuple(_has(shapes, f"{blocks}{level[0]}.1.") for level in levels),
        context_dim=_size(shapes, UNET_CONTEXT, 1),
        head_dim=hidden.unet_head_dim,
        norm_groups=hidden.unet_norm_groups,
    )


def _text(shapes: Shapes, hidden: HiddenSizes) -> TextGeometry:
    width = _size(shapes, TEXT_TOKENS, 1)
    resblocks = TEXT_PREFIX + "transformer.resblocks."
    return TextGeometry(
        vocab_size=_size(shapes, TEXT_TOKENS, 0),
        positions=_size(shapes, TEXT_POSITIONS, 0),
        width=width,
        mlp_width=_size(shapes, resblocks + "0.mlp.c_fc.weight", 0),
        layers=_text_layers(_count(shapes, re.escape(resblocks) + r"(\d+)\."), width, hidden.text_layers),
        heads=max(width // hidden.text_head_dim, 1),
    )


def _text_layers(blocks: int, width: int, told: int) -> int:
    """How many blocks are used: all but the last; that one may be absent if the metadata tell the number."""
    expected = told + 1 if told else FULL_BLOCKS
    fits = blocks in (told, told + 1) if told else width != FULL_WIDTH or blocks == FULL_BLOCKS
    if not fits:
        raise InputError(
            expected=f"{expected} blocks in {TEXT_PREFIX}transformer.resblocks of width {width}",
            found=f"{blocks}",
            remedy="The file was shortened or is incomplete; get VideoCrafter2's model.ckpt again.",
        )
    return told or blocks - 1


def _vae(shapes: Shapes, hidden: HiddenSizes) -> VAEGeometry:
    down = VAE_PREFIX + "encoder.down."
    levels = _count(shapes, re.escape(down) + r"(\d+)\.")
    return VAEGeometry(
        image_channels=_size(shapes, VAE_PIXELS, 1),
        latent_channels=_size(shapes, VAE_LATENT, 0),
        channels=tuple(_size(shapes, f"{down}{i}.block.0.conv1.weight", 0) for i in range(levels)),
        blocks_per_level=_count(shapes, re.escape(down) + r"0\.block\.(\d+)\."),
        norm_groups=hidden.vae_norm_groups,
    )


def _check_widths(geometry: Geometry, text_head_dim: int) -> None:
    unet, text, vae = geometry.unet, geometry.text, geometry.vae
    problems = []
    for level, c in enumerate(unet.channels):
        first = f"{UNET_PREFIX}input_blocks.{1 + level * (unet.blocks_per_level + 1)}.0.out_layers.3.weight"
        problems += [f"{c} channels in {first} over head width {unet.head_dim}"] if c % unet.head_dim else []
        problems += [f"{c} channels in {first} over {unet.norm_groups} groups"] if c % unet.norm_groups else []
    for level, c in enumerate(vae.channels):
        first = f"{VAE_PREFIX}encoder.down.{level}.block.0.conv1.weight"
        problems += [f"{c} channels in {first} over {vae.norm_groups} groups"] if c % vae.norm_groups else []
    if text.width % text_head_dim:
        problems.append(f"width {text.width} in {TEXT_TOKENS} over head width {text_head_dim}")
    if text.layers < 1:
        problems.append("a text encoder of fewer than two layers")
    if unet.context_dim != text.width:
        problems.append(f"context {unet.context_dim} in {UNET_CONTEXT} against width {text.width} in {TEXT_TOKENS}")
    if unet.in_channels != vae.latent_channels:
        problems.append(
            f"{unet.in_channels} channels in {UNET_INPUT} against {vae.latent_channels} latent ones in {VAE_LATENT}"
        )
    if unet.out_channels != unet.in_channels:
        problems.append(f"{unet.out_channels} channels in {UNET_OUTPUT} against {unet.in_channels} in {UNET_INPUT}")
    if text.vocab_size != VOCABULARY:
        problems.append(f"{text.vocab_size} words in {TEXT_TOKENS} against {VOCABULARY} of the tokenizer")
    if text.positions < PROMPT_LENGTH:
        problems.append(f"{text.positions} positions in {TEXT_POSITIONS} against {PROMPT_LENGTH} of a prompt")
    if vae.image_channels != RGB:
        problems.append(f"{vae.image_channels} channels in {VAE_PIXELS} against {RGB} colours")
    if problems:
        raise InputError(
            expected="widths that divide and fit each other",
            found="; ".join(problems),
            remedy=f"If this is a model of another size, its head widths and norm groups belong into the metadata {METADATA_KEY}.",
        )
