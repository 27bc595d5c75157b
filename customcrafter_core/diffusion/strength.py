"""How strong the subject is at each denoising step: the paper's two phases, or any curve.

A strength schedule is a pure function ``(step, steps) -> strength`` with ``step`` counted from 0 in the order of
sampling, on the real list of timesteps.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

StrengthSchedule = Callable[[int, int], float]

# The paper's values, the defaults everywhere.
LAMBDA_S, LAMBDA_L, K = 0.4, 0.8, 5


@dataclass(frozen=True)
class TwoPhase:
    """Algorithm 1 of the paper: the first ``k`` steps at ``lambda_s``, all later ones at ``lambda_l``.

    ``k = 0`` is ``lambda_l`` throughout, ``k >= steps`` is ``lambda_s`` throughout.
    """

    lambda_s: float = LAMBDA_S
    lambda_l: float = LAMBDA_L
    k: int = K

    def __post_init__(self) -> None:
        _finite("lambda_s", self.lambda_s)
        _finite("lambda_l", self.lambda_l)
        if not _is_count(self.k):
            raise InputError(
                expected="K, a whole number of steps, 0 or more", found=_shown(self.k), remedy=f"The paper uses {K}."
            )

    def __call__(self, step: int, steps: int) -> float:
        """Strength at ``step``, counted from 0."""
        return self.lambda_s if step < self.k else self.lambda_l


@dataclass(frozen=True)
class Constant:
    """The same strength at every step."""

    strength: float

    def __post_init__(self) -> None:
        _finite("strength", self.strength)

    def __call__(self, step: int, steps: int) -> float:
        """The strength."""
        return self.strength


@dataclass(frozen=True)
class Curve:
    """Strength over progress: points ``(progress 0 … 1, strength)``, linear between, flat outside.

    Progress is ``step / (steps - 1)``: 0 at the first step, 1 at the last.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError(expected="at least one point of the curve", found="none", remedy="Write 0:0.4, 1:0.8.")
        for progress, strength in self.points:
            _finite("strength", strength)
            if not 0 <= progress <= 1:
                raise InputError(expected="progress from 0 to 1", found=f"{progress}", remedy="Write 0:0.4, 1:0.8.")
        object.__setattr__(self, "points", tuple(sorted(self.points, key=lambda point: point[0])))

    @classmethod
    def parse(cls, text: str) -> Curve:
        """Read ``progress:strength`` points, as in ``0:0.4, 0.1:0.8``.

        Raises:
            InputError: the text is not of this form.
        """
        try:
            pairs = [part.split(":") for part in text.replace(";", ",").split(",") if part.strip()]
            return cls(tuple((float(progress), float(strength)) for progress, strength in pairs))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                expected="points progress:strength separated by commas",
                found=repr(text),
                remedy="Write 0:0.4, 0.1:0.8.",
            ) from error

    @classmethod
    def sampled(cls, strengths: Sequence[float]) -> Curve:
        """A curve from equally spaced samples, the first at progress 0, the last at 1."""
        last = max(len(strengths) - 1, 1)
        return cls(tuple((i / last, float(strength)) for i, strength in enumerate(strengths)))

    def __call__(self, step: int, steps: int) -> float:
        """Strength at ``step`` of ``steps``, counted from 0."""
        progress = step / (steps - 1) if steps > 1 else 0.0
        right = bisect.bisect_right([x for x, _ in self.points], progress)
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (x0, y0), (x1, y1) = self.points[right - 1], self.points[right]
        return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)


def strengths_of(schedule: StrengthSchedule, steps: int) -> list[float]:
    """The strength at every step.

    Raises:
        InputError: the schedule gives a value that is not a finite number.
    """
    return [_finite("strength", schedule(step, steps)) for step in range(steps)]


def remark_on(schedule: StrengthSchedule, steps: int) -> str:
    """What a person may not expect of a schedule over so many steps; empty if there is nothing."""
    if isinstance(schedule, TwoPhase) and schedule.k >= steps and schedule.lambda_s != schedule.lambda_l:
        return f"K {schedule.k} covers all {steps} steps: λs {schedule.lambda_s:g} throughout, λl is never used."
    return ""


def _finite(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            expected=f"a finite {name}", found=_shown(value), remedy=f"The paper uses {LAMBDA_S} and {LAMBDA_L}."
        )
    return number


def _is_count(value: Any) -> bool:
    try:
        return float(value).is_integer() and bool(value >= 0)
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.40}" if isinstance(value, str) else f"{value!s:.40}"
    except ValueError:  # Python does not write out whole numbers of thousands of digits
        return "a number of thousands of digits"
