"""How much motion and how much of the subject is left at constant and at dynamic strength: the demo's subject, trained six times.

Run: .venv/bin/python -m benchmarks.demo_motion     (about half an hour on one idle core)

An orange square is learned from the demo's photos, each time with another training seed, and asked to move in four directions
from the same twelve noises in every row. Motion is right if a line fitted through the object's centers goes there; the subject is
right if the object is orange. One subject: an illustration of the mechanism, no claim about VideoCrafter2. How much the motion
freezes differs from training to training, so each is shown. Other subjects: benchmarks/demo_world.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse

import numpy as np

from benchmarks import demo_measures as measures
from benchmarks.demo_sampling import sample_ways
from customcrafter_core.demo import run, world
from customcrafter_core.diffusion.strength import Constant, StrengthSchedule, TwoPhase

SEED, VIDEOS, TRAININGS = 0, 12, 6
MOTIONS = [name for name in world.MOTIONS if name != "still"]
WAYS: dict[str, StrengthSchedule] = {
    **{f"constant {strength}": Constant(strength) for strength in (0.4, 0.6, 0.8)},
    **{f"dynamic 0.4 → 0.8, K = {k}": TwoPhase(k=k) for k in (5, 10, 15)},
}


def counts(clips: np.ndarray) -> tuple[int, int]:
    """How many videos move as prompted, and in how many the object is orange."""
    moves = sum(measures.direction(clip) == MOTIONS[i % len(MOTIONS)] for i, clip in enumerate(clips))
    orange = sum(measures.object_colour(clip, world.TOY_COLOURS) == run.SUBJECT.colours[0] for clip in clips)
    return moves, orange


def row(label: str, found: list[tuple[int, int]]) -> str:
    """A line of the table: sums, then each training by itself."""
    moves, orange = (sum(column) for column in zip(*found, strict=True))
    videos = VIDEOS * len(found)
    each = ", ".join(str(one) for one, _ in found) if len(found) > 1 else ""
    return f"| {label} | {moves}/{videos} | {orange}/{videos} | {each} |"


def main() -> None:
    """Print one row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainings", type=int, default=TRAININGS, help=f"how many seeds of training ({TRAININGS})")
    trainings = parser.parse_args().trainings
    backgrounds = list(world.BACKGROUNDS)
    prompts = [
        world.caption_for("{}", MOTIONS[i % len(MOTIONS)], backgrounds[i // len(MOTIONS) % len(backgrounds)])
        for i in range(VIDEOS)
    ]
    base = run.load_demo_base()
    found: dict[str, list[tuple[int, int]]] = {label: [] for label in WAYS}
    for seed in range(trainings):
        model = run.load_demo_base()  # sampling here exchanges its attention
        subject = run.learn_demo_subject(model, seed)
        named = [one.replace("{}", subject.trigger) for one in prompts]
        for label, clips in zip(WAYS, sample_ways(model, named, subject, list(WAYS.values()), seed=SEED), strict=True):
            found[label].append(counts(clips))
    print("| strength | moves as prompted | is orange | moves, training by training |\n|---|---|---|---|")
    plain = sample_ways(base, [one.replace("{}", world.CLASS_WORD) for one in prompts], None, [None], seed=SEED)
    print(row("base model, class word", [counts(plain[0])]))
    for label, values in found.items():
        print(row(label, values))


if __name__ == "__main__":
    main()
