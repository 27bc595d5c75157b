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
    crossed: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of values, such as one per video, with its percentile interval (Efron 1979), by `scipy.stats.bootstrap`.

    Of ``n`` units ``n`` are drawn with replacement, ``resamples`` times; the interval holds the middle ``level`` of the
    means of these draws. For two methods on the same prompts and seeds give the differences, pair by pair.

    Args:
        values: finite numbers.
        groups: the unit of each value, such as the subject that a video shows: whole units are drawn, because the values
            of one are alike. None: each value is one.
        crossed: a second unit of each value that is drawn independently, as pairs of videos are of the people who judged
            them (the pigeonhole bootstrap, Owen 2007).
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
    mean, factors = float(numbers.mean()), [range(len(numbers)) if groups is None else groups]
    factors += [] if crossed is None else [crossed]
    places = [_numbered(factor) for factor in factors]
    places = [place for place in places if place.max() > 0]  # a single unit has nothing to be drawn from
    if not places:
        return Interval(mean, None, None, len(numbers), level)
    from scipy.stats import bootstrap

    shape = tuple(int(place.max()) + 1 for place in places)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, tuple(places), numbers)
    np.add.at(counts, tuple(places), 1)

    def mean_of(*drawn: np.ndarray, axis: int) -> np.ndarray:
        """Means ``(draws,)`` of units drawn ``(draws, n)``; of two kinds every pair of drawn ones counts."""
        cells = drawn if len(drawn) == 1 else (drawn[0][..., :, None], drawn[1][..., None, :])
        axes = tuple(range(-len(drawn), 0))
        count = counts[cells].sum(axes)
        return np.where(count > 0, sums[cells].sum(axes) / np.maximum(count, 1), mean)

    found = bootstrap(
        [np.arange(size) for size in shape], mean_of, n_resamples=resamples, vectorized=True, method="percentile",
        confidence_level=level, batch=max(NUMBERS_AT_ONCE // sums.size, 1), random_state=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(mean, float(found.low), float(found.high), len(numbers), level)


def outermost(*units: Sequence[Hashable]) -> int:
    """Which of several units, the outermost first (subjects, trainings, videos), is the first with two or more.

    Its values are to be drawn together: what lies within a subject is alike, so that intervals over single videos are
    far too narrow.
    """
    return next((i for i, labels in enumerate(units) if len(set(labels)) > 1), len(units) - 1)


def _numbered(labels: Sequence[Hashable]) -> np.ndarray:
    """Labels as numbers from 0."""
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([index[label] for label in labels])
