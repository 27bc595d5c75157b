"""Where and how long `quick` should train: variants of the preset, trained on the demo world at equal cost.

Run: .venv/bin/python -m benchmarks.presets     (minutes on two cores; an interrupted run resumes)

One subject that the base model never saw, three trainings per variant, the same prompts and noise for all. Writes
benchmarks/presets.json and the page presets.md. It illustrates what the settings do on a model of two million parameters and
says nothing about VideoCrafter2.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.demo_world import asked_for, measured, prior_of, read_cache
from customcrafter_core.demo import run, world
from customcrafter_core.intervals import bootstrap_mean
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.training.config import PRESETS, TrainConfig, preset
from customcrafter_core.training.loop import train_subject

# Scaling from VideoCrafter2 to the demo model, the same for all variants. The small model learns nothing at the learning
# rates of a large one, so it uses that of the preset `demo`, and every variant's rate is scaled by the same factor. A
# subject of 32x32 pixels needs a tenth of the steps, on four still videos of two frames each. Views are off: at this
# size, a photo scaled by 0.4 is 13 pixels wide.
RATE = PRESETS["demo"]["lr"] / PRESETS["quick"]["lr"]
STEPS = 0.1
SMALL: dict[str, Any] = {name: PRESETS["demo"][name] for name in ("frames", "batch", "views", "resize")}

VARIANTS: dict[str, dict[str, Any]] = {
    "quick": {},
    "min_snr_gamma 1": {"min_snr_gamma": 1.0},
    "min_snr_gamma 5": {"min_snr_gamma": 5.0},
    "min_snr_gamma 5, timesteps 0 to 600": {"min_snr_gamma": 5.0, "timestep_range": (0, 600)},
    "timesteps 0 to 600": {"timestep_range": (0, 600)},
    "timestep_bias 2 (more noise)": {"timestep_bias": 2.0},
    "timestep_bias -2 (less noise)": {"timestep_bias": -2.0},
    "half the steps, twice the batch": {"steps": PRESETS["quick"]["steps"] // 2, "batch": 2 * SMALL["batch"]},
    "twice the steps, half the batch": {"steps": PRESETS["quick"]["steps"] * 2, "batch": SMALL["batch"] // 2},
}
"""Changes to `quick`, at its own scale except for the batch. `quick` draws timesteps uniformly; all variants cost the same."""
MEASURES = ("similarity", "motion", "background")
SAMPLING_STEPS = 25
HEAD = """# What the `quick` preset is based on

Written by `python -m benchmarks.presets`: variants of `quick` on the demo world, with {steps:.0%} of their steps, sampled at
λ {way}. Subject {subject}, training seeds {seeds}, {videos} videos per training. Brackets show the 95 % interval, from resampling
whole trainings. *similarity*: -1 to 1, closeness to the subject rather than to its look-alikes; *motion*, *background*: share of
videos that follow the prompt. This illustrates what the settings do on a model of two million parameters and says nothing about
VideoCrafter2.

"""


@dataclass(frozen=True)
class Job:
    """The unit of work of a process: one training and its videos."""

    variant: str
    subject: str
    seed: int


def small_config(variant: str, seed: int, steps_share: float) -> TrainConfig:
    """The settings of a variant, scaled to the demo model."""
    full = preset("quick", world.CLASS_WORD, seed=seed, **{**SMALL, **VARIANTS[variant]})
    steps = max(round(full.steps * steps_share), 1)
    return preset("quick", world.CLASS_WORD, seed=seed, **{
        **SMALL, **VARIANTS[variant], "steps": steps, "lr": full.lr * RATE,
    })  # fmt: skip


def do(job: Job, prompts: int, steps_share: float) -> list[dict[str, Any]]:
    """Train and sample; one row for each video."""
    torch.set_num_threads(1)
    model = run.load_demo_base()
    config = small_config(job.variant, job.seed, steps_share)
    photos = run.demo_photos(world.HELD_OUT[job.subject])
    subject = train_subject(model, photos, config, prior=prior_of("still", job.seed)).subject
    rows: list[dict[str, Any]] = []
    asked = asked_for(job.subject, 0, prompts)  # the noises of each training are the same
    for prompt, group in groupby(asked, lambda one: one.caption("{}").replace("{}", subject.trigger)):
        together = list(group)
        video = VideoSettings(
            prompt=prompt, seed=together[0].noise, batch=len(together), steps=SAMPLING_STEPS, exact_tail=True
        )
        latent = generate(model, video, [AppliedSubject(subject, run.DYNAMIC)]).latent
        clips = (model.decode(latent) * 255).round().byte().numpy()
        rows += [
            {**vars(job), **one.facts(), **measured(clip, one, job.subject)}
            for one, clip in zip(together, clips, strict=True)
        ]
    return rows


def results(jobs: Sequence[Job], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of all jobs, from the cache or made now."""
    settings = {"prompts": options.prompts, "steps": options.steps, "base": run.load_demo_base().fingerprint}
    # a variant or preset that was changed since is another one
    settings |= {"variants": json.loads(json.dumps(VARIANTS)), "quick": PRESETS["quick"]}
    done = read_cache(options.cache, settings, Job)
    missing = [job for job in jobs if job not in done]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are in {options.cache}", flush=True)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(do, job, options.prompts, options.steps): job for job in missing}
        for number, future in enumerate(as_completed(running)):
            job = running[future]
            done[job] = future.result()
            with options.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"job": vars(job), "settings": settings, "rows": done[job]}) + "\n")
            print(f"{number + 1} of {len(missing)}: {job}", flush=True)
    yield from (row for job in jobs for row in done[job])


def table(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], str]:
    """Means with 95 % intervals of each variant, drawn again by training; as values and as text."""
    found: dict[str, dict[str, Any]] = {}
    lines = [f"| variant | {' | '.join(MEASURES)} |", "|---|" + "---|" * len(MEASURES)]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        part = [row for row in rows if row["variant"] == variant]
        seeds = [row["seed"] for row in part]
        means = {name: bootstrap_mean([float(row[name]) for row in part], groups=seeds) for name in MEASURES}
        found[variant] = {name: vars(mean) for name, mean in means.items()}
        lines.append(f"| {variant} | {' | '.join(str(mean) for mean in means.values())} |")
    return found, "\n".join(lines)


def main() -> None:
    """Do what is not yet done and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="the results")
    parser.add_argument("--cache", type=Path, default=Path("output/presets/cache.jsonl"), help="finished jobs")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    parser.add_argument("--prompts", type=int, default=6, help="videos of each training")
    parser.add_argument("--steps", type=float, default=STEPS, help="share of the preset's steps that is made")
    parser.add_argument("--subject", default="square-orange", choices=list(world.HELD_OUT))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    jobs = [Job(variant, options.subject, seed) for variant in options.variants for seed in options.seeds]
    rows = list(results(jobs, options))
    found, text = table(rows)
    content = {"subject": options.subject, "steps": options.steps, "means": found, "rows": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    way = f"{run.DYNAMIC.lambda_s} → {run.DYNAMIC.lambda_l}, K = {run.DYNAMIC.k} of {SAMPLING_STEPS}"
    facts = {"subject": options.subject, "seeds": options.seeds, "videos": options.prompts, "steps": options.steps}
    options.out.with_suffix(".md").write_text(f"{HEAD.format(way=way, **facts)}{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
