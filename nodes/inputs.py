"""Inputs and outputs shared by several families of nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..customcrafter_core.base_model.config import Defaults
from ..customcrafter_core.diffusion.ddim import ETA
from ..customcrafter_core.diffusion.schedule import STEPS, TRAIN_TIMESTEPS
from . import host

SUBJECT = io.Custom("CUSTOMCRAFTER_SUBJECT")


def any_base_input() -> io.Input:
    """Whether to accept a subject that was trained on another base model."""
    return host.advanced(
        io.Boolean.Input(
            "any_base",
            default=False,
            optional=True,
            tooltip="Also accept a subject trained on a different base model with the same layer sizes, such as a fine-tune.",
        )
    )


def model_and_clip() -> list[io.Output]:
    """The outputs of nodes that apply a subject."""
    return [
        io.Model.Output(display_name="model", tooltip="The model with the subject applied."),
        io.Clip.Output(display_name="clip", tooltip="The text encoder, with the subject's token added."),
    ]


def seed_input() -> io.Input:
    """The noise to start from."""
    return io.Int.Input(
        "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="Sets the initial noise."
    )


def step_inputs() -> list[io.Input]:
    """Seed, steps, cfg and eta."""
    cfg = Defaults().cfg
    return [
        seed_input(),
        io.Int.Input(
            "steps", default=STEPS, min=1, max=TRAIN_TIMESTEPS, tooltip=f"Denoising steps; the paper uses {STEPS}."
        ),
        io.Float.Input(
            "cfg",
            default=cfg,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip=f"How closely to follow the prompt; the paper uses {cfg:g}.",
        ),
        eta_input(),
    ]


def eta_input() -> io.Input:
    """The eta of DDIM (Song et al. 2021, eq. 16): how much fresh noise each step adds."""
    return io.Float.Input(
        "eta",
        default=ETA,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"Noise added at each step of VideoCrafter2's DDIM: {ETA:g} as in VideoCrafter2, 0 for none.",
    )
