"""The demo: train a subject on the demo world, then sample one prompt in several ways from the same noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..base_model.loading import load_videocrafter2
from ..base_model.model import VideoCrafter2
from ..diffusion.strength import Constant, StrengthSchedule, TwoPhase
from ..sampling.generation import Generation, SampledStep, generate
from ..sampling.preparation import AppliedSubject
from ..sampling.settings import VideoSettings
from ..subject.subject import Subject
from ..training.config import DEMO, preset
from ..training.loop import Callbacks, train_subject
from ..training.photos import Photo
from ..training.run_options import RunOptions
from ..training.trainer import TrainStep
from . import world
from .export import DEMO_BASE

SUBJECT = world.HELD_OUT["square-orange"]
"""The subject: the base model has seen toys and squares in other colours, but never an orange square."""
PRIOR_IMAGES = 12
CONSTANT = 0.8
DYNAMIC = TwoPhase(k=10)
"""The paper's strengths with a larger K: on so small a model, motion is decided later (benchmarks/demo_motion.py)."""


def recommended_with(preset: str) -> TwoPhase:
    """The strength recommended for subjects trained with this preset."""
    return DYNAMIC if preset == DEMO else TwoPhase()


@dataclass(frozen=True)
class DemoVideo:
    """One video of the prompt: frames ``(t, h, w, 3)``, float32, 0 … 1, and how it was sampled."""

    label: str
    prompt: str
    frames: torch.Tensor
    generation: Generation


def load_demo_base(device: str = "cpu") -> VideoCrafter2:
    """The demo base model that comes with the project."""
    return load_videocrafter2(DEMO_BASE, device=device)


def demo_photos(look: world.Look = SUBJECT) -> list[Photo]:
    """Five still photos of a subject, captioned with their background."""
    return [Photo(_picture(scene), _caption(scene)) for scene in world.subject_scenes(look)]


def demo_prior(count: int = PRIOR_IMAGES, seed: int = 1) -> list[Photo]:
    """Still images of other things of the same class, for prior preservation."""
    rng = np.random.default_rng(seed)
    scenes = [world.sample_scene(rng, toy_share=1.0, motion_weights={"still": 1.0}) for _ in range(count)]
    return [Photo(_picture(scene), _caption(scene)) for scene in scenes]


def _picture(scene: world.Scene) -> Image.Image:
    return Image.fromarray(world.render_scene(scene, frames=1)[0])


def _caption(scene: world.Scene) -> str:
    return world.caption_for("{}", "still", scene.background)


def learn_demo_subject(
    model: VideoCrafter2, seed: int = 0, on_step: Callable[[TrainStep], None] | None = None
) -> Subject:
    """Train the demo subject with the `demo` preset and prior preservation."""
    config = preset(DEMO, world.CLASS_WORD, seed=seed)
    run_options, callbacks = RunOptions(recommended=recommended_with(DEMO)), Callbacks(on_step=on_step)
    return train_subject(
        model, demo_photos(), config, prior=demo_prior(), run_options=run_options, callbacks=callbacks
    ).subject


def make_demo_videos(
    model: VideoCrafter2,
    subject: Subject,
    motion: str = "left",
    background: str = "gray",
    seed: int = 0,
    on_step: Callable[[SampledStep], None] | None = None,
) -> list[DemoVideo]:
    """The same prompt and noise three times: base model with the class word, constant strength, dynamic weights."""
    plain = world.caption_for(world.CLASS_WORD, motion, background)
    named = world.caption_for("{}", motion, background).replace("{}", subject.trigger)
    ways: list[tuple[str, str, StrengthSchedule | None]] = [
        ("base model, class word", plain, None),
        (f"constant λ = {CONSTANT}", named, Constant(CONSTANT)),
        (f"dynamic λ = {DYNAMIC.lambda_s} → {DYNAMIC.lambda_l}, K = {DYNAMIC.k}", named, DYNAMIC),
    ]
    videos = []
    for label, prompt, strength in ways:
        applied = [] if strength is None else [AppliedSubject(subject, strength)]
        result = generate(model, VideoSettings(prompt=prompt, seed=seed, exact_tail=True), applied, on_step=on_step)
        videos.append(DemoVideo(label, prompt, model.decode(result.latent)[0], result))
    return videos
