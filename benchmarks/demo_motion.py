"""How much motion and how much of the subject remain at constant and at dynamic strength, for the demo's subject.

Run: .venv/bin/python -m benchmarks.demo_motion     (about three minutes on one core)

The shipped subject, an orange square, is prompted to move in four directions, from the same twelve noises in every row. The
motion is correct if a line fitted through the object's centres follows the prompt; the subject is correct if the object is
orange. One subject and one training: this illustrates the mechanism and says nothing about VideoCrafter2. For other
subjects see benchmarks/demo_world.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks import demo_measures as measures
from benchmarks.demo_sampling import sample_ways
from customcrafter_core.demo import demo_checkpoint, run, world
from customcrafter_core.diffusion.strength import Constant, StrengthSchedule, TwoPhase
from customcrafter_core.subject.file import load_subject

SEED, VIDEOS = 0, 12
MOTIONS = [name for name in world.MOTIONS if name != "still"]
WAYS: dict[str, StrengthSchedule] = {
    **{f"constant {strength}": Constant(strength) for strength in (0.4, 0.6, 0.8, 1.0)},
    **{f"dynamic 0.4 → 0.8, K = {k}": TwoPhase(k=k) for k in (5, 10, 15)},
}


def show(label: str, clips: np.ndarray) -> None:
    """Print a row of the table."""
    moves = sum(measures.direction(clip) == MOTIONS[i % len(MOTIONS)] for i, clip in enumerate(clips))
    orange = sum(measures.object_colour(clip, world.TOY_COLOURS) == run.SUBJECT.colours[0] for clip in clips)
    print(f"| {label} | {moves}/{VIDEOS} | {orange}/{VIDEOS} |", flush=True)


def main() -> None:
    """Print a row for the base model and for each strength."""
    model = run.load_demo_base()
    subject = load_subject(demo_checkpoint().with_name("demo_subject.safetensors"))
    backgrounds = list(world.BACKGROUNDS)
    prompts = [
        world.caption_for("{}", MOTIONS[i % len(MOTIONS)], backgrounds[i // len(MOTIONS) % len(backgrounds)])
        for i in range(VIDEOS)
    ]
    print("| strength | moves as prompted | is orange |\n|---|---|---|")
    base = sample_ways(model, [one.replace("{}", world.CLASS_WORD) for one in prompts], None, [None], seed=SEED)
    show("base model, class word", base[0])
    named = [one.replace("{}", subject.trigger) for one in prompts]
    for label, clips in zip(WAYS, sample_ways(model, named, subject, list(WAYS.values()), seed=SEED), strict=True):
        show(label, clips)


if __name__ == "__main__":
    main()
