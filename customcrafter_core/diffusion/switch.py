"""Two phases whose border is told in another unit than steps: a percentage of them, or a noise level.

K steps are the paper's unit, but not the same noise everywhere: 5 of 50 steps end at timestep 881 with one scheduler, at 998
with another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from .schedule import TRAIN_TIMESTEPS

NoiseUnit = Literal["timestep", "sigma"]

SAME_TIMESTEP = 1e-3
SAME_SIGMA = 1e-6
"""Relative. Levels nearer than this are one."""


@dataclass(frozen=True)
class PercentSwitch:
    """``lambda_s`` in the first ``percent`` of the steps, rounded to whole steps; ``lambda_l`` in all later ones."""

    lambda_s: float
    lambda_l: float
    percent: float

    def __post_init__(self) -> None:
        _check_within("a percentage of the steps", self.percent, 100)

    def __call__(self, step: int, steps: int) -> float:
        """Strength at ``step``, counted from 0."""
        return self.lambda_s if step < self.k(steps) else self.lambda_l

    def k(self, steps: int) -> int:
        """How many steps ``lambda_s`` lasts."""
        return math.floor(steps * self.percent / 100 + 0.5)


@dataclass(frozen=True)
class NoiseSwitch:
    """``lambda_s`` above a noise level, ``lambda_l`` from it on, whatever the number of steps."""

    lambda_s: float
    lambda_l: float
    level: float
    unit: NoiseUnit

    def __post_init__(self) -> None:
        _check_within(f"a {self.unit}", self.level, TRAIN_TIMESTEPS if self.unit == "timestep" else math.inf)

    def at(self, level: float) -> float:
        """Strength of a step that begins at a noise level in this unit."""
        return self.lambda_s if self.is_early(level) else self.lambda_l

    def is_early(self, level: float) -> bool:
        """Whether a step that begins at this level runs at ``lambda_s``."""
        same = SAME_TIMESTEP if self.unit == "timestep" else SAME_SIGMA * self.level
        return level > self.level + same


def _check_within(what: str, value: Any, most: float) -> None:
    """Raises:
    InputError: it is no number from 0 to ``most``.
    """
    if not (isinstance(value, (int, float)) and 0 <= value <= most and math.isfinite(value)):
        ends = f"{what}, 0 or more" if math.isinf(most) else f"{what} from 0 to {most:g}"
        raise InputError(expected=ends, found=f"{value!s:.40}", remedy="Change where the strength switches.")
