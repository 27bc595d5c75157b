"""Is the K suggested by Motion Onset a good one? Its video against those of a sweep, on the demo world.

Run: .venv/bin/python -m benchmarks.motion_onset     (about ten minutes on one core)

Writes benchmarks/motion_onset.md and benchmarks/motion_onset.json. For each prompt and seed, K comes from one run of the base
model with the class word. Then the shipped subject, an orange square, is sampled at the paper's strengths with that K and with
several others, from the same noise. One subject and one training: this illustrates the mechanism and says nothing about
VideoCrafter2.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import demo_measures as measures
from customcrafter_core.demo import demo_checkpoint, run, world
from customcrafter_core.experiments.motion_onset import motion_onset
from customcrafter_core.experiments.sweep import weight_sweep
from customcrafter_core.files.writing import write_bytes, write_json
from customcrafter_core.intervals import bootstrap_mean
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject

KS = (0, 3, 5, 8, 10, 12, 15, 20, 30)
SEEDS = (2000,)
PROMPTS = [(motion, background) for motion in ("left", "right", "up", "down") for background in ("gray", "white")]
HEAD = """# Does Motion Onset suggest a good K?

Written by `python -m benchmarks.motion_onset` from the shipped demo model; do not edit. For each prompt, K comes from one run of
the base model with the class word. Then the shipped subject, an orange square, is sampled with that K and with the Ks of a sweep,
from the same noise. A video is correct if its object moves as prompted (fitted travel of its centre) and is orange. The best Ks
for a prompt are those of the sweep whose videos are correct or, if none is, those that meet most of the two criteria; the range of
the best runs from the smallest to the largest of them. One subject, one training, a small model: this illustrates the mechanism
and says nothing about VideoCrafter2.

"""

Right = tuple[bool, bool]
"""Whether the motion and the colour of a video are correct."""


@dataclass(frozen=True)
class Row:
    """One prompt and seed."""

    prompt: str
    seed: int
    suggested: int | None
    """None: the base model's video does not move."""
    right: Mapping[int, Right]
    """By K: those of the sweep, and the suggested one."""
    computed: int = 0
    """Network steps that the sweep computed; ``alone`` is how many separate runs would have needed."""
    alone: int = 0

    @property
    def best(self) -> list[int]:
        """The Ks of the sweep that meet most criteria; the suggested one is not counted."""
        most = max(sum(self.right[k]) for k in KS)
        return [k for k in KS if sum(self.right[k]) == most]

    @property
    def is_within(self) -> bool:
        """Whether the suggested K lies in the range of the best."""
        return self.suggested is not None and self.best[0] <= self.suggested <= self.best[-1]

    @property
    def is_right(self) -> bool:
        """Whether the video with the suggested K is correct."""
        return self.suggested is not None and all(self.right[self.suggested])


def measure() -> list[Row]:
    """Sample everything; prints a line for each prompt and seed."""
    model = run.load_demo_base()
    subject = load_subject(demo_checkpoint().with_name("demo_subject.safetensors"))
    rows = []
    for motion, background in PROMPTS:
        for seed in SEEDS:
            caption = world.caption_for("{}", motion, background)
            base = VideoSettings(caption.replace("{}", world.CLASS_WORD), seed=seed, exact_tail=True)
            suggested = motion_onset(model, base).suggested_k
            ks = sorted({*KS, *([] if suggested is None else [suggested])})
            settings = VideoSettings(caption.replace("{}", subject.trigger), seed=seed, exact_tail=True)
            sweep = weight_sweep(model, settings, subject, k=ks)
            right: dict[int, Right] = {}
            for cell in sweep.cells:
                clip = (cell.frames * 255).byte().numpy()
                colour = measures.object_colour(clip, world.TOY_COLOURS)
                right[cell.strength.k] = (measures.direction(clip) == motion, colour == run.SUBJECT.colours[0])
            rows.append(Row(caption, seed, suggested, right, sweep.forwards, sweep.forwards_alone))
            print(json.dumps(asdict(rows[-1])), flush=True)
    return rows


def page(rows: Sequence[Row]) -> str:
    """The results as Markdown."""
    return "\n".join([HEAD + said(rows), "", *prompt_lines(rows), "", *share_lines(rows), "", saving(rows), ""])


def said(rows: Sequence[Row]) -> str:
    """The answer in words, with the prompts for which it is no."""
    within, right = sum(row.is_within for row in rows), sum(row.is_right for row in rows)
    shares = {k: sum(all(row.right[k]) for row in rows) for k in KS}
    most = max(shares.values())
    leading = ", ".join(str(k) for k in KS if shares[k] == most)
    sentences = [
        f"For {within} of {len(rows)} prompts, the suggested K is in the range of the best; for {right} of {len(rows)}, its "
        f"video is correct. A single K for all prompts gives at most {most} of {len(rows)} correct videos (K = {leading})."
    ]
    for row in rows:
        if not row.is_within:
            found = "no K" if row.suggested is None else f"K = {row.suggested}"
            sentences.append(f'Outside: "{row.prompt}" ({found} suggested, best {span(row.best)}).')
    return " ".join(sentences)


def span(ks: Sequence[int]) -> str:
    """A range in words."""
    return f"{ks[0]}" if len(ks) == 1 else f"{ks[0]} to {ks[-1]}"


def prompt_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each prompt."""
    lines = [
        "| prompt | seed | correct at K | range of the best | suggested K | its video | in range |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        at = ", ".join(str(k) for k in KS if all(row.right[k])) or "none"
        suggested = "none" if row.suggested is None else str(row.suggested)
        its, within = "correct" if row.is_right else "**wrong**", "yes" if row.is_within else "**no**"
        lines.append(f"| {row.prompt} | {row.seed} | {at} | {span(row.best)} | {suggested} | {its} | {within} |")
    return lines


def share_lines(rows: Sequence[Row]) -> list[str]:
    """The share of correct videos for each K of the sweep and for the suggested ones, with 95 % intervals."""
    values = {str(k): [all(row.right[k]) for row in rows] for k in KS}
    values["as suggested"] = [row.is_right for row in rows]
    return [
        "| K | correct videos | share, with 95 % interval |",
        "|---|---|---|",
        *(f"| {k} | {sum(v)} of {len(v)} | {bootstrap_mean([float(one) for one in v])} |" for k, v in values.items()),
    ]


def saving(rows: Sequence[Row]) -> str:
    """How many steps the sweeps saved by sharing."""
    computed, alone = sum(row.computed for row in rows), sum(row.alone for row in rows)
    return f"By sharing first steps between runs, the sweeps computed {computed} steps instead of {alone}."


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    folder = parser.parse_args().out
    rows = measure()
    print(write_json(folder / "motion_onset.json", {"rows": [asdict(row) for row in rows]}))
    print(write_bytes(folder / "motion_onset.md", page(rows).encode()))


if __name__ == "__main__":
    main()
