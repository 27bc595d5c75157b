"""The inputs of Evaluate Video."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..customcrafter_core.evaluation.dynamic_degree import VBENCH_FPS
from ..customcrafter_core.subject.placeholder import PLACEHOLDER
from . import host

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
        io.Image.Input("frames", tooltip="The video's frames, from VAE Decode."),
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            tooltip="The prompt the video was made from. Leave empty to skip CLIP-T.",
        ),
        io.Int.Input(
            "fps",
            default=VBENCH_FPS,
            min=1,
            max=240,
            tooltip="Frames per second at which it plays, for dynamic degree.",
        ),
        io.Image.Input("photos", optional=True, tooltip="The subject's photos, for CLIP-I and DINO-I."),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="From Load CLIP Vision: replaces the model chosen in clip for CLIP-I and temporal consistency.",
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
                tooltip="Learned tokens, separated by spaces. They are removed from the prompt, because CLIP does not know them.",
            )
        ),
        host.advanced(
            io.Boolean.Input(
                "literal",
                default=False,
                optional=True,
                tooltip="Keep the tokens in the prompt, as the authors' code does.",
            )
        ),
        host.advanced(
            io.Int.Input(
                "videos",
                default=1,
                min=1,
                max=4096,
                optional=True,
                tooltip="How many videos of equal length the frames hold, such as a batch or a sweep.",
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
