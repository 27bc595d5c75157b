"""The inputs of the nodes that score videos and compare strengths."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..customcrafter_core.errors import InputError
from ..customcrafter_core.evaluation.dynamic_degree import VBENCH_FPS
from ..customcrafter_core.subject.placeholder import PLACEHOLDER
from . import host
from .inputs import step_inputs
from .strength_inputs import OF_SUBJECT

NONE = "none"
ENCODERS, FLOWS = "clip_vision", host.model_folder("optical_flow")


def encoder_folders() -> dict[str, Path]:
    """Folders with a model in the layout of transformers in the host's folder of image encoders, by name."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(ENCODERS)]
    found = [config.parent for root in roots for config in sorted(root.glob("*/config.json"))]
    return {folder.name: folder for folder in reversed(found)}  # the first of a name counts


def video_inputs() -> list[io.Input]:
    """What is scored."""
    return [
        io.Image.Input("frames", tooltip="All frames of the video, from VAE Decode."),
        io.String.Input("prompt", default="", multiline=True, tooltip="What it was made from. Empty: no CLIP-T."),
        io.Int.Input(
            "fps", default=VBENCH_FPS, min=1, max=240, tooltip="Frames per second it plays at, for dynamic degree."
        ),
        io.Image.Input("photos", optional=True, tooltip="The subject's photos, for CLIP-I and DINO-I."),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="A CLIP of Load CLIP Vision, for CLIP-I and temporal consistency, instead of one in clip.",
        ),
    ]


def model_inputs() -> list[io.Input]:
    """What it is scored with."""
    names = [NONE, *encoder_folders()]
    where = "A folder in models/clip_vision with the files of"
    return [
        io.Combo.Input(
            "clip",
            options=names,
            default=NONE,
            optional=True,
            tooltip=f"{where} openai/clip-vit-base-patch32: CLIP-T, CLIP-I, temporal consistency.",
        ),
        io.Combo.Input(
            "dino", options=names, default=NONE, optional=True, tooltip=f"{where} facebook/dino-vits16: DINO-I."
        ),
        io.Combo.Input(
            "raft",
            options=[NONE, *folder_paths.get_filename_list(FLOWS)],
            default=NONE,
            optional=True,
            tooltip="torchvision's raft_large_C_T_SKHT_V2 in models/optical_flow: dynamic degree.",
        ),
        host.advanced(
            io.String.Input(
                "token",
                default=PLACEHOLDER,
                optional=True,
                tooltip="Learned tokens, apart by spaces: taken out of the prompt, because CLIP does not know them.",
            )
        ),
        host.advanced(
            io.Boolean.Input(
                "literal", default=False, optional=True, tooltip="Leave the token in, as the authors' code does."
            )
        ),
        host.advanced(
            io.Int.Input(
                "videos",
                default=1,
                min=1,
                max=4096,
                optional=True,
                tooltip="How many videos of the same length the frames are, such as those of a batch or of a sweep.",
            )
        ),
    ]


def chosen_folder(name: str, value: str) -> Path | None:
    """The folder behind a choice; None for none.

    Raises:
        InputError: there is none of that name.
    """
    folders = encoder_folders()
    host.known_choice(name, value, [NONE, *folders])
    return folders.get(value)


def chosen_weights(value: str) -> Path | None:
    """The file behind a choice; None for none.

    Raises:
        InputError: there is none of that name.
    """
    host.known_choice("raft", value, [NONE, *folder_paths.get_filename_list(FLOWS)])
    return None if value == NONE else Path(folder_paths.get_full_path_or_raise(FLOWS, value))


def strengths_from(name: str, text: str) -> list[float]:
    """Strengths of a list such as ``0.2, 0.4``.

    Raises:
        InputError: something else, or out of range.
    """
    least, most = OF_SUBJECT
    remedy = f"Write numbers from {least:g} to {most:g} with commas, such as 0.2, 0.4."
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
            remedy="Write numbers of steps with commas, such as 3, 5.",
        )
    return [int(part) for part in parts]


def run_inputs(model: str) -> list[io.Input]:
    """What both nodes sample with."""
    return [
        io.Model.Input("model", tooltip=model),
        io.Clip.Input("clip", tooltip="The CLIP of the same Load VideoCrafter2."),
        io.Vae.Input("vae", tooltip="The VAE of the same Load VideoCrafter2."),
        io.Latent.Input("latent_image", tooltip="One video, from Empty Video Latent."),
        io.String.Input("prompt", default="", multiline=True, tooltip="What the video shall show."),
        io.String.Input("negative", default="", multiline=True, tooltip="What it shall not show."),
        *step_inputs(),
    ]
