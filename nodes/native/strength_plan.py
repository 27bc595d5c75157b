"""What strength a schedule comes to in the run of one sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from comfy.model_sampling import ModelSamplingDiscrete

from ...customcrafter_core.diffusion.strength import StrengthSchedule, TwoPhase, remark_on
from ...customcrafter_core.diffusion.switch import SAME_TIMESTEP, NoiseSwitch, PercentSwitch
from ...customcrafter_core.errors import InputError
from .part import Part, part_of, told_part
from .step_clock import StepClock

TwoPhases = (TwoPhase, PercentSwitch, NoiseSwitch)

FEWEST_TIMESTEPS = 2.0
"""A model whose timesteps end below this has none: it tells its noise level by another measure."""


@dataclass(frozen=True)
class StrengthPlan:
    """A schedule, and which part of a run it is for where that is told."""

    schedule: StrengthSchedule | NoiseSwitch
    start_at_step: int = 0
    """Steps of the whole run that lie before the sampler's."""
    total_steps: int = 0
    """Of the whole run; 0 if it ends with the sampler, or its list tells more."""

    def __post_init__(self) -> None:
        if self.total_steps and self.start_at_step >= self.total_steps:
            raise InputError(
                expected="total_steps above start_at_step",
                found=f"start_at_step {self.start_at_step} of total_steps {self.total_steps}",
                remedy="Set them to KSampler Advanced's start_at_step and steps.",
            )

    def over(self, sigmas: torch.Tensor, noise: torch.Tensor | None, sampling: Any) -> RunStrengths:
        """The strengths in a sampler's run.

        Args:
            sigmas: of its steps ``(steps + 1,)``, as it was given them.
            noise: that it adds to its latent; None if that is not known.
            sampling: the model's.

        Raises:
            InputError: the part of the run is impossible, or more must be told of it.
        """
        if self.start_at_step or self.total_steps:
            part = told_part(sigmas, self.start_at_step, self.total_steps)
        else:
            part = part_of(sigmas, noise is None or bool(torch.any(noise != 0)), float(sampling.sigma_max))
        return RunStrengths(self.schedule, part, sampling)


@dataclass(frozen=True)
class Call:
    """A call of the network."""

    step: int
    """Of the sampler's own, from 0."""
    strength: float


