"""What video to make and how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..diffusion.ddim import ETA
from ..diffusion.guidance import GuidanceBatch
from ..diffusion.schedule import STEPS
from ..errors import InputError

if TYPE_CHECKING:
    from ..base_model.model import VideoCrafter2


@dataclass(frozen=True)
class VideoSettings:
    """What video to make and how. Zero for a size, frames, fps or cfg, the default, means the model's own."""

    prompt: str
    negative: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    fps: int = 0
    batch: int = 1
    seed: int = 0
    steps: int = STEPS
    cfg: float = 0.0
    eta: float = ETA
    exact_tail: bool = False
    guidance: GuidanceBatch = GuidanceBatch.AUTO


def resolve(model: VideoCrafter2, settings: VideoSettings) -> VideoSettings:
    """The settings with the model's own values where none are given.

    Raises:
        InputError: the frame rate or the guidance scale is out of range.
    """
    own = model.defaults
    names = ("width", "height", "frames", "fps", "cfg")
    settings = replace(settings, **{name: getattr(settings, name) or getattr(own, name) for name in names})
    if not 1 <= settings.fps <= 60:
        raise InputError(expected="1 to 60 frames per second", found=f"{settings.fps}", remedy=f"Try {own.fps}.")
    if not 1 <= settings.cfg < float("inf"):
        raise InputError(expected="a guidance scale of 1 or more", found=f"{settings.cfg}", remedy=f"Try {own.cfg}.")
    return settings
