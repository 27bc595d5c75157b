"""The inputs that several nodes share to say how strength follows the steps."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..customcrafter_core.diffusion.schedule import STEPS, TRAIN_TIMESTEPS
from ..customcrafter_core.diffusion.strength import LAMBDA_L, LAMBDA_S, Curve, K, StrengthSchedule, TwoPhase
from ..customcrafter_core.diffusion.switch import NoiseSwitch, PercentSwitch
from . import host

STEP = 0.01
STEPS_UNIT = "steps"
UNITS = [STEPS_UNIT, "percent", "timestep", "sigma"]
OF_SUBJECT = (0.0, 2.0)
OF_LORA = (-3.0, 3.0)  # LoRAs made as sliders are used below 0, too


def strength_inputs(least: float, most: float) -> list[io.Input]:
    """λs and λl from ``least`` to ``most``, K and a curve."""
    scale: dict[str, Any] = {
        "min": least,
        "max": most,
        "step": STEP,
        "display_mode": io.NumberDisplay.slider,
    }
    return [
        io.Float.Input(
            "lambda_s",
            default=LAMBDA_S,
            tooltip="λs: strength in the first K steps, where the motion is made. Small keeps the base model's motion.",
            **scale,
        ),
        io.Float.Input(
            "lambda_l",
            default=LAMBDA_L,
            tooltip="λl: strength in all later steps, where the looks of the subject are made.",
            **scale,
        ),
        io.Int.Input(
            "k",
            default=K,
            min=0,
            max=STEPS,
            display_mode=io.NumberDisplay.slider,
            tooltip="K: how many steps λs lasts. 0: λl throughout.",
        ),
        host.advanced(
            host.curve_input(
                "curve",
                "Instead of λs, λl and K: strength over progress, in straight lines between points: 0:0.4, 0.1:0.8 rises "
                "from 0.4 to 0.8 in the first tenth of the steps (or a curve of the host's own). Empty: not used.",
            )
        ),
    ]


def part_inputs() -> list[io.Input]:
    """For samplers that run only a part of the steps; names and limits as in the host's KSampler Advanced."""
    count: dict[str, Any] = {"default": 0, "min": 0, "max": 10000, "optional": True}
    inputs = [
        io.Int.Input(
            "start_at_step",
            tooltip="For KSampler Advanced: its start_at_step, the steps already done before this sampler.",
            **count,
        ),
        io.Int.Input(
            "total_steps",
            tooltip="For KSampler Advanced: its steps, which are all steps of all samplers. 0: this sampler runs to "
            "the end.",
            **count,
        ),
    ]
    return [host.advanced(given) for given in inputs]


def switch_inputs() -> list[io.Input]:
    """Where λs ends, in another unit than K; they come last, for workflows that were saved without them."""
    return [
        io.Combo.Input(
            "switch_by",
            options=UNITS,
            default=STEPS_UNIT,
            optional=True,
            tooltip="What tells where λs ends: K, or switch_at as a percentage of the steps, as a timestep or as a sigma. A "
            "noise level means the same with every scheduler and number of steps.",
        ),
        io.Float.Input(
            "switch_at",
            default=100 * K / STEPS,
            min=0.0,
            max=float(TRAIN_TIMESTEPS),
            step=0.01,
            round=0.0001,
            optional=True,
            tooltip="Where λs ends, unless switch_by is steps: percent of the steps, or the timestep or sigma from which on λl "
            "holds.",
        ),
    ]


def schedule_from(
    lambda_s: float, lambda_l: float, k: int, curve: Any = "", switch_by: str = STEPS_UNIT, switch_at: float = 0.0
) -> StrengthSchedule | NoiseSwitch:
    """The strength schedule of the inputs; sliders leave unrounded values.

    Raises:
        InputError: the curve's text is not understood, or the switch is out of range.
    """
    host.known_choice("switch_by", switch_by, UNITS)
    samples = host.curve_samples(curve) if curve else None
    if samples is not None:
        return Curve.sampled(samples)
    if curve and curve.strip():
        return Curve.parse(curve)
    low, high = round(lambda_s, 3), round(lambda_l, 3)
    if switch_by == "percent":
        return PercentSwitch(low, high, switch_at)
    if switch_by == "timestep" or switch_by == "sigma":
        return NoiseSwitch(low, high, switch_at, switch_by)
    return TwoPhase(low, high, k)