@dataclass
class RunStrengths:
    """The strengths in one run of a sampler, and its calls so far."""

    schedule: StrengthSchedule | NoiseSwitch
    part: Part
    sampling: Any
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.schedule, NoiseSwitch):
            if self.schedule.unit == "timestep" and not timesteps_of(self.sampling):
                raise InputError(
                    expected="a model that counts its noise in timesteps",
                    found="one that does not",
                    remedy="Choose sigma, steps or percent for where the strength switches.",
                )
        elif self.part.total is None and not isinstance(self.schedule, TwoPhase):
            raise InputError(
                expected="total_steps for a curve or a percentage over a sampler that leaves noise for the next one",
                found="total_steps 0",
                remedy="Set it to the steps of KSampler Advanced, and start_at_step to its start_at_step.",
            )

    def at(self, step: int, sigma: float) -> float:
        """Strength at the sampler's own ``step``, from 0, which begins at ``sigma``."""
        if isinstance(self.schedule, NoiseSwitch):
            return self.schedule.at(level_in(self.schedule.unit, sigma, self.sampling))
        return self.schedule(self.part.start + step, self._total)

    def now(self, clock: StepClock, sigma: float) -> Call:
        """The call that is under way, for which the model is told ``sigma``."""
        step = min(clock.step(sigma), self.part.steps - 1)
        return Call(step, self.at(step, self.part.sigmas[step] if clock.counts else sigma))

    def each(self) -> list[float]:
        """The strength at each of the sampler's steps."""
        return [self.at(step, sigma) for step, sigma in enumerate(self.part.sigmas[:-1])]

    def remark(self) -> str:
        """What a person may not expect of this run; empty if there is nothing."""
        if not isinstance(self.schedule, TwoPhases) or self.schedule.lambda_s == self.schedule.lambda_l:
            return ""
        if not self.part.placed and not isinstance(self.schedule, NoiseSwitch):
            return (
                f"This sampler adds no noise and begins at sigma {self.part.sigmas[0]:.3g}: K counts its own steps. If it goes "
                "on with a run of another sampler, set start_at_step and total_steps."
            )
        if isinstance(self.schedule, TwoPhase):
            return remark_on(self.schedule, self._total) if self.part.total is not None else ""
        early = self.early
        if early in (0, self.part.steps) and self._is_whole:
            used, unused = ("λs", "λl") if early else ("λl", "λs")
            return f"{self.switch()}: {used} throughout, {unused} is never used."
        return ""

    def words(self) -> str:
        """The strength, and where it switches in every unit."""
        schedule, steps = self.schedule, self.part.steps
        if not isinstance(schedule, TwoPhases):
            return f"Strength follows a curve over {steps} steps."
        return f"λs {schedule.lambda_s:g}, then λl {schedule.lambda_l:g}: {self.switch()}"

    def switch(self) -> str:
        """Where two phases switch: K 5 of 50 = 10 % = t 881 = sigma 6.39."""
        k, total = self.part.start + self.early, self._total
        said = [f"K {k} of {total}", f"{100 * k / total:.3g} %"]
        if self.early < self.part.steps:
            said += [f"{unit} {value}" for unit, value in self._noise_in_words(self.part.sigmas[self.early])]
        return " = ".join(said)

    @property
    def early(self) -> int:
        """How many of the sampler's steps run at λs, of two phases."""
        schedule = self.schedule
        if isinstance(schedule, NoiseSwitch):
            levels = (level_in(schedule.unit, sigma, self.sampling) for sigma in self.part.sigmas[:-1])
            return sum(schedule.is_early(level) for level in levels)
        k = schedule.k(self._total) if isinstance(schedule, PercentSwitch) else getattr(schedule, "k", 0)
        return min(max(k - self.part.start, 0), self.part.steps)

    def _noise_in_words(self, sigma: float) -> list[tuple[str, str]]:
        """A noise level, rounded up: typed in again it gives the same step."""
        timestep = [("t", level_in("timestep", sigma, self.sampling))] if timesteps_of(self.sampling) else []
        return [(unit, f"{math.ceil((value - SAME_TIMESTEP / 2) * 100) / 100:g}") for unit, value in timestep] + [
            ("sigma", f"{math.ceil(sigma * 1e4 - 1e-6) / 1e4:g}")
        ]

    @property
    def _is_whole(self) -> bool:
        return self.part.start == 0 and self._total == self.part.steps

    @property
    def _total(self) -> int:
        return self.part.total or self.part.start + self.part.steps


def timesteps_of(sampling: Any) -> bool:
    """Whether a model counts its noise in timesteps."""
    return float(sampling.timestep(torch.as_tensor(sampling.sigma_max))) > FEWEST_TIMESTEPS


def level_in(unit: str, sigma: float, sampling: Any) -> float:
    """A noise level in a unit; timesteps between two of a model's table are interpolated, of which the host takes the nearer."""
    if unit == "sigma":
        return sigma
    if isinstance(sampling, ModelSamplingDiscrete):
        table = sampling.log_sigmas.cpu().double().numpy()
        return float(np.interp(math.log(max(sigma, 1e-10)), table, range(len(table))))
    return float(sampling.timestep(torch.tensor(sigma)))


def levels_of(sigmas: Sequence[float], sampling: Any) -> list[list[float | None]]:
    """The noise at which each step of a list ``(steps + 1)`` begins: sigma, and timestep or None."""
    has = timesteps_of(sampling)
    return [[sigma, level_in("timestep", sigma, sampling) if has else None] for sigma in sigmas[:-1]]
