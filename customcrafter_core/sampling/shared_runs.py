"""Several runs from the same noise at different strengths: steps that runs have in common are computed once.

Two runs agree as long as their strengths do, because everything else is the same: text, noise, levels. So the runs form
a tree over their strengths, and a step of the network is needed once for each of its branches. The results are those of
separate runs, bit for bit, where the network gives the same bits for the same input, as on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..base_model.model import VideoCrafter2
from ..diffusion.ddim import Level, NoiseSource, check_eta, ddim_levels, ddim_step
from ..diffusion.strength import StrengthSchedule, strengths_of
from ..errors import InputError
from ..subject.adapter import attached
from ..subject.subject import Subject
from .generation import AppliedSubject, VideoSettings, prepare

Strengths = Sequence[Sequence[tuple[float, ...]]]
"""Per run and step, the strength of each subject."""


@dataclass(frozen=True)
class SharedRuns:
    """What the runs gave, in the order they were asked for."""

    latents: list[torch.Tensor]
    """Each ``(b, c, t, h, w)``; equal runs share one."""
    strengths: list[list[tuple[float, ...]]]
    """Per run and step, the strength of each subject."""
    settings: VideoSettings
    """In full."""
    forwards: int
    """Guided predictions that were computed."""

    @property
    def forwards_alone(self) -> int:
        """Guided predictions that separate runs would have computed."""
        return sum(len(run) for run in self.strengths)


@torch.inference_mode()
def sample_runs(
    model: VideoCrafter2,
    settings: VideoSettings,
    subjects: Sequence[Subject],
    runs: Sequence[Sequence[StrengthSchedule]],
    *,
    any_base: bool = False,
    on_forward: Callable[[int, int], None] | None = None,
) -> SharedRuns:
    """Sample one prompt from one seed at several strengths.

    Args:
        model: the base model.
        settings: prompt, size, seed and sampling.
        subjects: applied together.
        runs: for each run the strength schedule of each subject.
        any_base: accept subjects of another base of the same widths.
        on_forward: called with (predictions made, predictions in all) after each; an exception it raises ends the runs.

    Raises:
        InputError: no runs, or a setting, strength or subject that does not fit; nothing was changed.
    """
    if not runs:
        raise InputError(expected="at least one run", found="none", remedy="Give some strengths.")
    check_eta(settings.eta)
    prepared = prepare(model, settings, [AppliedSubject(subject) for subject in subjects], any_base=any_base)
    steps = len(prepared.timesteps)
    strengths = [
        list(zip(*(strengths_of(schedule, steps) for schedule in run), strict=True)) or [()] * steps for run in runs
    ]
    with attached(model.unet, prepared.subjects) as attachment:

        def predict(x: torch.Tensor, step: int, member: int) -> torch.Tensor:
            attachment.set_strengths(strengths[member][step])
            return prepared.unet(x, prepared.timesteps[step])

        levels = ddim_levels(model.schedule, prepared.timesteps, settings.exact_tail)
        tree = RunTree(strengths, levels, settings.eta, predict, prepared.noise, on_forward)
        latents = tree.latents_from(prepared.noise())
    return SharedRuns(latents, strengths, prepared.settings, tree.forwards)


def forwards_of(strengths: Strengths) -> int:
    """Predictions that runs need together: branches over all steps."""
    return len({tuple(run[: i + 1]) for run in strengths for i in range(len(run))})


Predict = Callable[[torch.Tensor, int, int], torch.Tensor]
"""``(x_t, step, run) -> predicted noise`` with the strengths that this run has at this step."""


@dataclass
class RunTree:
    """Walks the tree, branch by branch, first to its leaf."""

    strengths: Strengths
    levels: Sequence[Level]
    """As `ddim_levels`: one more than steps."""
    eta: float
    predict: Predict
    noise: NoiseSource
    on_forward: Callable[[int, int], None] | None = None
    """Called with (predictions made, predictions in all) after each."""
    forwards: int = 0
    """Predictions that were made."""
    _latents: dict[int, torch.Tensor] = field(default_factory=dict)
    _noises: dict[int, torch.Tensor] = field(default_factory=dict)

    def latents_from(self, start: torch.Tensor) -> list[torch.Tensor]:
        """The latent of each run; equal runs share one.

        Args:
            start: ``x_T (b, c, t, h, w)`` of all of them.
        """
        self._descend(start, 0, list(range(len(self.strengths))))
        return [self._latents[i] for i in range(len(self.strengths))]

    def _descend(self, x: torch.Tensor, step: int, members: list[int]) -> None:
        """Finish the runs ``members``, which have come to ``x`` before ``step`` together."""
        while step < len(self.levels) - 1:
            branches = self._branches(members, step)
            if len(branches) > 1:
                for branch in branches:
                    self._descend(x, step, branch)
                return
            eps = self.predict(x, step, members[0])
            x, _ = ddim_step(x, eps, self.levels[step], self.levels[step + 1], eta=self.eta, noise=self._noise_of(step))
            self.forwards += 1
            if self.on_forward is not None:
                self.on_forward(self.forwards, forwards_of(self.strengths))
            step += 1
        self._latents.update(dict.fromkeys(members, x))

    def _branches(self, members: list[int], step: int) -> list[list[int]]:
        """Runs with the same strengths at this step, together."""
        branches: dict[tuple[float, ...], list[int]] = {}
        for member in members:
            branches.setdefault(self.strengths[member][step], []).append(member)
        return list(branches.values())

    def _noise_of(self, step: int) -> NoiseSource:
        """The noise of a step, which all runs get; the first run, which passes all steps, draws it in their order."""

        def noise() -> torch.Tensor:
            if step not in self._noises:
                self._noises[step] = self.noise()
            return self._noises[step]

        return noise
