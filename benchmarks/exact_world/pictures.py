"""The three pictures of the study, from its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from .cases import BASE, SHIFTS, VARIATIONS, VARIED
from .study import LAW

Trial = dict[str, Any]
BLUE, ORANGE, GREEN, GRAY, INK = "#1d4ed8", "#c2410c", "#15803d", "#9a9aa5", "#18181c"
FLOW_COLOURS = ("#15803d", "#0e7490", "#7c3aed", "#be185d")


def write_law(path: Path, trials: Sequence[Trial]) -> Path:
    """Gain against the ratio of energies, without guidance: the looks, the variations, the paper's setting."""
    figure = Figure(figsize=(6.6, 4.3), layout="constrained")
    axes = figure.subplots()
    law = [t for t in trials if t["group"] == LAW]
    others = [t for t in trials if t["group"] in VARIATIONS and t["cfg"] == 1]
    axes.axhline(0, color=INK, lw=0.8)
    axes.scatter(
        [t["ratio"] for t in others], [t["chosen"]["gain"][0] for t in others], s=16, color=GRAY, alpha=0.6, lw=0,
        label="best, with other clips, schedules, steps",
    )  # fmt: skip
    gains = [t["chosen"]["gain"] for t in law]
    whiskers = [[mean - low for mean, low, _ in gains], [high - mean for mean, _, high in gains]]
    axes.errorbar(
        [t["ratio"] for t in law], [gain[0] for gain in gains], yerr=whiskers, fmt="o", ms=5, color=BLUE, elinewidth=1,
        label=f"best dynamic weights, {len(law)} looks",
    )  # fmt: skip
    axes.scatter(
        [t["ratio"] for t in law], [t["paper"]["gain"][0] for t in law], marker="x", s=26, color=ORANGE, lw=1.3,
        label="the paper's 0.4 → 0.8, K 5",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}" if value else "0"))
    axes.set_ylim(-0.72, 1.05)
    axes.set_title("At the same likeness, more videos move than at any constant strength", fontsize=10)
    axes.set_xlabel("energy of the motion ÷ energy of one part of the look; exact, no guidance")
    axes.set_ylabel("videos that move: gain in percentage points")
    axes.text(0.02, 0.04, "← one bold colour", transform=axes.transAxes, color=INK, fontsize=9)
    axes.text(0.98, 0.04, "faint marks, texture →", transform=axes.transAxes, color=INK, fontsize=9, ha="right")
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.06), frameon=False, reverse=True)
    _bare(axes)
    figure.savefig(path, dpi=100)
    return path


def write_fronts(path: Path, trials: Sequence[Trial]) -> Path:
    """Motion against likeness for a solid colour and for faint marks, without guidance."""
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    for axes, identity, said in zip(grid, VARIED, ("One bold colour", "22 faint marks"), strict=True):
        _front(axes, next(t for t in trials if t["group"] == LAW and t["identity"] == str(identity)))
        axes.set_title(said, fontsize=10)
        axes.set_xlabel("likeness: 1 is all of the look, 0 chance")
    grid[0].set_ylabel("videos that move as asked")
    grid[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    grid[0].legend(fontsize=8, frameon=False, loc="upper right")
    figure.savefig(path, dpi=100)
    return path


def _front(axes: Axes, trial: Trial) -> None:
    ways = trial["ways"]
    constants = [(name.removeprefix("constant "), *values) for name, values in ways.items() if "constant" in name]
    axes.plot([i for _, _, i in constants], [m for _, m, _ in constants], "o-", color=INK, ms=4, label="constant 0 … 1")
    for name, motion, identity in constants:
        if name in ("0", "0.4", "0.6", "0.8", "1"):
            _note(axes, name, identity, motion, INK)
    for pair, colour in (("0 → 1", BLUE), ("0.4 → 0.8", ORANGE)):
        points = sorted((int(name.rpartition(" ")[2]), *values) for name, values in ways.items() if f"{pair}," in name)
        axes.plot([i for *_, i in points], [m for _, m, _ in points], "s-", color=colour, ms=4, label=f"{pair}, by K")
        for k, motion, identity in points[:: 2 if pair == "0 → 1" else 5]:
            _note(axes, f"K {k}", identity, motion, colour)
    axes.set(xlim=(-0.12, 1.12), ylim=(-0.05, 1.1))
    _bare(axes)


def write_noise(path: Path, trials: Sequence[Trial]) -> Path:
    """Gain by K, in noise level and in percent of the steps, for VideoCrafter2's schedule and for flow matching."""
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = {LAW: "VideoCrafter2"} | {f"flow matching, shift {s}": f"flow, shift {s}" for s in SHIFTS}
    for (group, label), colour in zip(names.items(), (INK, *FLOW_COLOURS), strict=True):
        trial = next(t for t in trials if t["group"] == group and t["identity"] == str(BASE.identity))
        curve = trial["best_k"]["curve"]
        steps = trial["steps"]
        gains = [gain for *_, gain in curve]
        left.plot([sigma for _, sigma, *_ in curve], gains, "o-", ms=4, color=colour, label=label)
        right.plot([100 * k / steps for k, *_ in curve], gains, "o-", ms=4, color=colour, label=label)
    left.invert_xaxis()
    left.set_xlabel("noise level (sigma) where the strength changes")
    right.set_xlabel("K in percent of the steps")
    left.set_ylabel("gain in motion over constants")
    left.set_title("By noise level the curves are nearly one …", fontsize=10)
    right.set_title("… by share of the steps they are not", fontsize=10)
    right.legend(fontsize=8, frameon=False, loc="lower right")
    for axes in (left, right):
        axes.axhline(0, color=INK, lw=0.8)
        _bare(axes)
    figure.savefig(path, dpi=100)
    return path


def _note(axes: Axes, text: str, x: float, y: float, colour: str) -> None:
    axes.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
