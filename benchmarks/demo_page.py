"""Writes the page, numbers and pictures of `benchmarks.demo_world`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.demo_statistics import (
    BASE,
    COMMITMENT,
    MAIN,
    Claim,
    Row,
    Ways,
    claims,
    commitment_curve,
    group,
    interval,
    paired,
)
from customcrafter_core.files.writing import write_json
from customcrafter_core.intervals import Interval
from customcrafter_core.output.sheet import SheetRow, write_sheet

MEASURES = ("motion", "travel", "similarity", "thing", "background")
PARETO, CURVE = "demo_world_pareto.png", "demo_world_commitment.png"

HEAD = """# What the method does on the demo world

Written by `python -m benchmarks.demo_world` from the shipped base model. It illustrates the mechanism on a small model of a
synthetic world and says nothing about VideoCrafter2. Shares are shares of videos; brackets show the 95 % interval, from resampling
whole trainings. *motion*: the object moves as prompted. *travel*: how far it moves that way, in frame widths. *similarity*: -1 to
1; above 0, the object is closer to the subject than to any decoy (other shapes in its colours, its shape in other colours).
Settings were chosen on other subjects, training seeds and noise. The strengths with λs 0.2 and 0 were added after seeing the first
training of each subject, in which nothing moved at 0.4 either.

"""


def write_page(rows: Sequence[Row], folder: Path, *, sheets: Path) -> Path:
    """Write ``demo_world.json``, ``demo_world.md`` and the pictures to a folder; returns the page."""
    videos = [row for row in rows if "motion" in row and row["variant"] != COMMITMENT]
    ways, curve = group(videos), commitment_curve(rows)
    stated, pairs = claims(ways), paired(ways)
    pictures = [write_pareto(folder / PARETO, ways)]
    pictures += [write_curve(folder / CURVE, curve)] if curve else []
    pictures += write_sheets(sheets, folder, videos)
    lines = [*claim_lines(stated), *way_lines(ways), *pair_lines(pairs), *curve_lines(curve), "## Pictures", ""]
    text = HEAD + "\n".join(lines) + "\n" + "\n".join(f"![{path.stem}]({path.name})\n" for path in pictures)
    numbers = {
        "claims": [{"claim": c.text, "measure": c.measure, "by": c.by, "verdict": c.verdict} for c in stated],
        "means": {f"{v} | {way}": {m: interval(part, m) for m in MEASURES} for (v, way), part in ways.items()},
        "paired": pairs,
        "commitment": curve,
        "videos": rows,
    }
    write_json(folder / "demo_world.json", plain(numbers))
    page = folder / "demo_world.md"
    page.write_text(text, encoding="utf-8")
    return page


def shown(value: Interval | None, sign: str = "") -> str:
    """A value with two decimals and its interval."""
    if value is None:
        return ""
    bounds = "" if value.low is None else f" [{value.low:{sign}.2f}, {value.high:{sign}.2f}]"
    return f"{value.mean:{sign}.2f}{bounds}"


def claim_lines(stated: Sequence[Claim]) -> list[str]:
    """The claims about the method and what is seen here, as a table."""
    lines = ["| claim | here | difference |", "|---|---|---|"]
    lines += [f"| {c.text} | **{c.verdict}** | {c.measure} {shown(c.by, '+')} |" for c in stated]
    return [*lines, ""]


def way_lines(ways: Ways) -> list[str]:
    """The means as a table."""
    lines = [
        "## All settings",
        "",
        _counts(ways),
        "",
        "| training | strength | videos | " + " | ".join(MEASURES) + " |",
    ]
    lines += ["|---" * (3 + len(MEASURES)) + "|"]
    for (variant, way), part in ways.items():
        cells = [shown(interval(part, measure)) for measure in MEASURES]
        lines.append(f"| {variant} | {way} | {len(part)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _counts(ways: Ways) -> str:
    """The subjects and training seeds behind the rows."""
    learned = [row for (_, way), part in ways.items() if way != BASE for row in part]
    subjects, seeds = ({row[name] for row in learned} for name in ("subject", "seed"))
    return f"{len(subjects)} subjects ({', '.join(sorted(subjects))}), training seeds {sorted(seeds)}."


def pair_lines(pairs: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    """The differences as a table."""
    lines = ["## Differences on the same noise", "", "| | motion | similarity |", "|---|---|---|"]
    lines += [f"| {name} | {shown(d['motion'], '+')} | {shown(d['similarity'], '+')} |" for name, d in pairs.items()]
    return [*lines, ""]


def curve_lines(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commitment curve as a table."""
    if not curve:
        return []
    lines = ["## When motion is decided", ""]
    lines += ["The base model's prompt switches to the opposite motion after K of 50 steps.", ""]
    lines += ["| K | follows the first prompt | follows the second prompt |", "|---|---|---|"]
    lines += [f"| {point['k']} | {shown(point['first'])} | {shown(point['second'])} |" for point in curve]
    return [*lines, ""]


