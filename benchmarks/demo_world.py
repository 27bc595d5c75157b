"""What the method does on the demo world: strengths, variants and priors, over subjects, trainings and noise.

Run: .venv/bin/python -m benchmarks.demo_world     (an hour or more on two cores; an interrupted run resumes)

Writes benchmarks/demo_world.json, the page demo_world.md and a sheet for each subject. Every video of a subject and training
seed has its own noise, the same for all settings. Nothing was tuned on these seeds. This illustrates the mechanism on a
model of two million parameters and says nothing about VideoCrafter2.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from benchmarks import demo_measures as measures
from benchmarks.demo_base_clips import sample_switched
from benchmarks.demo_page import kept_clips, write_page
from benchmarks.demo_sampling import sample_ways
from benchmarks.demo_statistics import BASE, COMMITMENT, CROSS, LATE, MAIN, MOVING_PRIOR, NO_PRIOR
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.demo import run, world
from customcrafter_core.diffusion.strength import Constant, StrengthSchedule, TwoPhase
from customcrafter_core.subject.subject import Subject
from customcrafter_core.training.config import PRESETS, preset
from customcrafter_core.training.loop import train_subject
from customcrafter_core.training.photos import Clip, Photo

J = TypeVar("J")
SUBJECTS = ("heart-blue-pink", "diamond-yellow-purple", "cross-red-cyan")
TRAIN_SEEDS = (10, 11, 12)
NOISE_SEED = 700_000
"""First noise seed of the videos. Settings were chosen on other subjects, training seeds < 10 and noise seeds < 1000."""
CONSTANTS = {f"constant {value}": Constant(value) for value in (0.2, 0.4, 0.6, 0.8, 1.0)}
DYNAMICS = {
    f"dynamic {lambda_s:g} → 0.8, K = {k}": TwoPhase(lambda_s, k=k)
    for lambda_s, ks in {0.4: (5, 10, 15, 20), 0.2: (10, 20), 0.0: (10, 20)}.items()
    for k in ks
}
"""The paper's λs and lower ones: if 0.4 freezes motion too, it cannot restore any."""
EVERY = {**CONSTANTS, **DYNAMICS}
ONE = {"constant 0.8": EVERY["constant 0.8"]}
TWO = {**ONE, "dynamic 0.4 → 0.8, K = 10": EVERY["dynamic 0.4 → 0.8, K = 10"]}
SWITCHES = (0, 2, 4, 6, 8, 10, 12, 15, 20, 25, 35, 50)
PRIOR_COUNT = 24
MOVING = tuple(name for name in world.MOTIONS if name != "still")
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True)
class Variant:
    """A way to train, and the ways to sample what it learned."""

    prior: str
    """``still``, ``moving`` or empty."""
    ways: dict[str, StrengthSchedule]
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the training, where they are not the preset's."""


VARIANTS = {
    MAIN: Variant("still", EVERY),
    CROSS: Variant("still", ONE, {"method": "lora_cross_only"}),
    NO_PRIOR: Variant("", ONE),
    MOVING_PRIOR: Variant("moving", ONE),
    LATE: Variant("still", TWO, {"timestep_range": (0, 600)}),
}


@dataclass(frozen=True)
class Job:
    """What one process does at a time: one training and all its videos, or videos of the base model."""

    variant: str
    subject: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """What a video is asked for."""

    motion: str
    background: str
    thing: str
    noise: int

    def facts(self) -> dict[str, Any]:
        """For the row of a video, in which ``thing`` is what was found."""
        return {"asked": self.motion, "on": self.background, "beside": self.thing, "noise": self.noise}

    def caption(self, noun: str) -> str:
        """The prompt."""
        return world.caption_for(noun, self.motion, self.background, self.thing)


def all_jobs(subjects: Sequence[str], seeds: Sequence[int], variants: Sequence[str] = tuple(VARIANTS)) -> list[Job]:
    """Everything to do, the long ones first."""
    learned = [Job(variant, subject, seed) for variant in variants for seed in seeds for subject in subjects]
    return [*learned, *(Job(BASE, seed=seed) for seed in seeds), Job(COMMITMENT)]


def asked_for(subject: str, seed: int, count: int, beside: bool = False) -> list[Asked]:
    """The prompts: four motions on three backgrounds, twice; with ``beside`` half of them with a second object.

    The second object's colour is none of the subject's.
    """
    colours = world.HELD_OUT[subject].colours if subject else ()
    things = [name for name, look in world.THINGS.items() if look.colours[0] not in colours]
    start = NOISE_SEED + 1000 * (list(world.HELD_OUT).index(subject) if subject else 99) + 100 * seed
    prompts = [
        (motion, background, thing)
        for background in world.BACKGROUNDS
        for motion in MOVING
        for thing in ("", "thing" if beside else "")
    ]
    return [
        Asked(motion, background, thing and things[i % len(things)], start + i)
        for i, (motion, background, thing) in enumerate(prompts[:count])
    ]


def learn(model: VideoCrafter2, job: Job, steps: int) -> Subject:
    """Train one subject."""
    variant = VARIANTS[job.variant]
    config = preset("demo", world.CLASS_WORD, seed=job.seed, steps=steps, **variant.settings)
    photos = run.demo_photos(world.HELD_OUT[job.subject])
    return train_subject(model, photos, config, prior=prior_of(variant.prior, job.seed)).subject


