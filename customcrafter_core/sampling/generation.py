"""Make a video: the paper's Algorithm 1 from prompt to latent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..base_model.model import VideoCrafter2
from ..base_model.text import check_text
from ..diffusion.ddim import ETA, DDIMStep, check_eta, ddim_sample
from ..diffusion.guidance import GuidanceBatch, GuidedUNet
from ..diffusion.schedule import STEPS, NoiseSchedule
from ..diffusion.strength import StrengthSchedule, remark_on, strengths_of
from ..errors import InputError
from ..memory.free import free_memory
from ..memory.sampling import choose_guidance
from ..subject.adapter import attached
from ..subject.prompts import encode_prompts, missing_tokens, tokenizer_of
from ..subject.subject import Subject, check_fits

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
class VideoSettings:
    """What video to make and how. Zero for a size, frames, fps or cfg, the default, means the model's own."""

    prompt: str
    negative: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    fps: int = 0
    batch: int = 1
    seed: int = 0
    steps: int = STEPS
    cfg: float = 0.0
    eta: float = ETA
    exact_tail: bool = False
    guidance: GuidanceBatch = GuidanceBatch.AUTO


@dataclass(frozen=True)
class SampledStep(DDIMStep):
    """A DDIM step together with the strength of each subject that was applied in it."""

    strengths: tuple[float, ...]


@dataclass(frozen=True)
class Generation:
    """A sampled latent ``(b, c, t, h, w)``, the settings in full and, per step, timestep and applied strengths."""

    latent: torch.Tensor
    settings: VideoSettings
    timesteps: list[int]
    strengths: list[tuple[float, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class SeededNoise:
    """Standard normal noise that depends on the seed alone: drawn on the CPU, one stream for each video of a batch."""

    def __init__(
        self, shape: tuple[int, ...], seed: int, device: torch.device, videos: Sequence[int] | None = None
    ) -> None:
        """Args:
        shape: of the latent, ``(b, c, t, h, w)``.
        seed: video number ``n`` uses ``seed + n``, modulo 2**64.
        device: where the noise goes.
        videos: number of each video; by default 0, 1, ...
        """
        self._shape, self._device = shape[1:], device
        numbers = range(shape[0]) if videos is None else videos
        self._generators = [torch.Generator().manual_seed((seed + n) % 2**64) for n in numbers]

    def __call__(self) -> torch.Tensor:
        """The next draw, ``(b, c, t, h, w)``."""
        draws = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        noise = torch.stack(draws)
        if self._device.type == "cuda":  # copied while the GPU works
            return noise.pin_memory().to(self._device, non_blocking=True)
        return noise.to(self._device)


@torch.inference_mode()
def generate(
    model: VideoCrafter2,
    settings: VideoSettings,
    subjects: Sequence[AppliedSubject] = (),
    *,
    any_base: bool = False,
    on_step: Callable[[SampledStep], None] | None = None,
) -> Generation:
    """Sample a video's latent with subjects whose strength follows their schedules.

    Args:
        model: the base model.
        settings: prompt, size, seed and sampling.
        subjects: applied together, each with its own token in the prompt.
        any_base: accept subjects of another base of the same widths.
        on_step: called after each step.

    Returns:
        The latent and the strengths that were really applied.

    Raises:
        InputError: a setting or a subject does not fit; nothing was changed.
    """
    run = prepare(model, settings, subjects, any_base=any_base)
    schedules = [strengths_of(applied.schedule, len(run.timesteps)) for applied in subjects]
    applied_strengths: list[tuple[float, ...]] = []

    with attached(model.unet, run.subjects) as attachment:

        def denoise(x: torch.Tensor, timestep: int, step: int) -> torch.Tensor:
            attachment.set_strengths([schedule[step] for schedule in schedules])
            applied_strengths.append(attachment.strengths)
            return run.unet(x, timestep)

        def report(state: DDIMStep) -> None:
            if on_step is not None:
                on_step(SampledStep(**vars(state), strengths=applied_strengths[-1]))

        latent = ddim_sample(
            denoise,
            run.noise(),
            model.schedule,
            run.timesteps,
            noise=run.noise,
            eta=run.settings.eta,
            exact_tail=run.settings.exact_tail,
            on_step=report,
        )
    return Generation(
        latent, run.settings, run.timesteps, applied_strengths, run.warnings + remarks(settings, subjects)
    )


@dataclass(frozen=True)
class PreparedRun:
    """All that a run needs besides the strengths: `noise` gives ``x_T`` first, then the noise of one step after another."""

    settings: VideoSettings
    subjects: list[Subject]
    timesteps: list[int]
    unet: GuidedUNet
    noise: SeededNoise
    warnings: list[str]


def prepare(
    model: VideoCrafter2, settings: VideoSettings, subjects: Sequence[AppliedSubject] = (), *, any_base: bool = False
) -> PreparedRun:
    """Check everything and encode the prompts; see `generate`.

    Raises:
        InputError: a setting or a subject does not fit.
    """
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
    return PreparedRun(settings, learned, timesteps, unet, SeededNoise(shape, settings.seed, model.device), warnings)


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


def resolve(model: VideoCrafter2, settings: VideoSettings) -> VideoSettings:
    """The settings with the model's own values where none are given.

    Raises:
        InputError: the frame rate or the guidance scale is out of range.
    """
    own = model.defaults
    names = ("width", "height", "frames", "fps", "cfg")
    settings = replace(settings, **{name: getattr(settings, name) or getattr(own, name) for name in names})
    if not 1 <= settings.fps <= 60:
        raise InputError(expected="1 to 60 frames per second", found=f"{settings.fps}", remedy=f"Try {own.fps}.")
    if not 1 <= settings.cfg < float("inf"):
        raise InputError(expected="a guidance scale of 1 or more", found=f"{settings.cfg}", remedy=f"Try {own.cfg}.")
    return settings
