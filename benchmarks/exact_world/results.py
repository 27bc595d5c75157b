"""What the videos of a trial say: the setting chosen, the paper's, and where K is best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from customcrafter_core.diffusion.strength import Constant, TwoPhase

from .cases import Case, Videos, name_of, paper_way, ways_of
from .gain import best_of_constants, gain_intervals, gains, halves
from .sampling import sigma_of
from .study import GUIDED, LAW, PROMPT_ONLY, WIDELY, Trial

NEARLY = 0.05
"""A K is as good as the best if its gain is smaller by this at most."""
WORTH = 0.2
"""Where no K gains this much, none is the best."""

SHOWN_IN_FULL = (LAW, GUIDED, PROMPT_ONLY, WIDELY)

Numbers = dict[str, Any]


def summary(trial: Trial, videos: Videos) -> Numbers:
    """One trial as the JSON holds it."""
    case, ways = trial.case, ways_of(trial.case, trial.pairs)
    constant = np.array([isinstance(way, Constant) for way in ways.values()])
    choosing, judging = halves(videos.look)
    alike, moving = videos.identity, videos.moves.astype(float)
    chosen = int(
        np.where(constant, -np.inf, gains(alike[:, choosing].mean(1), moving[:, choosing].mean(1), constant)).argmax()
    )
    paper = [list(ways).index(name_of(paper_way(case.steps, factor))) for factor in (1, 2)]
    shown = [chosen, *paper]
    alike, moving, look = alike[:, judging], moving[:, judging], videos.look[judging]
    identity, motion = alike.mean(1), moving.mean(1)
    bar = best_of_constants(identity[constant], motion[constant], identity)
    in_motion = gain_intervals(alike, moving, look, constant, shown)
    in_identity = gain_intervals(moving, alike, look, constant, shown)

    def told(number: int) -> Numbers:
        i = shown[number]
        found: Numbers = {"way": videos.ways[i], "motion": motion[i], "identity": identity[i], "bar": bar[i]}
        for name, gain in (("gain", in_motion[number]), ("identity_gain", in_identity[number])):
            found[name] = [gain.mean, gain.low, gain.high]
        return found

    world = case.world("right")
    settings = {name: value for name, value in vars(case).items() if name != "identity"}
    return {
        "group": trial.group, "identity": str(case.identity), "kind": case.identity.kind, **settings,
        "parts": world.part_count, "motion_energy": world.motion_energy("right"),
        "part_energy": world.one_part_energy(), "ratio": case.ratio, "looks": int(videos.look.max()) + 1,
        "videos": len(videos.look), "blur": videos.blur,
        "chosen": told(0), "paper": told(1), "paper_double_k": told(2),
        "best_k": best_k(case, ways, gains(videos.identity.mean(1), videos.moves.mean(1), constant)),
        "ways": _means(videos) if trial.group in SHOWN_IN_FULL else {},
    }  # fmt: skip


def _means(videos: Videos) -> dict[str, list[float]]:
    """Motion and identity of every way."""
    rows = zip(videos.ways, videos.moves.mean(1), videos.identity.mean(1), strict=True)
    return {name: [float(motion), float(identity)] for name, motion, identity in rows}


def best_k(case: Case, ways: Mapping[str, Constant | TwoPhase], gain: np.ndarray) -> Numbers:
    """Where K is best with 0 → 1: gain by K over all looks, and the Ks nearly as good as the best, in every unit.

    The noise is that of the first step at λl.
    """
    ks = {way.k: float(gain[i]) for i, way in enumerate(ways.values()) if _is_full(way)}
    levels, visible = case.levels.levels, case.motion_to_noise()
    curve = [[k, sigma_of(levels[k]), float(visible[k]), g] for k, g in sorted(ks.items())]
    most = max(ks.values())
    found: Numbers = {"curve": curve, "gain": most}
    if most >= WORTH:
        good = [k for k, g in ks.items() if g >= most - NEARLY]
        best = max(ks, key=lambda k: ks[k])
        found |= {name: values for name, values in _units(case, [min(good), best, max(good)]).items()}
    return found


def _units(case: Case, ks: list[int]) -> Numbers:
    levels, visible = case.levels, case.motion_to_noise()
    return {
        "k": ks,
        "sigma": [sigma_of(levels.levels[k]) for k in ks],
        "percent": [100 * k / levels.steps for k in ks],
        "visibility": [float(visible[k]) for k in ks],
    }


def _is_full(way: Constant | TwoPhase) -> bool:
    return isinstance(way, TwoPhase) and (way.lambda_s, way.lambda_l) == (0.0, 1.0)


def plain(value: Any) -> Any:
    """Values as JSON holds them, numbers to four digits behind the point."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return (
            float(f"{value:.4g}") if abs(value) >= 1 or value == 0 else round(float(value), 4) or float(f"{value:.1g}")
        )
    return value
