"""Means, differences and claims from the rows that `benchmarks.demo_world` measures, one per video.

Videos of one training are alike, so intervals resample whole trainings (for the base model: videos).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from customcrafter_core.intervals import LEVEL, Interval, bootstrap_mean

Row = Mapping[str, Any]
Ways = Mapping[tuple[str, str], Sequence[Row]]
"""Training and strength -> its videos."""
MAIN, CROSS = "all attention, still prior", "cross-attention only, still prior"
NO_PRIOR, MOVING_PRIOR = "all attention, no prior", "all attention, moving prior"
LATE = "all attention, still prior, t ≤ 600"
BASE, COMMITMENT = "base, class word", "commitment"
CONSTANT = "constant 0.8"
DRAWS = 4000


def group(videos: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Videos by training and strength, in the order of their first."""
    ways: dict[tuple[str, str], list[Row]] = {}
    for row in videos:
        ways.setdefault((row["variant"], row["way"]), []).append(row)
    return ways


def training_of(row: Row) -> Hashable:
    """The training a video belongs to; a video of the base model stands alone."""
    return (row["subject"], row["seed"]) if row["subject"] else (row["seed"], row["noise"])


def key(row: Row) -> tuple[Any, ...]:
    """What two videos made with different settings share: subject, training seed and noise."""
    return row["subject"], row["seed"], row["noise"]


def interval(part: Sequence[Row], measure: str) -> Interval | None:
    """Mean of a measure over the videos that have it."""
    having = [row for row in part if measure in row]
    if not having:
        return None
    return bootstrap_mean([float(row[measure]) for row in having], groups=[training_of(row) for row in having])


def difference(part: Sequence[Row], other: Sequence[Row], measure: str) -> Interval:
    """Difference of two means, paired where both sides have a video of the same subject, seed and noise."""
    partners = {key(row): row for row in other}
    both = [row for row in part if key(row) in partners]
    if both:
        values = [float(row[measure]) - float(partners[key(row)][measure]) for row in both]
        return bootstrap_mean(values, groups=[training_of(row) for row in both])
    own, theirs = (_drawn_means(rows, measure, seed) for seed, rows in enumerate((part, other)))
    low, high = np.quantile(own[1:] - theirs[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(own[0] - theirs[0]), float(low), float(high), len(part))


def _drawn_means(rows: Sequence[Row], measure: str, seed: int) -> np.ndarray:
    """Means ``(1 + DRAWS,)``: first over all rows, then with whole trainings resampled."""
    groups: dict[Hashable, list[float]] = {}
    for row in rows:
        groups.setdefault(training_of(row), []).append(float(row[measure]))
    sums, counts = (np.array([f(values) for values in groups.values()]) for f in (sum, len))
    drawn = np.random.default_rng(seed).integers(len(sums), size=(DRAWS, len(sums)))
    return np.concatenate([[sums.sum() / counts.sum()], sums[drawn].sum(1) / counts[drawn].sum(1)])


def paired(ways: Ways) -> dict[str, dict[str, Interval]]:
    """Paired differences: dynamic strengths against constant 0.8, other trainings against the main one."""
    found = {}
    for (variant, way), part in ways.items():
        if variant == MAIN and way.startswith("dynamic"):
            name, other = f"{way} against {CONSTANT}", ways[MAIN, CONSTANT]
        elif variant not in (MAIN, BASE) and (MAIN, way) in ways:
            name, other = f"{variant} against {MAIN}, {way}", ways[MAIN, way]
        else:
            continue
        found[name] = {measure: difference(part, other, measure) for measure in ("motion", "similarity")}
    return found


def against_constants(ways: Ways, seed: int = 0) -> dict[str, Interval]:
    """Motion of dynamic strengths minus that of a constant strength of equal similarity, interpolated between constants.

    Trainings are resampled together with all their settings, so the interval covers the interpolation too. Outside the
    constants' own similarities, the nearest one is used.
    """
    names = [way for variant, way in ways if variant == MAIN]
    by_way = {way: {key(row): row for row in ways[MAIN, way]} for way in names}
    videos = sorted(set.intersection(*(set(rows) for rows in by_way.values())), key=repr)
    trainings = {
        training: i for i, training in enumerate(dict.fromkeys(training_of(by_way[names[0]][k]) for k in videos))
    }
    member = [trainings[training_of(by_way[names[0]][k])] for k in videos]
    sums = {way: np.zeros((len(trainings), 2)) for way in names}
    for way, rows in by_way.items():
        values = [[float(rows[k]["similarity"]), float(rows[k]["motion"])] for k in videos]
        np.add.at(sums[way], member, np.array(values))
    counts = np.bincount(member)
    rng = np.random.default_rng(seed)
    draws = [np.arange(len(trainings)), *rng.integers(len(trainings), size=(DRAWS, len(trainings)))]
    found: dict[str, list[float]] = {way: [] for way in names if way.startswith("dynamic")}
    for draw in draws:
        means = {way: total[draw].sum(0) / counts[draw].sum() for way, total in sums.items()}
        constants = np.array(sorted(tuple(means[way]) for way in names if way.startswith("constant")))
        for way, differences in found.items():
            similarity, motion = means[way]
            differences.append(float(motion - np.interp(similarity, constants[:, 0], constants[:, 1])))
    ends = {way: np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) for way, values in found.items()}
    return {way: Interval(v[0], float(ends[way][0]), float(ends[way][1]), len(videos)) for way, v in found.items()}


