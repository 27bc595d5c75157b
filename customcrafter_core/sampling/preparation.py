"""Check what a run is asked for, and make ready all that it needs besides the strengths."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..base_model.model import VideoCrafter2
from ..base_model.text import check_text
from ..diffusion.ddim import Level, Prediction, check_eta, ddim_levels
from ..diffusion.guidance import GuidanceBatch, GuidedUNet
from ..diffusion.schedule import NoiseSchedule
from ..diffusion.strength import StrengthSchedule, remark_on, strengths_of
from ..memory.free import free_memory
from ..memory.sampling import choose_guidance
from ..subject.prompts import encode_prompts, missing_tokens, tokenizer_of
from ..subject.subject import Subject, check_fits
from .noise import SeededNoise
from .settings import VideoSettings, resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppliedSubject:
    """A subject and how strong it is at each step."""

    subject: Subject
    strength: StrengthSchedule | None = None
    """None: as the subject recommends."""

    @property
    def schedule(self) -> StrengthSchedule:
        """The strength at each step."""
        return self.subject.recommended if self.strength is None else self.strength


@dataclass(frozen=True)
class PreparedRun:
    """All that a run needs besides the strengths: `noise` gives ``x_T`` first, then the noise of one step after another."""

    settings: VideoSettings
    """In full."""
    subjects: list[Subject]
    timesteps: list[int]
    levels: list[Level]
    """As `ddim_levels`: one more than steps."""
    unet: GuidedUNet
    noise: SeededNoise
    warnings: list[str]

    def predict(self, x: torch.Tensor, step: int) -> Prediction:
        """The noise in ``x (b, c, t, h, w)`` at a step, at the strengths that are set on the UNet."""
        return self.unet(x, self.timesteps[step])


def prepare(
    model: VideoCrafter2, settings: VideoSettings, subjects: Sequence[AppliedSubject] = (), *, any_base: bool = False
) -> PreparedRun:
    """Check everything and encode the prompts; see `generate`.

    Raises:
        InputError: a setting or a subject does not fit.
    """
    check_eta(settings.eta)
    settings = resolve(model, settings)
    shape = model.latent_shape(settings.width, settings.height, settings.frames, settings.batch)
    timesteps = model.schedule.ddim_timesteps(settings.steps)
    learned = [applied.subject for applied in subjects]
    for subject in learned:
        check_fits(subject, model, any_base=any_base)
    warnings = missing_tokens(settings.prompt, learned)
    for warning in warnings:
        log.warning(warning)
    text = encode_prompts(model, [settings.prompt, settings.negative], learned)
    cond, uncond = (row.expand(settings.batch, -1, -1) for row in text.unsqueeze(1))
    guidance = settings.guidance
    if guidance is GuidanceBatch.AUTO and model.device.type == "cpu":  # other devices say when memory is short
        guidance = choose_guidance(model, shape, learned, cfg=settings.cfg, free=free_memory(model.device))
    unet = GuidedUNet(model.unet, cond, uncond, cfg=settings.cfg, fps=settings.fps, batch=guidance)
    levels, noise = (
        ddim_levels(model.schedule, timesteps, settings.exact_tail),
        SeededNoise(shape, settings.seed, model.device),
    )
    return PreparedRun(settings, learned, timesteps, levels, unet, noise, warnings)


def remarks(settings: VideoSettings, subjects: Sequence[AppliedSubject]) -> list[str]:
    """What a person may not expect of the strengths asked for, in a sentence each."""
    steps, several = len(NoiseSchedule.videocrafter2().ddim_timesteps(settings.steps)), len(subjects) > 1
    found = [(applied.subject.placeholder, remark_on(applied.schedule, steps)) for applied in subjects]
    return [f"{token}: {remark}" if several else remark for token, remark in found if remark]


def check_settings(settings: VideoSettings, subjects: Sequence[AppliedSubject] = ()) -> None:
    """Refuse what is wrong with any model, before one is loaded.

    Raises:
        InputError: prompts, steps, eta, strengths or tokens cannot be used.
    """
    timesteps = NoiseSchedule.videocrafter2().ddim_timesteps(settings.steps)
    check_eta(settings.eta)
    for applied in subjects:
        strengths_of(applied.schedule, len(timesteps))
    for prompt in (settings.prompt, settings.negative):
        check_text(prompt)
    tokenizer_of([applied.subject for applied in subjects])


def strengths_per_step(schedules: Sequence[StrengthSchedule], steps: int) -> list[tuple[float, ...]]:
    """Per step the strength of each schedule.

    Raises:
        InputError: as `strengths_of`.
    """
    return list(zip(*(strengths_of(schedule, steps) for schedule in schedules), strict=True)) or [()] * steps
