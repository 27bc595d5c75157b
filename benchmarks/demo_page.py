"""The page, the numbers and the pictures that `benchmarks.demo_world` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from customcrafter_core.evaluation.intervals import Interval, bootstrap_mean
from customcrafter_core.output.files import write_json
from customcrafter_core.output.sheet import SheetRow, write_sheet

Row = Mapping[str, Any]
MEASURES = ("motion", "travel", "similarity", "thing", "background")
MAIN = "all attention, still prior"
DRAWS = 4000

HEAD = """# What the method does on the demo world

Written by `python -m benchmarks.demo_world` from the shipped base model. It illustrates the mechanism on a small model of
a synthetic world and is no claim about VideoCrafter2. Shares are of videos; in brackets the 95 % interval, drawn again over
videos. Similarity: -1 to 1, above 0 the object is nearer to the subject than to any decoy (other shapes in its colours).

"""


def write_page(rows: Sequence[Row], folder: Path, *, sheets: Path) -> Path:
    """Write ``demo_world.json``, ``demo_world.md`` and the sheets into a folder; returns the page."""
    videos = [row for row in rows if "motion" in row and row["variant"] != "commitment"]
    ways = group(videos)
    table = {f"{variant} | {way}": {m: interval(part, m) for m in MEASURES} for (variant, way), part in ways.items()}
    lines = ["| training | strength | videos | " + " | ".join(MEASURES) + " |", "|---" * (3 + len(MEASURES)) + "|"]
    for (variant, way), part in ways.items():
        cells = [shown(interval(part, measure)) for measure in MEASURES]
        lines.append(f"| {variant} | {way} | {len(part)} | " + " | ".join(cells) + " |")
    pairs, frontier = paired(ways), against_constants(ways)
    curve = commitment_curve(rows)
    text = HEAD + "\n".join(lines) + "\n\n" + "\n".join([*pairs_lines(pairs, frontier), *curve_lines(curve)])
    pictures = write_sheets(sheets, folder, videos)
    text += "\n## Pictures\n\n" + "\n".join(f"![{path.stem}]({path.name})\n" for path in pictures)
    numbers = {"means": table, "paired": pairs, "against_constants": frontier, "commitment": curve, "videos": rows}
    write_json(folder / "demo_world.json", plain(numbers))
    page = folder / "demo_world.md"
    page.write_text(text, encoding="utf-8")
    return page


def group(videos: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Videos by training and strength, in the order of their first."""
    ways: dict[tuple[str, str], list[Row]] = {}
    for row in videos:
        ways.setdefault((row["variant"], row["way"]), []).append(row)
    return ways


def interval(part: Sequence[Row], measure: str) -> Interval | None:
    """Mean of a measure over the videos that have it."""
    values = [float(row[measure]) for row in part if measure in row]
    return bootstrap_mean(values) if values else None


def shown(value: Interval | None) -> str:
    """Two digits and the interval."""
    if value is None:
        return ""
    bounds = "" if value.low is None else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.mean:.2f}{bounds}"


def key(row: Row) -> tuple[Any, ...]:
    """What two videos made differently have in common: subject, training seed and noise."""
    return row["subject"], row["seed"], row["noise"]


def paired(ways: Mapping[tuple[str, str], Sequence[Row]]) -> dict[str, dict[str, Interval]]:
    """Differences, video by video: dynamic against constant 0.8, and other trainings against the main one."""
    constant = {key(row): row for row in ways[MAIN, "constant 0.8"]}
    found = {}
    for (variant, way), part in ways.items():
        other = {key(row): row for row in ways[MAIN, way]} if variant != MAIN and (MAIN, way) in ways else constant
        if variant == MAIN and way.startswith("dynamic"):
            name = f"{way} against constant 0.8"
        elif variant != MAIN and other is not constant:
            name = f"{variant} against {MAIN}, {way}"
        else:
            continue
        found[name] = {
            m: bootstrap_mean([float(row[m]) - float(other[key(row)][m]) for row in part if key(row) in other])
            for m in ("motion", "similarity")
        }
    return found


