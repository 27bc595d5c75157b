"""The inputs of nodes that sample a video to look at it: to compare strengths, to find K."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..customcrafter_core.errors import InputError
from . import host
from .inputs import seed_input, step_inputs


def strengths_from(name: str, text: str, limits: tuple[float, float]) -> list[float]:
    """Strengths of a list such as ``0.2, 0.4``.

    Raises:
        InputError: something else, or out of range.
    """
    least, most = limits
    remedy = f"Write numbers from {least:g} to {most:g} separated by commas, such as 0.2, 0.4."
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(expected=f"a list of numbers in {name}", found=repr(text), remedy=remedy) from error
    if not values or not all(least <= value <= most for value in values):
        raise InputError(expected=f"a list of strengths in {name}", found=repr(text), remedy=remedy)
    return values


def counts_from(name: str, text: str) -> list[int]:
    """Whole numbers of a list such as ``3, 5``.

    Raises:
        InputError: something else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(
            expected=f"a list of whole numbers of 0 or more in {name}",
            found=repr(text),
            remedy="Write numbers of steps separated by commas, such as 3, 5.",
        )
    return [int(part) for part in parts]


def prompted_inputs(model: str) -> list[io.Input]:
    """What VideoCrafter2 samples a prompt with."""
    return [
        io.Model.Input("model", tooltip=model),
        io.Clip.Input("clip", tooltip="The CLIP of the same Load VideoCrafter2."),
        io.Vae.Input("vae", tooltip="The VAE of the same Load VideoCrafter2."),
        io.Latent.Input("latent_image", tooltip="From Empty Video Latent, with batch size 1."),
        io.String.Input("prompt", default="", multiline=True, tooltip="What the video should show."),
        io.String.Input("negative", default="", multiline=True, tooltip="What the video should not show."),
        *step_inputs(),
    ]


def sampler_inputs(model: str) -> list[io.Input]:
    """What the host's KSampler has, and a VAE to see the video with."""
    return [
        io.Model.Input("model", tooltip=model),
        io.Conditioning.Input("positive", tooltip="What goes into your KSampler."),
        io.Conditioning.Input("negative", tooltip="What goes into your KSampler."),
        io.Latent.Input("latent_image", tooltip="One video, from the model's own empty latent or image node."),
        io.Vae.Input("vae", tooltip="The model's VAE."),
        seed_input(),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="As in your KSampler. K counts these."),
        io.Float.Input("cfg", default=6.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="As in your KSampler."),
        io.Combo.Input(
            "sampler_name",
            options=list(comfy.samplers.KSampler.SAMPLERS),
            default="euler",
            tooltip="As in your KSampler.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.KSampler.SCHEDULERS),
            default="simple",
            tooltip="As in your KSampler.",
        ),
        io.Float.Input(
            "denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip="As in your KSampler; 1 for text to video."
        ),
    ]


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """Inputs of `sampler_inputs`, whose choices older hosts do not check.

    Raises:
        InputError: a choice that is not in the list.
    """
    host.known_choice("sampler_name", given["sampler_name"], comfy.samplers.KSampler.SAMPLERS)
    host.known_choice("scheduler", given["scheduler"], comfy.samplers.KSampler.SCHEDULERS)
    return given
