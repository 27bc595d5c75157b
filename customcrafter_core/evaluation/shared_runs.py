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
from ..diffusion.ddim import check_eta, ddim_levels, ddim_step
from ..diffusion.strength import StrengthSchedule, strengths_of
from ..errors import InputError
from ..generation import AppliedSubject, PreparedRun, VideoSettings, prepare
from ..subject.adapter import AttachedSubjects, attached
from ..subject.subject import Subject


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

    @property
    def saving(self) -> float:
        """Share of the predictions that was saved, 0 … 1."""
        return 1 - self.forwards / self.forwards_alone


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
        tree = _Tree(model, prepared, attachment, strengths, on_forward)
        tree.descend(prepared.noise(), 0, list(range(len(runs))))
    return SharedRuns([tree.latents[i] for i in range(len(runs))], strengths, prepared.settings, tree.forwards)


@dataclass
class _Tree:
    """Walks the tree, branch by branch, first to its leaf."""

    model: VideoCrafter2
    run: PreparedRun
    attachment: AttachedSubjects
    strengths: list[list[tuple[float, ...]]]
    on_forward: Callable[[int, int], None] | None
    latents: dict[int, torch.Tensor] = field(default_factory=dict)
    forwards: int = 0
    _noises: dict[int, torch.Tensor] = field(default_factory=dict)

    def descend(self, x: torch.Tensor, step: int, members: list[int]) -> None:
        """Finish the runs ``members``, which have come to ``x`` before ``step`` together."""
        timesteps, settings = self.run.timesteps, self.run.settings
        levels = ddim_levels(self.model.schedule, timesteps, settings.exact_tail)
        while step < len(timesteps):
            branches = self._branches(members, step)
            if len(branches) > 1:
                for branch in branches:
                    self.descend(x, step, branch)
                return
            self.attachment.set_strengths(self.strengths[members[0]][step])
            eps = self.run.unet(x, timesteps[step])
            now, following = levels[step], levels[step + 1]
            noise = self._noise_of(step)
            x, _ = ddim_step(x, eps, now, following, eta=settings.eta, noise=noise)
            self._count()
            step += 1
        self.latents.update(dict.fromkeys(members, x))

    def _branches(self, members: list[int], step: int) -> list[list[int]]:
        """Runs with the same strengths at this step, together."""
        branches: dict[tuple[float, ...], list[int]] = {}
        for member in members:
            branches.setdefault(self.strengths[member][step], []).append(member)
        return list(branches.values())

    def _noise_of(self, step: int) -> Callable[[], torch.Tensor]:
        """The noise of a step, which all runs get; the first run, which passes all steps, draws it in their order."""

        def noise() -> torch.Tensor:
            if step not in self._noises:
                self._noises[step] = self.run.noise(step)
            return self._noises[step]

        return noise

    def _count(self) -> None:
        self.forwards += 1
        if self.on_forward is not None:
            self.on_forward(self.forwards, self._all)

    @property
    def _all(self) -> int:
        """Branches over all steps."""
        return len({tuple(run[: i + 1]) for run in self.strengths for i in range(len(run))})
