"""One run of the Dynamic Weighted KSampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from einops import rearrange

from ...customcrafter_core.diffusion.strength import StrengthSchedule, strengths_of
from ...customcrafter_core.errors import InputError
from ...customcrafter_core.subject.subject import Subject
from .. import host
from .ddim import make_sampler, start_noise
from .dynamic import ScheduledStrength, recorded, subject_patches, with_dynamic_strength
from .model import base_of
from .subject import take_subject
from .text import may_hold


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
    schedule: StrengthSchedule
    own_sampler: bool
    subject: Subject | None = None
    any_base: bool = False


def run(settings: Run) -> tuple[dict[str, Any], list[list[float | None]]]:
    """Sample.

    Returns:
        The LATENT, and for each LoRA on the model whose strength follows the steps its strength at each step; None at
        steps that the network did not see.

    Raises:
        InputError: the subject does not fit the model, or the prompt misses its token.
    """
    model = settings.model
    sigmas = run_sigmas(settings)
    if settings.subject is not None:
        check_token(settings)
        model = take_subject(model, settings.subject, any_base=settings.any_base)
        strength = ScheduledStrength(settings.schedule)
        model = with_dynamic_strength(model, subject_patches(settings.subject), strength)
    model, applied = recorded(model)
    latent = host.fit_empty_latent(model, settings.latent_image)
    video = as_video(model, latent)
    noise = start_noise(video, settings.seed) if video.ndim == 5 else comfy.sample.prepare_noise(latent, settings.seed)
    sampler = (
        make_sampler(settings.eta, exact_tail=False)
        if settings.own_sampler
        else comfy.samplers.sampler_object(settings.sampler_name)
    )
    samples = comfy.sample.sample_custom(
        model,
        noise,
        settings.cfg,
        sampler,
        sigmas,
        settings.positive,
        settings.negative,
        video,
        noise_mask=settings.latent_image.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=settings.seed,
    )
    if latent.ndim == 4 and samples.ndim == 5:
        samples = rearrange(samples, "1 c t h w -> t c h w")
    result = {name: value for name, value in settings.latent_image.items() if not name.startswith("downscale_ratio")}
    return {**result, "samples": samples}, [[line.get(step) for step in range(len(sigmas) - 1)] for line in applied]


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


def check_token(settings: Run) -> None:
    """Refuse to use a subject that the prompt does not name.

    Raises:
        InputError: no positive prompt held the subject's token.
    """
    subject = settings.subject
    used = any(strengths_of(settings.schedule, settings.steps))
    if subject is None or not used:
        return
    if not any(may_hold(text, more, subject.placeholder) for text, more in settings.positive):
        raise InputError(
            expected=f"{subject.placeholder} in the positive prompt, encoded by a CLIP that knows it",
            found="a prompt without it, or a CLIP that does not know it",
            remedy=f"Write {subject.trigger!r} and encode it with the CLIP output of Teach Token.",
        )
