"""The nodes that load VideoCrafter2 and set a video's size and frame rate."""

from __future__ import annotations

from typing import Any

import comfy.model_management as memory
import comfy.utils
import torch
from comfy_api.latest import io

from ..customcrafter_core.base_model.config import DTYPE_NAMES, Defaults
from ..customcrafter_core.errors import InputError
from . import host
from .files import choices, chosen_file, saved_at

DTYPE_CHOICES = ["default", *DTYPE_NAMES]
VIDEO = Defaults()
PIXELS_PER_LATENT, SMALLEST = 8, 16


class LoadVideoCrafter2(io.ComfyNode):
    """Load the base model as MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs, outputs and texts."""
        return host.schema(
            node_id="CustomCrafterLoadVideoCrafter2",
            display_name="Load VideoCrafter2",
            category=host.CATEGORY,
            description="Load the text-to-video model VideoCrafter2 (model.ckpt or .safetensors), or the small demo "
            "model that comes with this node pack.",
            search_aliases=["VideoCrafter", "text to video", "CustomCrafter model"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=choices("checkpoints"),
                    tooltip="VideoCrafter2's checkpoint in models/checkpoints, or the built-in demo model.",
                ),
                host.advanced(
                    io.Combo.Input(
                        "dtype",
                        options=DTYPE_CHOICES,
                        default=DTYPE_CHOICES[0],
                        tooltip="Precision of the weights. default: chosen to suit the device.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The denoising network, for any sampler node."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="The autoencoder, which encodes and decodes whole videos."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, **_: Any) -> int:
        """Rerun when the file changes."""
        return saved_at("checkpoints", checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, dtype: str) -> io.NodeOutput:
        """Load the model in the precision that was chosen, or the host prefers."""
        from ..customcrafter_core.base_model.loading import load_videocrafter2
        from .native.frames import make_vae
        from .native.model import make_model, preferred_dtype
        from .native.source import note_source
        from .native.text import make_clip

        host.known_choice("dtype", dtype, DTYPE_CHOICES)
        path = chosen_file("checkpoints", checkpoint)
        progress = comfy.utils.ProgressBar(1)
        kind = getattr(torch, dtype, None)
        base = load_videocrafter2(
            path, unet_dtype=lambda parameters: kind or preferred_dtype(parameters), on_tensor=progress.update_absolute
        )
        precise = torch.float32 if kind == torch.float32 else None
        clip, vae = make_clip(base, precise), make_vae(base, precise)
        model = make_model(base)
        note_source(path, model, clip, vae)
        return io.NodeOutput(model, clip, vae)


class EmptyVideoLatent(io.ComfyNode):
    """Create an empty latent for a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs, outputs and texts."""
        size: dict[str, Any] = {"default": 0, "min": 0, "max": 4096, "step": 8}
        own = "0: the size the connected model was made for."
        return host.schema(
            node_id="CustomCrafterEmptyVideoLatent",
            display_name="Empty Video Latent (CustomCrafter)",
            category=host.CATEGORY,
            description="Create the empty latent that a video is sampled from.",
            search_aliases=["video size", "empty latent", "VideoCrafter latent"],
            inputs=[
                io.Int.Input("width", tooltip=f"Width in pixels. {own}", **size),
                io.Int.Input("height", tooltip=f"Height in pixels. {own}", **size),
                io.Int.Input("frames", default=0, min=0, max=256, tooltip=f"Length in frames. {own}"),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Number of videos to generate at once."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model you sample with. Without it, set width, height and frames yourself; the latent then "
                    "has one position per 8 pixels.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Connect to the latent input of a sampler.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, frames: int, batch_size: int, model: Any = None) -> io.NodeOutput:
        """Create the latent at the model's own scale."""
        width, height, frames = video_size(width, height, frames, model)
        unit, channels = PIXELS_PER_LATENT, 4
        if model is not None:
            form = model.get_model_object("latent_format")
            unit, channels = getattr(form, "spacial_downscale_ratio", unit), form.latent_channels
        if width % unit or height % unit:
            raise InputError(
                expected=f"a width and height divisible by {unit}",
                found=f"{width}x{height}",
                remedy=f"Try {width // unit * unit}x{height // unit * unit}.",
            )
        shape = (batch_size, channels, frames, height // unit, width // unit)
        samples = torch.zeros(shape, device=memory.intermediate_device())
        # newer hosts fit an empty latent to the model by this
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": unit})


def video_size(width: int, height: int, frames: int, model: Any) -> tuple[int, int, int]:
    """Pixels and frames of a video; 0 means what the model was made for.

    Raises:
        InputError: one is 0 without the MODEL of Load VideoCrafter2, or a side is too small.
    """
    if not (width and height and frames):
        if model is None:
            raise InputError(
                expected="a connected model, because a size of 0 means the model's own",
                found=f"none, with width {width}, height {height} and frames {frames}",
                remedy="Connect the MODEL from Load VideoCrafter2 to model, or set all three sizes: VideoCrafter2 was made "
                f"for {VIDEO.width}x{VIDEO.height} with {VIDEO.frames} frames.",
            )
        from .native.model import require_base

        own = require_base(model, "For other models, set width, height and frames yourself.").defaults
        width, height, frames = width or own.width, height or own.height, frames or own.frames
    if min(width, height) < SMALLEST:
        raise InputError(
            expected=f"a width and height of {SMALLEST} or more", found=f"{width}x{height}", remedy="Increase it."
        )
    return width, height, frames


class FrameRate(io.ComfyNode):
    """Set the frame rate that the model is conditioned on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs, outputs and texts."""
        return host.schema(
            node_id="CustomCrafterFrameRate",
            display_name="Frame Rate (CustomCrafter)",
            category=host.CATEGORY,
            description="Set the frame rate VideoCrafter2 is conditioned on: a lower frame rate gives more motion.",
            search_aliases=["fps", "motion speed", "VideoCrafter fps"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from Load VideoCrafter2."),
                io.Int.Input(
                    "fps",
                    default=VIDEO.fps,
                    min=1,
                    max=60,
                    tooltip="Frames per second. Playback speed is not affected.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, conditioned on this frame rate.")],
        )

    @classmethod
    def execute(cls, model: Any, fps: int) -> io.NodeOutput:
        """Give the model the frame rate through its options."""
        from .native.model import FRAME_RATE, require_base

        require_base(model)
        clone = model.clone()
        clone.model_options["transformer_options"][FRAME_RATE] = fps
        return io.NodeOutput(clone)


NODES = [LoadVideoCrafter2, EmptyVideoLatent, FrameRate]
