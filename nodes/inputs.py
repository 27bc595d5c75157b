"""Inputs and outputs that nodes of several families have."""

from __future__ import annotations

from comfy_api.latest import io

from ..customcrafter_core.base_model.config import Defaults
from ..customcrafter_core.diffusion.ddim import ETA
from ..customcrafter_core.diffusion.schedule import STEPS, TRAIN_TIMESTEPS
from . import host

SUBJECT = io.Custom("CUSTOMCRAFTER_SUBJECT")


def any_base_input() -> io.Input:
    """For subjects tried on a fine-tune of their base."""
    return host.advanced(
        io.Boolean.Input(
            "any_base",
            default=False,
            optional=True,
            tooltip="Also accept a subject that was trained on other weights of the same sizes.",
        )
    )


def model_and_clip() -> list[io.Output]:
    """Outputs of the nodes that apply a subject."""
    return [
        io.Model.Output(display_name="model", tooltip="The model with the subject."),
        io.Clip.Output(display_name="clip", tooltip="The text encoder that knows the subject's token."),
    ]


def step_inputs() -> list[io.Input]:
    """The noise to start from, and how the steps go."""
    cfg = Defaults().cfg
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="The noise to start from."
        ),
        io.Int.Input(
            "steps", default=STEPS, min=1, max=TRAIN_TIMESTEPS, tooltip=f"Denoising steps; the paper uses {STEPS}."
        ),
        io.Float.Input(
            "cfg",
            default=cfg,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip=f"How closely the prompt is followed; the paper uses {cfg:g}.",
        ),
        eta_input(),
    ]


def eta_input() -> io.Input:
    """How noisy DDIM is."""
    return io.Float.Input(
        "eta",
        default=ETA,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"Noise that each step of VideoCrafter2's DDIM adds: {ETA:g} as VideoCrafter2 samples, 0 none.",
    )