def prior_of(kind: str, seed: int) -> list[Photo | Clip]:
    """Other toys, as stills or as clips that move."""
    rng = np.random.default_rng([seed, 53])
    motions = {"still": 1.0} if kind == "still" else dict.fromkeys(MOVING, 1.0)
    prior: list[Photo | Clip] = []
    while kind and len(prior) < PRIOR_COUNT:
        scene = world.sample_scene(rng, toy_share=1.0, motion_weights=motions)
        caption = world.caption_for("{}", scene.motion, scene.background)
        frames = tuple(Image.fromarray(frame) for frame in world.render_scene(scene))
        prior.append(Photo(frames[0], caption) if kind == "still" else Clip(frames, caption))
    return prior


def measured(clip: np.ndarray, asked: Asked, subject: str) -> dict[str, Any]:
    """Everything that is measured of a video ``(f, h, w, 3)``; ``travel`` is along the asked direction.

    Without a subject the similarity is the mean of those to all subjects.
    """
    first = measures.without_thing(clip, asked.thing) if asked.thing else clip
    x, y = measures.travel(first)
    dx, dy = world.MOTIONS[asked.motion]
    along = float(x * dx + y * dy)
    found: dict[str, Any] = {
        "motion": measures.direction(first) == asked.motion,
        "travel": along if np.isfinite(along) else 0.0,
        "background": measures.background_name(clip) == asked.background,
    }
    if asked.thing:
        found["thing"] = bool(measures.thing_mask(clip, asked.thing).any())
    # a video of the base model shows any toy: how much the subjects' photos are like that by chance
    looks = [world.HELD_OUT[name] for name in ([subject] if subject else SUBJECTS)]
    found["similarity"] = float(np.mean([measures.subject_similarity(first, look) for look in looks]))
    return found


def do(job: Job, settings: dict[str, Any], sheets: Path) -> list[dict[str, Any]]:
    """Train and sample; one row for each video."""
    torch.set_num_threads(1)
    model = run.load_demo_base()
    if job.variant == COMMITMENT:
        return commitment(model, settings["prompts"])
    subject = learn(model, job, settings["steps"]) if job.subject else None
    ways = VARIANTS[job.variant].ways if subject else {BASE: None}
    noun = subject.trigger if subject else world.CLASS_WORD
    asked = asked_for(job.subject, job.seed, settings["prompts"], settings["beside"])
    prompts = [one.caption("{}").replace("{}", noun) for one in asked]
    clips = sample_ways(model, prompts, subject, list(ways.values()), seed=asked[0].noise)
    np.savez_compressed(kept_clips(sheets, job.variant, job.subject, job.seed), *(videos[0] for videos in clips))
    facts = {"variant": job.variant, "subject": job.subject, "seed": job.seed}
    return [
        {**facts, "way": way, "prompt": prompt, **one.facts(), **measured(clip, one, job.subject)}
        for way, videos in zip(ways, clips, strict=True)
        for prompt, one, clip in zip(prompts, asked, videos, strict=True)
    ]


def commitment(model: VideoCrafter2, count: int) -> list[dict[str, Any]]:
    """Videos of the base whose prompt changes to the opposite motion before step K."""
    rows = []
    asked = asked_for("", 0, count)[::2]
    captions = [one.caption("red circle") for one in asked]
    turned = [world.caption_for("red circle", OPPOSITE[one.motion], one.background) for one in asked]
    for k in SWITCHES:
        for copy in (0, 1):
            clips = sample_switched(model, captions, turned, k, seed=asked[0].noise + 500 * copy)
            for one, clip in zip(asked, clips, strict=True):
                seen = measures.direction(clip)
                facts = {"variant": COMMITMENT, "subject": "", "seed": copy, "way": f"switch at {k}", "k": k}
                rows.append(
                    {**facts, **one.facts(), "first": seen == one.motion, "second": seen == OPPOSITE[one.motion]}
                )
    return rows


def read_cache(path: Path, settings: dict[str, Any], kind: type[J]) -> dict[J, list[dict[str, Any]]]:
    """Finished jobs of these settings, each of a kind; a line that was cut off counts as not done."""
    done: dict[J, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["settings"] == settings:
            done[kind(**entry["job"])] = entry["rows"]
    return done


def results(jobs: Sequence[Job], cache: Path, options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """The rows of all jobs, from the cache or made now."""
    settings = {name: getattr(options, name) for name in ("prompts", "steps", "beside")}
    settings["base"] = run.load_demo_base().fingerprint
    settings["ways"] = {name: list(variant.ways) for name, variant in VARIANTS.items()}
    done = read_cache(cache, settings, Job)
    missing = [job for job in jobs if job not in done]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are in {cache}", flush=True)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(do, job, settings, cache.parent): job for job in missing}
        for number, future in enumerate(as_completed(running)):
            job = running[future]
            done[job] = future.result()
            with cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"job": vars(job), "settings": settings, "rows": done[job]}) + "\n")
            print(f"{number + 1} of {len(missing)}: {job}", flush=True)
    yield from (done[job] for job in jobs)


def main() -> None:
    """Do what is not yet done and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    parser.add_argument("--cache", type=Path, default=Path("output/demo_world/cache.jsonl"), help="finished jobs")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    parser.add_argument("--prompts", type=int, default=24, help="videos of each way, subject and training")
    parser.add_argument(
        "--beside",
        action="store_true",
        help="half of the prompts with a second object; the base must know them (see demo_gate.json)",
    )
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(world.HELD_OUT))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(TRAIN_SEEDS), help="of training")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="of training")
    parser.add_argument("--steps", type=int, default=PRESETS["demo"]["steps"], help="of training")
    options = parser.parse_args()
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    jobs = all_jobs(options.subjects, options.seeds, options.variants)
    rows = [row for part in results(jobs, options.cache, options) for row in part]
    print(write_page(rows, options.out, sheets=options.cache.parent))


if __name__ == "__main__":
    main()