@dataclass(frozen=True)
class Claim:
    """A claim, by how much it holds here, and the measure used."""

    text: str
    measure: str
    by: Interval
    """Above 0 if the claim holds."""

    @property
    def verdict(self) -> str:
        """``yes`` or ``the opposite`` if the interval excludes 0, else ``not shown``."""
        if self.by.low is not None and self.by.low > 0:
            return "yes"
        return "the opposite" if self.by.high is not None and self.by.high < 0 else "not shown"


def claims(ways: Ways) -> list[Claim]:
    """The paper's claims and those of later work, as far as the rows contain what they compare."""
    dynamics = [way for variant, way in ways if variant == MAIN and way.startswith("dynamic")]
    all_of: list[tuple[str, str, tuple[str, str], tuple[str, str]]] = [
        ("A trained subject looks more like the subject than the base model's toys do", "similarity",
         (MAIN, CONSTANT), (BASE, BASE)),
        ("A subject trained on stills freezes motion", "motion", (BASE, BASE), (MAIN, CONSTANT)),
        *((f"{way[0].upper()}{way[1:]}: more motion than {CONSTANT}", "motion", (MAIN, way), (MAIN, CONSTANT))
          for way in dynamics),
        *((f"{way[0].upper()}{way[1:]}: less similar than {CONSTANT}", "similarity", (MAIN, CONSTANT), (MAIN, way))
          for way in dynamics),
        ("LoRA on self- and cross-attention is more similar than on cross-attention only", "similarity",
         (MAIN, CONSTANT), (CROSS, CONSTANT)),
        ("Prior images preserve motion", "motion", (MAIN, CONSTANT), (NO_PRIOR, CONSTANT)),
        ("Moving prior clips preserve more motion than still images", "motion", (MOVING_PRIOR, CONSTANT), (MAIN, CONSTANT)),
        ("Trained at t ≤ 600 only: more motion", "motion", (LATE, CONSTANT), (MAIN, CONSTANT)),
        ("Trained at t ≤ 600 only: less similar", "similarity", (MAIN, CONSTANT), (LATE, CONSTANT)),
    ]  # fmt: skip
    found = [
        Claim(text, measure, difference(ways[more], ways[less], measure))
        for text, measure, more, less in all_of
        if more in ways and less in ways
    ]
    beats = "more motion than a constant strength of equal similarity"
    return found + [
        Claim(f"{way[0].upper()}{way[1:]}: {beats}", "motion", by) for way, by in against_constants(ways).items()
    ]


def commitment_curve(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each step at which the prompt switches, the shares of videos that follow the first and the second prompt."""
    turned = [row for row in rows if row["variant"] == COMMITMENT]
    return [
        {
            "k": k,
            "first": interval([row for row in turned if row["k"] == k], "first"),
            "second": interval([row for row in turned if row["k"] == k], "second"),
        }
        for k in sorted({row["k"] for row in turned})
    ]
