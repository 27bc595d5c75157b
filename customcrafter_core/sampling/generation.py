"""Make a video: the paper's Algorithm 1 from prompt to latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..base_model.model import VideoCrafter2
from ..diffusion.ddim import Prediction, ddim_steps
from ..subject.adapter import attached
from .preparation import AppliedSubject, prepare, remarks, strengths_per_step
from .settings import VideoSettings


@dataclass(frozen=True)
class SampledStep:
    """What a callback sees after each step: ``x0`` is the predicted clean latent ``(b, c, t, h, w)``."""

    step: int
    """Counted from 0."""
    steps: int
    timestep: int
    x0: torch.Tensor
    strengths: tuple[float, ...] = ()
    """Of each subject, as they were applied."""


@dataclass(frozen=True)
class Generation:
    """A sampled latent ``(b, c, t, h, w)``, the settings in full and, per step, timestep and applied strengths."""

    latent: torch.Tensor
    settings: VideoSettings
    timesteps: list[int]
    strengths: list[tuple[float, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    steps = len(run.timesteps)
    strengths = strengths_per_step([applied.schedule for applied in subjects], steps)
    latent, applied_strengths = run.noise(), []
    with attached(model.unet, run.subjects) as attachment:

        def predict(x: torch.Tensor, step: int) -> Prediction:
            attachment.set_strengths(strengths[step])
            applied_strengths.append(attachment.strengths)
            return run.predict(x, step)

        for made in ddim_steps(predict, latent, run.levels, noise=run.noise.of_step, eta=run.settings.eta):
            latent = made.following
            if on_step is not None:
                on_step(SampledStep(made.step, steps, run.timesteps[made.step], made.x0, applied_strengths[-1]))
    return Generation(
        latent, run.settings, run.timesteps, applied_strengths, run.warnings + remarks(settings, subjects)
    )
