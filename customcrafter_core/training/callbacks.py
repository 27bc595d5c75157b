"""What is told about a run while it goes on, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..sampling.generation import SampledStep
from .examples import OnEncoded
from .trainer import TrainStep


@dataclass(frozen=True)
class Sample:
    """A video of the subject as far as it was learned: frames ``(t, h, w, 3)``, float32, 0 … 1, after ``step`` steps."""

    step: int
    frames: torch.Tensor


@dataclass(frozen=True)
class Callbacks:
    """What is told while a run goes on; an exception that one of these raises ends the run, which is kept."""

    on_plan: Callable[[str], None] | None = None
    """The memory estimate, before the first step."""
    on_encoded: OnEncoded | None = None
    on_resumed: Callable[[int, int], None] | None = None
    """Before the first step of a run that is continued: how many steps it has made, and of how many."""
    on_step: Callable[[TrainStep], None] | None = None
    on_sample: Callable[[Sample], None] | None = None
    on_sampled_step: Callable[[SampledStep], None] | None = None
    """While a sample video is made."""
    on_saved: Callable[[int, int], None] | None = None
    """After a stop, when what was learned is written: how many steps were made, and of how many."""
