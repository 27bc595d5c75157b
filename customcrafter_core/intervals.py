"""Means with confidence intervals, by bootstrap."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import InputError

LEVEL, RESAMPLES = 0.95, 10_000
NUMBERS_AT_ONCE = 10_000_000


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval; a single value, or a single group, has none."""

    mean: float
    low: float | None
    high: float | None
    count: int
    """Values behind the mean."""
    level: float = LEVEL

    def __str__(self) -> str:
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{bounds}"


def bootstrap_mean(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of values, such as one per video, with its percentile interval (Efron 1979).

    Of ``n`` values ``n`` are drawn with replacement, ``resamples`` times; the interval holds the middle ``level`` of the
    means of these draws. For two methods on the same prompts and seeds give the differences, pair by pair.

    Args:
        values: finite numbers.
        groups: what each value belongs to, such as the person who gave it; whole groups are then drawn, because the
            values of one are alike.
        level: share of the means inside, between 0 and 1.
        resamples: how many draws.
        seed: of the draws: the same values give the same interval.

    Raises:
        InputError: no values, or one that is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size or not np.isfinite(numbers).all():
        found = "none" if not numbers.size else "NaN or infinity"
        raise InputError(expected="finite values to take the mean of", found=found, remedy="Leave such videos out.")
    labels = list(range(len(numbers))) if groups is None else list(groups)
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    member = np.array([index[label] for label in labels])
    sums, counts = np.bincount(member, numbers), np.bincount(member).astype(np.float64)
    if len(sums) < 2:
        return Interval(float(numbers.mean()), None, None, len(numbers), level)
    rng, means = np.random.default_rng(seed), []
    at_once = max(NUMBERS_AT_ONCE // len(sums), 1)
    for start in range(0, resamples, at_once):
        drawn = rng.integers(len(sums), size=(min(at_once, resamples - start), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(numbers.mean()), float(low), float(high), len(numbers), level)
