"""Several strengths from the same noise with the host's samplers; steps that runs have in common are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any, ClassVar

import comfy.samplers
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ...customcrafter_core.diffusion.ddim import ddim_steps
from ...customcrafter_core.diffusion.strength import Constant, StrengthSchedule, TwoPhase, strengths_of
from ...customcrafter_core.evaluation.motion import motion_travel
from ...customcrafter_core.evaluation.scoring import MOTION
from ...customcrafter_core.experiments.sweep import Sweep, SweepCell
from ...customcrafter_core.sampling.shared_runs import Strengths, forwards_of, sample_tree
from ...customcrafter_core.subject.subject import Subject
from .. import host
from .ddim import Callback, levels_of, predictor, step_noise
from .dynamic import all_following
from .ksampler import Run, Start, as_video, host_start, own_start, run_sigmas, sample_from
from .prompted import decoded, settings_of
from .strength_plan import StrengthPlan
from .subject import with_dynamic_subject

LARGEST = 64  # runs; each video is kept until the sheet is drawn

RESTARTABLE = ("euler", "ddim", "euler_cfg_pp", "heun", "dpm_2", "exp_heun_2_x0")
"""The host's samplers whose step needs only the latent and two noise levels: no earlier step, no noise, no look ahead. A run
can leave another anywhere and ends with the same bits as alone. All others run one by one."""


def step_count(settings: Run) -> int:
    """Steps that really run."""
    return len(run_sigmas(settings)) - 1


class Chosen:
    """The strength schedule of the run that is under way."""

    def __init__(self, strengths: Sequence[TwoPhase]) -> None:
        # until one is chosen the strongest stands for all: the prompt is checked by it
        self.schedule: StrengthSchedule = max(strengths, key=lambda one: max(abs(one.lambda_s), abs(one.lambda_l)))

    def __call__(self, step: int, steps: int) -> float:
        """Its strength at a step."""
        return self.schedule(step, steps)


def sweep_subject(
    settings: Run, subject: Subject, vae: Any, strengths: Sequence[TwoPhase], prompt: str, negative: str
) -> Sweep:
    """Sample, decode and measure each strength of a subject.

    Raises:
        InputError: the subject does not fit the model, or the prompt does not name it.
    """
    chosen = Chosen(strengths)
    model = with_dynamic_subject(settings.model, subject, StrengthPlan(chosen), any_base=settings.any_base)
    return _sweep(settings, model, chosen, vae, strengths, prompt, negative)


def sweep_loras(settings: Run, vae: Any, strengths: Sequence[TwoPhase]) -> Sweep:
    """Sample, decode and measure each strength of the LoRAs that follow the steps on a model, all of them alike.

    Raises:
        InputError: there are none.
    """
    chosen = Chosen(strengths)
    return _sweep(settings, all_following(settings.model, StrengthPlan(chosen)), chosen, vae, strengths)


def _sweep(
    settings: Run,
    model: ModelPatcher,
    chosen: Chosen,
    vae: Any,
    strengths: Sequence[TwoPhase],
    prompt: str = "",
    negative: str = "",
) -> Sweep:
    """Of a model whose strength is that of ``chosen``."""
    runs = Runs(settings, model, chosen, strengths)
    latents = runs.shared() if can_share(settings) else runs.one_by_one()
    cells = []
    for values, latent in zip(strengths, latents, strict=True):
        frames = decoded(vae, latent)
        cells.append(SweepCell(values, runs.steps, frames, {MOTION: motion_travel(frames)}))
    return Sweep(cells, settings_of(settings, prompt, negative, cells[0].frames), runs.made, runs.alone)


def can_share(settings: Run) -> bool:
    """Whether runs can leave one another on the way: the sampler lets them, and nothing else could remember steps.

    Wrappers, patches and hooks of other packs (caches of steps, momentum in guidance, key frames) may.
    """
    model, options = settings.model, settings.model.model_options
    of_layers = options.get("transformer_options", {})
    hooked = [*model.wrappers.values(), *model.callbacks.values()]
    hooked += [kind for name in ("wrappers", "callbacks") for kind in of_layers.get(name, {}).values()]
    foreign = [
        key for kind in hooked for key, held in kind.items() if held and not str(key).startswith("customcrafter")
    ]
    others = [options[name] for name in options if name != "transformer_options"]
    others += [of_layers.get(name) for name in ("patches", "patches_replace")]
    given = [one[1] for one in (*settings.positive, *settings.negative)]
    return (
        (settings.own_sampler or settings.sampler_name in RESTARTABLE)
        and not any([*foreign, *others])
        and not any(told.get("hooks") or told.get("control") for told in given)
    )


@dataclass
class Runs:
    """All runs of a sweep; each way to make them gives the latents in their order, and the bar counts steps of all."""

    settings: Run
    model: ModelPatcher
    chosen: Chosen
    strengths: Sequence[TwoPhase]
    made: int = 0
    """Steps that were computed."""

    def __post_init__(self) -> None:
        self.sigmas = run_sigmas(self.settings)
        self.steps = len(self.sigmas) - 1
        self.alone = self.steps * len(self.strengths)
        self.latent = host.fit_empty_latent(self.model, self.settings.latent_image)

    def one_by_one(self) -> list[torch.Tensor]:
        """Each from its first step, exactly as the sampler's own node would."""
        latents, preview = [], latent_preview.prepare_callback(self.model, self.alone)
        self.made = self.alone
        for number, strength in enumerate(self.strengths):
            self.chosen.schedule = strength
            done = number * self.steps

            def show(step: int, x0: torch.Tensor, x: torch.Tensor, _: int, done: int = done) -> None:
                preview(done + step, x0, x, self.alone)

            sigmas = self.sigmas.clone()  # some samplers write into theirs
            sampled = sample_from(self._start(), self.model, self.settings, sigmas, show)
            latents.append(as_video(self.model, sampled))
        return latents

    def shared(self) -> list[torch.Tensor]:
        """All in one run of the host's, in which they part where their strengths do."""
        per_run = [[(value,) for value in strengths_of(strength, self.steps)] for strength in self.strengths]
        self.made = forwards_of(per_run)
        preview, of = latent_preview.prepare_callback(self.model, self.made), self.made
        start = self._start()
        begin = own_steps(self.settings.eta) if self.settings.own_sampler else host_steps(start.sampler)
        together = comfy.samplers.KSAMPLER(
            TreeSampler(self.chosen, per_run, begin), inpaint_options=start.sampler.inpaint_options
        )
        sampled = sample_from(
            replace(start, sampler=together), self.model, self.settings, self.sigmas,
            lambda step, x0, x, _: preview(step, x0, x, of),
        )  # fmt: skip
        return [as_video(self.model, one) for one in sampled.chunk(len(self.strengths))]

    def _start(self) -> Start:
        if self.settings.own_sampler:
            return own_start(self.settings, self.model, self.latent)
        return host_start(self.settings, self.latent)


