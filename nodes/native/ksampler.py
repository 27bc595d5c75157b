"""One run of the Dynamic Weighted KSampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from einops import rearrange

from ...customcrafter_core.diffusion.strength import StrengthSchedule
from ...customcrafter_core.diffusion.switch import NoiseSwitch
from ...customcrafter_core.subject.subject import Subject
from .. import host
from .applied import Applied, by_step, recorded
from .ddim import make_sampler, start_noise
from .model import base_of
from .strength_plan import StrengthPlan
from .subject import with_dynamic_subject


@dataclass(frozen=True)
class Run:
    """All inputs of a run; names and meaning as in the node."""

    model: ModelPatcher
    positive: list[Any]
    negative: list[Any]
    latent_image: dict[str, Any]
    seed: int
    steps: int
    cfg: float
    eta: float
    sampler_name: str
    scheduler: str
    denoise: float
    schedule: StrengthSchedule | NoiseSwitch
    own_sampler: bool
    subject: Subject | None = None
    any_base: bool = False
    page: host.NodeOnPage | None = None


@dataclass(frozen=True)
class Sampled:
    """What a run gave."""

    latent: dict[str, Any]
    """The LATENT."""
    steps: int
    applied: list[Applied]
    """For each LoRA on the model whose strength follows the steps."""


def run(settings: Run) -> Sampled:
    """Sample.

    Raises:
        InputError: the subject does not fit the model, or the sampler is not for this model.
    """
    model = settings.model
    sigmas = run_sigmas(settings)
    if settings.subject is not None:
        plan = StrengthPlan(settings.schedule)
        model = with_dynamic_subject(model, settings.subject, plan, any_base=settings.any_base, page=settings.page)
    model, applied = recorded(model)
    latent = host.fit_empty_latent(model, settings.latent_image)
    start = own_start(settings, model, latent) if settings.own_sampler else host_start(settings, latent)
    samples = sample_from(start, model, settings, sigmas, latent_preview.prepare_callback(model, len(sigmas) - 1))
    if latent.ndim == 4 and samples.ndim == 5:
        samples = rearrange(samples, "1 c t h w -> t c h w")
    result = {name: value for name, value in settings.latent_image.items() if not name.startswith("downscale_ratio")}
    steps = len(sigmas) - 1
    return Sampled({**result, "samples": samples}, steps, [by_step(calls, steps) for calls in applied])


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    sampler: comfy.samplers.KSAMPLER
    latent: torch.Tensor
    noise: torch.Tensor


def sample_from(
    start: Start, model: ModelPatcher, settings: Run, sigmas: torch.Tensor, callback: Callable[..., None]
) -> torch.Tensor:
    """Let the host sample with a model that stands for that of the settings.

    Args:
        start: what to begin with.
        model: with everything on it.
        settings: the run.
        sigmas: of the steps ``(steps + 1,)``.
        callback: the host's, called with (step, x0, x, steps) after each.
    """
    return comfy.sample.sample_custom(
        model,
        start.noise,
        settings.cfg,
        start.sampler,
        sigmas,
        settings.positive,
        settings.negative,
        start.latent,
        noise_mask=settings.latent_image.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=settings.seed,
    )


def own_start(settings: Run, model: ModelPatcher, latent: torch.Tensor) -> Start:
    """VideoCrafter2's DDIM with the core's noise; ``batch_index`` chooses it for each video, not for frames."""
    video = as_video(model, latent)
    videos = settings.latent_image.get("batch_index") if latent.ndim == 5 else None
    sampler = make_sampler(settings.eta, exact_tail=False, videos=videos)
    return Start(sampler, video, start_noise(video, settings.seed, videos))


def host_start(settings: Run, latent: torch.Tensor) -> Start:
    """A sampler of the host's with the host's noise: exactly what its KSampler begins with."""
    noise = comfy.sample.prepare_noise(latent, settings.seed, settings.latent_image.get("batch_index"))
    return Start(comfy.samplers.sampler_object(settings.sampler_name), latent, noise)


def run_sigmas(settings: Run) -> torch.Tensor:
    """The sigmas of the steps that run, as the host's KSampler makes them."""
    name = "ddim" if settings.own_sampler else settings.sampler_name
    plan = comfy.samplers.KSampler(
        settings.model,
        steps=settings.steps,
        device=settings.model.load_device,
        sampler=name,
        scheduler=settings.scheduler,
        denoise=settings.denoise,
        model_options=settings.model.model_options,
    )
    return plan.sigmas


def as_video(model: ModelPatcher, latent: torch.Tensor) -> torch.Tensor:
    """A latent whose frames are its batch, as one video ``(1, c, t, h, w)``, if the model makes videos of those."""
    if latent.ndim == 4 and base_of(model) is not None:
        return rearrange(latent, "t c h w -> 1 c t h w")
    return latent