def write_pareto(path: Path, ways: Ways) -> Path:
    """Plot motion against similarity: the main training's constants as a line, everything else as points."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"]
    for i, ((variant, kind), names) in enumerate(_series(ways).items()):
        x, y = ([interval(ways[variant, way], m) for way in names] for m in ("similarity", "motion"))
        axes.errorbar(
            [v.mean for v in x if v], [v.mean for v in y if v], xerr=_whiskers(x), yerr=_whiskers(y),
            fmt="o-" if kind == "constant" else "s:", color=colours(i), ecolor=(*colours(i)[:3], 0.25),
            label=f"{variant}, {kind}",
        )  # fmt: skip
        for way, a, b in zip(names, x, y, strict=True):
            if a and b:
                text = way.removeprefix("constant ") if kind == "constant" else way.split(", ")[-1].replace(" = ", " ")
                axes.annotate(text, (a.mean, b.mean), xytext=(4, 4), textcoords="offset points", fontsize=8)
    if base := interval(ways.get((BASE, BASE), []), "motion"):
        axes.axhline(base.mean, color="gray", lw=1, ls="--", label="base model, class word")
    axes.set(xlabel="similarity to the subject", ylabel="moves as prompted", ylim=(0, 1.03))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def _series(ways: Ways) -> dict[tuple[str, str], list[str]]:
    """Points joined by a line: each training's constants, and its dynamic strengths that differ only in K."""
    series: dict[tuple[str, str], list[str]] = {}
    for variant, way in ways:
        if variant != BASE:
            kind = "constant" if way.startswith("constant") else way.split(", K = ")[0]
            series.setdefault((variant, kind), []).append(way)
    return series


def _whiskers(values: Sequence[Interval | None]) -> np.ndarray:
    """Distances ``(2, n)`` of the intervals' ends from their means."""
    ends = [(v.mean - v.low, v.high - v.mean) for v in values if v and v.low is not None and v.high is not None]
    return np.array(ends).T if len(ends) == len(values) else np.zeros((2, len(values)))


def write_curve(path: Path, curve: Sequence[Mapping[str, Any]]) -> Path:
    """Plot the commitment curve."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ks = [point["k"] for point in curve]
    for name, label in (("first", "follows the first prompt"), ("second", "follows the prompt after step K")):
        values = [point[name] for point in curve]
        axes.errorbar(ks, [v.mean for v in values], yerr=_whiskers(values), fmt="o-", label=label)
    axes.set(xlabel="K of 50 steps", ylabel="share of videos", ylim=(0, 1.03))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def kept_clips(folder: Path, variant: str, subject: str, seed: int) -> Path:
    """Where the clips of a training's first prompt are kept for its sheet."""
    return folder / f"{variant}-{subject}-{seed}.npz".replace(" ", "_")


def write_sheets(sheets: Path, folder: Path, videos: Sequence[Row]) -> list[Path]:
    """Write a sheet per subject: the first prompt of its first training with every strength of the main training."""
    written = []
    for subject in dict.fromkeys(row["subject"] for row in videos if row["subject"]):
        own = [row for row in videos if row["variant"] == MAIN and row["subject"] == subject]
        first = [row for row in own if row["seed"] == own[0]["seed"]]
        kept = kept_clips(sheets, MAIN, subject, first[0]["seed"])
        if not kept.exists():
            continue
        ways = list(dict.fromkeys(row["way"] for row in first))
        with np.load(kept) as clips:
            rows = [SheetRow(way, clips[f"arr_{i}"] / np.float32(255)) for i, way in enumerate(ways)]
        written.append(write_sheet(folder / f"demo_world_{subject}.png", rows, title=first[0]["prompt"]))
    return written


def plain(value: Any) -> Any:
    """Convert values to plain JSON types."""
    if isinstance(value, Interval):
        return {"mean": value.mean, "low": value.low, "high": value.high, "count": value.count}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
