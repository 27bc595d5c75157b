"""The inputs of the trainer: what they mean and their defaults come from the core's settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..customcrafter_core.errors import InputError
from ..customcrafter_core.training.config import (
    GRADIENT_CHECKPOINTING,
    MAX_LR,
    PRESETS,
    PRIOR_PICTURES,
    PRIOR_STEPS,
    TrainConfig,
)
from ..customcrafter_core.training.methods import METHODS
from ..customcrafter_core.training.run_options import RunOptions
from . import host

PRESETS_OWN = "the preset's own"
CONTINUE, ANEW = "continue", "start over"
STARTS = [CONTINUE, ANEW]
SETTINGS = {entry.name: entry for entry in (*fields(TrainConfig), *fields(RunOptions))}
UNSET = {"steps": 0, "lr": 0.0, "rank": 0, "frames": 0, "batch": 0, "views": 0, "prior_weight": -1.0,
         "method": PRESETS_OWN}  # fmt: skip
"""Settings that presets decide -> the value that leaves it to them."""
NUMBERS: dict[str, dict[str, Any]] = {
    "steps": {"max": 1_000_000},
    "rank": {"max": 256},
    "frames": {"max": 64},
    "batch": {"max": 64},
    "views": {"max": 512},
}
BETWEEN = " \t\r\n,;"
SETTING_NAME = re.compile(rf"[{BETWEEN}]*([A-Za-z_]\w*)\s*=\s*")
OFTEN = ["checkpoint_every", "sample_every"]


def basic_inputs() -> list[io.Input]:
    """What everyone has to look at."""
    return [
        io.String.Input("class_word", default="", tooltip=f"{help_of('class_word')}. Use it in prompts."),
        io.String.Input("token", default=SETTINGS["placeholder"].default, tooltip=f"{help_of('placeholder')}."),
        io.String.Input(
            "name",
            default="subject",
            tooltip="File name in models/loras, without folder; .safetensors is added. Load Subject lists it.",
        ),
        io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default=next(iter(PRESETS)),
            tooltip="Settings to start from: paper as in the paper; quick in fewer steps, not measured on VideoCrafter2 yet; "
            "demo for the built-in demo model only; the others are what the paper is compared with.",
        ),
        _number("steps"),
        io.Float.Input("lr", default=UNSET["lr"], min=0.0, max=MAX_LR, step=1e-7, round=1e-7, tooltip=meaning_of("lr")),
        io.Int.Input(
            "seed",
            default=SETTINGS["seed"].default,
            min=0,
            max=2**32 - 1,
            control_after_generate=False,  # a run is continued with the same seed
            tooltip=f"{help_of('seed')}.",
        ),
        io.Combo.Input(
            "start",
            options=STARTS,
            default=CONTINUE,
            tooltip="continue: go on where a run of this name was stopped, if there is one. "
            "start over: forget it, each time this runs.",
        ),
    ]


def optional_inputs() -> list[io.Input]:
    """Captions and pictures of the class."""
    lines = "a line for each, such as: a teddy bear on a kitchen counter. The class word or {} in it is the subject; "
    lines += "an empty line: the method's own."
    return [
        # sockets: text boxes that most leave empty would make the node twice as tall
        io.String.Input("captions", optional=True, force_input=True, tooltip=f"What the photos show: {lines}"),
        io.Image.Input(
            "prior", optional=True, tooltip="Pictures of other things of the class, so that the class is not forgotten."
        ),
        io.String.Input(
            "prior_captions",
            optional=True,
            force_input=True,
            tooltip="What the prior pictures show: a line for each, with the class word; {} stands for it.",
        ),
        io.Int.Input(
            "make_prior",
            default=0,
            min=0,
            max=10_000,
            optional=True,
            tooltip="Let the base model make so many prior pictures, each from a short video of "
            f"{PRIOR_STEPS} steps; they are kept in the output folder and used again. The paper has {PRIOR_PICTURES}.",
        ),
        io.Mask.Input(
            "masks",
            optional=True,
            tooltip="White where the subject is, one for each photo: the loss counts there, and "
            "mask_background times elsewhere. What is transparent does not count either. Load Image's own MASK is the opposite: "
            "put Invert Mask between.",
        ),
    ]


def advanced_inputs() -> list[io.Input]:
    """What is folded away."""
    inputs = [
        io.Boolean.Input(
            "prior_clips", default=False, optional=True, tooltip="Make moving clips instead of still prior pictures."
        ),
        io.Combo.Input(
            "method",
            options=[PRESETS_OWN, *METHODS],
            default=PRESETS_OWN,
            optional=True,
            tooltip=meaning_of("method"),
        ),
        *(_number(name, optional=True) for name in ("rank", "frames", "batch", "views")),
        io.Float.Input(
            "prior_weight",
            default=UNSET["prior_weight"],
            min=-1.0,
            max=100.0,
            step=0.01,
            optional=True,
            tooltip=meaning_of("prior_weight"),
        ),
        io.Combo.Input(
            "gradient_checkpointing",
            options=list(GRADIENT_CHECKPOINTING),
            default=SETTINGS["gradient_checkpointing"].default,
            optional=True,
            tooltip=f"{help_of('gradient_checkpointing')}.",
        ),
        io.String.Input(
            "settings",
            default="",
            optional=True,
            tooltip="Any other settings of the command line's train: resize = [0.6, 1.2], min_snr_gamma = 5.0",
        ),
        *(_steering_number(name, 1_000_000) for name in OFTEN),
        io.String.Input(
            "sample_prompt",
            default=SETTINGS["sample_prompt"].default,
            optional=True,
            tooltip=f"{help_of('sample_prompt')}.",
        ),
        _steering_number("sample_seed", 2**32 - 1),
        _steering_number("sample_steps", 1000, least=1),
    ]
    return [host.advanced(given) for given in inputs]


def help_of(name: str) -> str:
    """What a setting means."""
    text: str = SETTINGS[name].metadata["help"]
    return text[0].upper() + text[1:]


def meaning_of(name: str) -> str:
    """What a setting means, and what presets make of it."""
    if name == "method":
        return f"{help_of(name)}."
    values = {preset: own.get(name, SETTINGS[name].default) for preset, own in PRESETS.items()}
    shared = SETTINGS[name].default
    others = "".join(f", {value} with {preset}" for preset, value in values.items() if value != shared)
    return f"{help_of(name)}. {UNSET[name]:g}: the preset's own, which is {shared}{others}."


def _number(name: str, *, optional: bool = False) -> io.Input:
    """A whole number that presets decide if it is 0."""
    return io.Int.Input(name, default=UNSET[name], min=0, optional=optional, tooltip=meaning_of(name), **NUMBERS[name])


def _steering_number(name: str, most: int, *, least: int = 0) -> io.Input:
    default = SETTINGS[name].default
    return io.Int.Input(name, default=default, min=least, max=most, optional=True, tooltip=f"{help_of(name)}.")


def config_from(given: Mapping[str, Any]) -> TrainConfig:
    """The settings of the inputs: a widget's value, else that of the text ``settings``, else the preset's.

    Raises:
        InputError: a value is out of range, or the text is not understood.
    """
    preset = host.known_choice("preset", given["preset"], list(PRESETS))
    own = {name: given[name] for name, unset in UNSET.items() if name in given and given[name] != unset}
    own |= {"class_word": given["class_word"].strip(), "placeholder": given["token"].strip(), "seed": given["seed"]}
    if "gradient_checkpointing" in given:
        own["gradient_checkpointing"] = given["gradient_checkpointing"]
    return TrainConfig.from_metadata({**PRESETS[preset], **settings_of(given.get("settings", "")), **own})


def settings_of(text: str) -> dict[str, Any]:
    """Settings ``name = value``, one after the other, with values as in JSON.

    Raises:
        InputError: the text is something else.
    """
    found: dict[str, Any] = {}
    text, place, decoder = text.rstrip(BETWEEN), 0, json.JSONDecoder()
    while place < len(text):
        name = SETTING_NAME.match(text, place)
        try:
            if name is None:
                raise ValueError("no name")
            found[name[1]], place = decoder.raw_decode(text, name.end())
        except (ValueError, RecursionError) as error:
            raise InputError(
                expected="settings such as: min_snr_gamma = 5.0, resize = [0.6, 1.2]",
                found=repr(text[place:].strip(BETWEEN)),
                remedy='Write texts in quotes ("l1"), pairs in brackets.',
            ) from error
    return found


def run_options_from(given: Mapping[str, Any], target: Path, *, start_over: bool) -> RunOptions:
    """How the run is watched and kept.

    Raises:
        InputError: a value is out of range.
    """
    names = [entry.name for entry in fields(RunOptions) if entry.name in given and entry.default is not MISSING]
    return RunOptions(
        target=target, start_over=start_over, **{name: given[name] for name in names if name != "start_over"}
    )


def single(name: str, values: Sequence[Any]) -> Any:
    """The one value of an input that takes one; the host hands this node lists.

    Raises:
        InputError: there are several.
    """
    if len(values) != 1:
        raise InputError(expected=f"one {name}", found=f"{len(values)}", remedy="Connect a single value, not a list.")
    return values[0]