def against_constants(ways: Mapping[tuple[str, str], Sequence[Row]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Dynamic strength's motion less that of a constant strength of equal similarity, between the constants measured.

    Videos are drawn again with all their ways together, so the interval covers the interpolation too. Beyond the
    constants' own similarities the nearest one counts.
    """
    names = [way for variant, way in ways if variant == MAIN]
    by_way = {way: {key(row): row for row in ways[MAIN, way]} for way in names}
    videos = sorted(set.intersection(*(set(rows) for rows in by_way.values())), key=repr)
    values = {
        way: np.array([[float(rows[k]["similarity"]), float(rows[k]["motion"])] for k in videos])
        for way, rows in by_way.items()
    }
    rng = np.random.default_rng(seed)
    draws = [np.arange(len(videos)), *rng.integers(len(videos), size=(DRAWS, len(videos)))]
    found: dict[str, list[float]] = {way: [] for way in names if way.startswith("dynamic")}
    for draw in draws:
        constants = np.array(sorted(tuple(values[way][draw].mean(0)) for way in names if way.startswith("constant")))
        for way, differences in found.items():
            similarity, motion = values[way][draw].mean(0)
            differences.append(float(motion - np.interp(similarity, constants[:, 0], constants[:, 1])))
    return {
        way: {
            "difference": differences[0],
            "low": float(np.quantile(differences[1:], 0.025)),
            "high": float(np.quantile(differences[1:], 0.975)),
        }
        for way, differences in found.items()
    }


def pairs_lines(pairs: Mapping[str, Mapping[str, Interval]], frontier: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The differences as a table."""
    lines = ["## Differences on the same noise", "", "| | motion | similarity |", "|---|---|---|"]
    lines += [f"| {name} | {shown(d['motion'])} | {shown(d['similarity'])} |" for name, d in pairs.items()]
    lines += ["", "Dynamic strength's motion less that of a constant strength at the same similarity:", ""]
    lines += ["| | motion |", "|---|---|"]
    lines += [f"| {way} | {d['difference']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}] |" for way, d in frontier.items()]
    return [*lines, ""]


def commitment_curve(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each step of the switch, the shares of videos that follow the first and the second prompt."""
    turned = [row for row in rows if row["variant"] == "commitment"]
    return [
        {
            "k": k,
            "first": interval([row for row in turned if row["k"] == k], "first"),
            "second": interval([row for row in turned if row["k"] == k], "second"),
        }
        for k in sorted({row["k"] for row in turned})
    ]


def curve_lines(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commitment curve as a table."""
    lines = ["## When the motion is decided", ""]
    lines += ["The base model's prompt is switched to the opposite motion after K of 50 steps.", ""]
    lines += ["| K | moves as first asked | moves as asked later |", "|---|---|---|"]
    lines += [f"| {point['k']} | {shown(point['first'])} | {shown(point['second'])} |" for point in curve]
    return [*lines, ""]


def kept_clips(folder: Path, variant: str, subject: str) -> Path:
    """Where the clips of the first prompt of a training are kept for its sheet."""
    return folder / f"{variant}-{subject}.npz".replace(" ", "_")


def write_sheets(sheets: Path, folder: Path, videos: Sequence[Row]) -> list[Path]:
    """For each subject a sheet of its first kept prompt made in every way of the main training."""
    written = []
    for subject in dict.fromkeys(row["subject"] for row in videos if row["subject"]):
        kept = kept_clips(sheets, MAIN, subject)
        if not kept.exists():
            continue
        first = [row for row in videos if row["variant"] == MAIN and row["subject"] == subject and row["seed"] == 0]
        ways = list(dict.fromkeys(row["way"] for row in first))
        with np.load(kept) as clips:
            rows = [SheetRow(way, clips[f"arr_{i}"] / np.float32(255)) for i, way in enumerate(ways)]
        written.append(write_sheet(folder / f"demo_world_{subject}.png", rows, title=first[0]["prompt"]))
    return written


def plain(value: Any) -> Any:
    """Values as JSON holds them."""
    if isinstance(value, Interval):
        return {"mean": value.mean, "low": value.low, "high": value.high, "count": value.count}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
