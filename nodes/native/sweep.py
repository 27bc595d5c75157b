"""Several strengths of a subject from the same noise; steps that runs have in common are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any

import comfy.samplers
import latent_preview
import torch

from ...customcrafter_core.diffusion.ddim import ddim_steps
from ...customcrafter_core.diffusion.strength import TwoPhase, strengths_of
from ...customcrafter_core.evaluation.motion import motion_travel
from ...customcrafter_core.evaluation.scoring import MOTION
from ...customcrafter_core.experiments.sweep import Sweep, SweepCell
from ...customcrafter_core.sampling.shared_runs import forwards_of, sample_tree
from ...customcrafter_core.subject.subject import Subject
from .. import host
from .ddim import Callback, levels_of, predictor, step_noise
from .ksampler import Run, own_start, run_sigmas, sample_from
from .prompted import decoded, settings_of
from .strength_plan import StrengthPlan
from .subject import with_dynamic_subject

LARGEST = 64  # runs; each video is kept until the sheet is drawn


def step_count(settings: Run) -> int:
    """Steps that really run."""
    return len(run_sigmas(settings)) - 1


class Chosen:
    """The strength schedule of the run that is under way."""

    def __init__(self, strengths: Sequence[TwoPhase]) -> None:
        self._strengths = strengths
        # until one is chosen the strongest stands for all: the prompt is checked by it
        self._now = max(strengths, key=lambda one: max(abs(one.lambda_s), abs(one.lambda_l)))

    def choose(self, run: int) -> None:
        """Go on with a run."""
        self._now = self._strengths[run]

    def __call__(self, step: int, steps: int) -> float:
        """Its strength at a step."""
        return self._now(step, steps)


@dataclass
class TreeSampler:
    """VideoCrafter2's DDIM over all runs, as a sampler function of the host: it gives them as a batch."""

    chosen: Chosen
    strengths: list[list[tuple[float, ...]]]
    eta: float

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
    ) -> torch.Tensor:
        """From ``x`` ``(1, c, t, h, w)``, which is ``x_T / signal``, to the latents ``(runs, c, t, h, w)``."""
        arguments = extra_args or {}
        levels, calls = levels_of(model, sigmas), count()

        def tell(step: dict[str, Any]) -> None:
            if callback is not None:
                callback({**step, "i": next(calls)})

        predict = predictor(model, levels, sigmas, arguments, tell)
        noise = cache(step_noise(x, arguments.get("seed") or 0))

        def advance(x: torch.Tensor, start: int, stop: int, run: int) -> torch.Tensor:
            self.chosen.choose(run)
            for step in ddim_steps(predict, x, levels, noise=noise, eta=self.eta, start=start, stop=stop):
                x = step.following
            return x

        return torch.cat(sample_tree(self.strengths, x * levels[0].signal, advance))


def sweep(
    settings: Run, subject: Subject, vae: Any, strengths: Sequence[TwoPhase], prompt: str, negative: str
) -> Sweep:
    """Sample, decode and measure each strength of a subject.

    Raises:
        InputError: the subject does not fit the model, or the prompt does not name it.
    """
    steps, chosen = step_count(settings), Chosen(strengths)
    model = with_dynamic_subject(settings.model, subject, StrengthPlan(chosen), any_base=settings.any_base)
    per_run = [[(value,) for value in strengths_of(strength, steps)] for strength in strengths]
    sampler = TreeSampler(chosen, per_run, settings.eta)
    latents = _sampled(settings, model, sampler)
    cells = []
    for values, latent in zip(strengths, latents, strict=True):
        frames = decoded(vae, latent[None])
        cells.append(SweepCell(values, steps, frames, {MOTION: motion_travel(frames)}))
    described = settings_of(settings, prompt, negative, cells[0].frames)
    return Sweep(cells, described, forwards_of(per_run), steps * len(strengths))


def _sampled(settings: Run, model: Any, sampler: TreeSampler) -> torch.Tensor:
    """All latents ``(runs, c, t, h, w)``; the bar counts the network's calls of all runs."""
    calls = forwards_of(sampler.strengths)
    preview = latent_preview.prepare_callback(model, calls)
    latent = host.fit_empty_latent(model, settings.latent_image)
    start = replace(own_start(settings, model, latent), sampler=comfy.samplers.KSAMPLER(sampler))
    return sample_from(start, model, settings, run_sigmas(settings), lambda step, x0, x, _: preview(step, x0, x, calls))
