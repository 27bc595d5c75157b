"""How much motion and how much of the subject is left at constant and at dynamic strength, on the demo world.

Run: .venv/bin/python -m benchmarks.demo_motion     (about three minutes on one core)

The shipped subject, an orange square, is asked to move left, the direction it loses first, from the same twelve noises in
every row. Motion is right if a line fitted through the object's centres goes left; the subject is right if the object is
orange. One subject and one training: an illustration of the mechanism, no claim about VideoCrafter2.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from customcrafter_core.demo import demo_checkpoint, measures, run, world
from customcrafter_core.diffusion.strength import Constant, StrengthSchedule, TwoPhase
from customcrafter_core.generation import AppliedSubject, VideoSettings, generate
from customcrafter_core.subject.file import load_subject

MOTION, SEEDS = "left", range(12)
WAYS: dict[str, StrengthSchedule | None] = {
    "base model, class word": None,
    **{f"constant {strength}": Constant(strength) for strength in (0.2, 0.4, 0.6, 0.8, 1.0)},
    **{f"dynamic 0.4 -> 0.8, K = {k}": TwoPhase(k=k) for k in (5, 10, 15)},
}


def is_orange(clip: np.ndarray) -> bool:
    """Whether the object of a clip ``(f, h, w, 3)`` has the subject's colour."""
    inside = clip[measures.object_share(clip) >= 1]
    target = np.array(world.TOY_COLOURS[run.SUBJECT.colours[0]])
    return bool(len(inside)) and bool(np.linalg.norm(np.median(inside, axis=0) - target) <= measures.COLOUR_DISTANCE)


def main() -> None:
    """Print one row for each way."""
    model = run.load_demo_base()
    subject = load_subject(demo_checkpoint().with_name("demo_subject.safetensors"))
    backgrounds = list(world.BACKGROUNDS)
    print(f"| strength | moves {MOTION} | is orange |\n|---|---|---|")
    for label, strength in WAYS.items():
        right = orange = 0
        applied = [] if strength is None else [AppliedSubject(subject, strength)]
        for seed in SEEDS:
            noun = subject.trigger if applied else run.CLASS_WORD
            prompt = world.caption_for("{}", MOTION, backgrounds[seed % len(backgrounds)]).replace("{}", noun)
            latent = generate(model, VideoSettings(prompt=prompt, seed=seed, exact_tail=True), applied).latent
            clip = (model.decode(latent)[0] * 255).byte().numpy()
            right += measures.direction(clip) == MOTION
            orange += is_orange(clip)
        print(f"| {label} | {right}/{len(SEEDS)} | {orange}/{len(SEEDS)} |", flush=True)


if __name__ == "__main__":
    main()
