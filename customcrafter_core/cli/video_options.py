"""The options that say what video to make and how, of the commands that make some."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_base_options, add_setting

if TYPE_CHECKING:
    from ..sampling.settings import VideoSettings

CALLING = "name a subject by its trigger, such as <new1> teddy bear"
ANY_BASE = "accept subjects trained on a different base model"


def add_prompt_options(parser: argparse.ArgumentParser, *, about: str = CALLING) -> None:
    """Add ``--prompt``, with ``about`` it in its help, and ``--negative``."""
    from ..sampling.settings import VideoSettings

    parser.add_argument("--prompt", required=True, metavar="TEXT", help=f"what the video shows; {about}")
    add_setting(parser, VideoSettings, "negative", "what the video should not show", metavar="TEXT")


def add_video_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add size, seed, sampling and base model.

    Args:
        parser: gets the options.
        several: whether the command makes a batch of videos.
    """
    from ..output.video import PLAYBACK_FPS
    from ..sampling.settings import VideoSettings

    video = parser.add_argument_group("video")
    sizes = {"width": "pixels", "height": "pixels", "frames": f"frames; files play {PLAYBACK_FPS} a second"}
    for name, unit in {**sizes, "fps": "frames per second given to the model; a lower rate means more motion"}.items():
        add_setting(video, VideoSettings, name, unit, or_own=True)
    sampling = parser.add_argument_group("sampling")
    seed = "of the noise; the same seed gives the same video (default: 0)"
    if several:
        add_setting(video, VideoSettings, "batch", "number of videos; video i uses seed + i")
    add_setting(sampling, VideoSettings, "seed", seed)
    add_setting(sampling, VideoSettings, "steps", "denoising steps")
    add_setting(sampling, VideoSettings, "cfg", "guidance scale", metavar="X", or_own=True)
    add_setting(sampling, VideoSettings, "eta", "0 is deterministic, 1 as noisy as the DDPM", metavar="X")
    add_setting(sampling, VideoSettings, "exact_tail", "end at the clean latent instead of VideoCrafter2's timestep 0")
    add_setting(sampling, VideoSettings, "guidance", "run the two predictions of guidance together or one by one")
    add_base_options(parser)


def add_out(parser: argparse.ArgumentParser, gets: str) -> None:
    """Add ``--out``, the folder that gets the results."""
    shown = f"{gets} (default: ./output)"
    parser.add_argument("--out", type=Path, default=Path("output"), metavar="FOLDER", help=shown)


def settings_of(options: argparse.Namespace) -> VideoSettings:
    """The settings of the options; what was not given is the base model's own."""
    from ..diffusion.guidance import GuidanceBatch
    from ..sampling.settings import VideoSettings

    values = {item.name: getattr(options, item.name, None) for item in fields(VideoSettings)}
    given = {name: value for name, value in values.items() if value is not None}
    return VideoSettings(**{**given, "guidance": GuidanceBatch(given["guidance"])})
