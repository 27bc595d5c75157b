"""Measurements, stored by section in ``results.json`` and shown in ``RESULTS.md``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

FOLDER = Path(__file__).parent
TRIED = FOLDER / "tried.md"
NOT_MEASURED = "**not measured**"
LIBRARIES = ("torch", "diffusers", "transformers")
ASK = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {LIBRARIES}))"
INTRODUCTION = """# Measurements

Written by `python -m benchmarks`; do not edit. Comparisons are ratios within one run: the two sides take turns, and the table
shows the median over the rounds with the smallest and largest round in brackets. On a CPU, "time" means processor time on one
thread, which other programs on the machine affect least; loading is measured in wall-clock time. Sections are measured
separately, and each names the machine it ran on.
"""


@dataclass(frozen=True)
class Row:
    """One figure: what it is, its value, its target."""

    what: str
    measured: str
    target: str = ""
    met: bool | None = None
    """None: there is no target, or it could not be measured on this machine."""


@dataclass(frozen=True)
class Section:
    """A group of related figures."""

    name: str
    title: str
    how: str
    """What is compared, and how."""
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    """By the file names that ``how`` and the notes refer to."""
    python: str = sys.executable
    """The interpreter that ran the measurement."""


def missing(what: str, why: str) -> Row:
    """A figure that could not be measured on this machine."""
    return Row(what, f"{NOT_MEASURED}: {why}")


def at_most(what: str, value: float, limit: float, shown: str = "") -> Row:
    """A figure with an upper limit."""
    return Row(what, shown or f"{value:.3f}", f"at most {limit:g}", value <= limit)


def at_least(what: str, value: float, limit: float, shown: str = "") -> Row:
    """A figure with a lower limit."""
    return Row(what, shown or f"{value:.3f}", f"at least {limit:g}", value >= limit)


def machine(device: torch.device, python: str = sys.executable) -> str:
    """The machine and the relevant versions, in one line.

    Args:
        device: the device that was measured.
        python: the interpreter that ran the measurement, whose libraries are listed.
    """
    gpu = "no GPU"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        gpu = f"{torch.cuda.get_device_name(device)} ({memory:.0f} GB, CUDA {torch.version.cuda})"
    versions = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True).stdout.strip()
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} used"
    memory = psutil.virtual_memory().total / 1e9
    return f"{_processor()}, {threads}, {memory:.0f} GB, {gpu}; Python {platform.python_version()}, {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def record(section: Section, command: str, device: torch.device, folder: Path = FOLDER) -> bool:
    """Replace a section with a new measurement and rewrite ``RESULTS.md``.

    Returns:
        Whether it was replaced; an incomplete measurement does not replace a complete one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows = [asdict(row) for row in section.rows]
    if section.name in kept and _lacks_some(rows) and not _lacks_some(kept[section.name]["rows"]):
        return False
    content = {name: getattr(section, name) for name in ("name", "title", "how", "notes")}
    today = datetime.now(timezone.utc).date().isoformat()
    made = {"command": command, "machine": machine(device, section.python), "date": today}
    kept[section.name] = {**content, "rows": rows, **made}
    for name, picture in section.pictures.items():
        picture.save(folder / name)
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    (folder / "RESULTS.md").write_text(page(kept))
    return True


def _lacks_some(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["measured"].startswith(NOT_MEASURED) for row in rows)


def page(kept: dict[str, Any]) -> str:
    """The text of ``RESULTS.md``: all sections, then what was tried."""
    return "\n".join([INTRODUCTION, *map(_shown, kept.values()), TRIED.read_text()])


def _shown(kept: dict[str, Any]) -> str:
    lines = [f"## {kept['title']}", "", kept["how"], "", f"`{kept['command']}`, {kept['date']}: {kept['machine']}"]
    lines += ["", "| | measured | target | |", "|---|---|---|---|"]
    marks = {True: "met", False: "**missed**", None: ""}
    lines += [f"| {row['what']} | {row['measured']} | {row['target']} | {marks[row['met']]} |" for row in kept["rows"]]
    return "\n".join([*lines, *(f"\n{note}" for note in kept["notes"]), ""])


def table(section: Section) -> str:
    """A section as text for the terminal."""
    marks = {True: "met", False: "MISSED", None: ""}
    width = max((len(row.what) for row in section.rows), default=0)
    lines = [section.title, *(f"  {r.what:{width}}  {r.measured}  {r.target}  {marks[r.met]}" for r in section.rows)]
    return "\n".join([*lines, *section.notes])
