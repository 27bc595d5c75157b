"""Is the K that Motion Onset suggests a good one? Its video against those of a sweep, on the demo world.

Run: .venv/bin/python -m benchmarks.motion_onset     (about ten minutes on one core)

For each prompt and seed the K comes from one run of the base with the class word; then the shipped subject, an orange
square, is sampled at the paper's strengths with that K and with a row of others, from the same noise. A video is right
if its object goes where the prompt says (fitted travel of its centre) and is orange. One subject and one training: an
illustration of the mechanism, no claim about VideoCrafter2.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json

import numpy as np

from customcrafter_core.demo import demo_checkpoint, measures, run, world
from customcrafter_core.evaluation.intervals import bootstrap_mean
from customcrafter_core.evaluation.motion_onset import motion_onset
from customcrafter_core.evaluation.sweep import weight_sweep
from customcrafter_core.generation import VideoSettings
from customcrafter_core.subject.file import load_subject

KS = (0, 3, 5, 8, 10, 12, 15, 20, 30)
SEEDS = (2000,)
PROMPTS = [(motion, background) for motion in ("left", "right", "up", "down") for background in ("gray", "white")]


def main() -> None:
    """Print a line for each prompt and seed, then the share of right videos for each K."""
    model = run.load_demo_base()
    subject = load_subject(demo_checkpoint().with_name("demo_subject.safetensors"))
    right: dict[str, list[bool]] = {}
    computed = alone = 0
    for motion, background in PROMPTS:
        for seed in SEEDS:
            caption = world.caption_for("{}", motion, background)
            base = VideoSettings(caption.replace("{}", world.CLASS_WORD), seed=seed, exact_tail=True)
            suggested = motion_onset(model, base).suggested_k
            ks = sorted({*KS, *([] if suggested is None else [suggested])})
            settings = VideoSettings(caption.replace("{}", subject.trigger), seed=seed, exact_tail=True)
            sweep = weight_sweep(model, settings, subject, k=ks)
            computed, alone = computed + sweep.forwards, alone + sweep.forwards_alone
            good = {}
            for cell in sweep.cells:
                clip = (cell.frames * 255).byte().numpy()
                colour = measures.object_colour(clip, world.TOY_COLOURS)
                good[cell.strength.k] = (measures.direction(clip) == motion, colour == run.SUBJECT.colours[0])
            print(json.dumps({"prompt": caption, "seed": seed, "suggested": suggested, "right": good}), flush=True)
            for k in KS:
                right.setdefault(f"K = {k}", []).append(all(good[k]))
            right.setdefault("suggested", []).append(suggested is not None and all(good[suggested]))
    for name, values in right.items():
        print(f"| {name} | {sum(values)}/{len(values)} | {bootstrap_mean(np.asarray(values, float).tolist())} |")
    print(f"forwards {computed} instead of {alone}: {1 - computed / alone:.0%} saved")


if __name__ == "__main__":
    main()