MakeStep = Callable[[torch.Tensor, int], torch.Tensor]
"""``(x, step) -> x`` after this step, at the strength that is chosen."""

Begin = Callable[[Any, torch.Tensor, torch.Tensor, dict[str, Any], Callback | None], tuple[torch.Tensor, MakeStep]]
"""``(model, x, sigmas, extra_args, callback)``, as the host calls a sampler, -> what the first step begins with, and steps."""


def own_steps(eta: float) -> Begin:
    """Steps of VideoCrafter2's DDIM."""

    def begin(
        model: Any, x: torch.Tensor, sigmas: torch.Tensor, arguments: dict[str, Any], callback: Callback | None
    ) -> tuple[torch.Tensor, MakeStep]:
        levels = levels_of(model, sigmas)
        predict = predictor(model, levels, sigmas, arguments, callback)
        noise = cache(step_noise(x, arguments.get("seed") or 0))

        def make(x: torch.Tensor, step: int) -> torch.Tensor:
            (made,) = ddim_steps(predict, x, levels, noise=noise, eta=eta, start=step, stop=step + 1)
            return made.following

        return x * levels[0].signal, make

    return begin


def host_steps(sampler: comfy.samplers.KSAMPLER) -> Begin:
    """Steps of one of the `RESTARTABLE` samplers, each a run of its own."""

    def begin(
        model: Any, x: torch.Tensor, sigmas: torch.Tensor, arguments: dict[str, Any], callback: Callback | None
    ) -> tuple[torch.Tensor, MakeStep]:
        def make(x: torch.Tensor, step: int) -> torch.Tensor:
            # samplers of CFG++ put a function of theirs into the arguments
            made: torch.Tensor = sampler.sampler_function(
                model, x, sigmas[step : step + 2], extra_args=dict(arguments), callback=callback, disable=True,
                **sampler.extra_options,
            )  # fmt: skip
            return made

        return x, make

    return begin


@dataclass
class TreeSampler:
    """All runs as one sampler function of the host: it gives their latents one behind the other in the batch."""

    chosen: Chosen
    strengths: Strengths
    begin: Begin
    by_level: ClassVar[bool] = True
    """Calls go to and fro between runs, each at the noise level of its step."""

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
        """From ``x`` of one run, in the host's scale, to that of all of them."""
        calls = count()

        def tell(step: dict[str, Any]) -> None:
            if callback is not None:
                callback({**step, "i": next(calls)})

        # `make` holds the model, so it must not hold the tree: what a circle holds is freed late and out of order, and the
        # host then takes the model for lost and collects garbage at every later run
        start, make = self.begin(model, x, sigmas, extra_args or {}, tell)

        def advance(x: torch.Tensor, start: int, stop: int, run: int) -> torch.Tensor:
            for step in range(start, stop):
                self.chosen.schedule = Constant(*self.strengths[run][step])
                x = make(x, step)
            return x

        return torch.cat(sample_tree(self.strengths, start, advance))
