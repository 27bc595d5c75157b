"""Several runs from the same noise at different strengths: steps that runs have in common are computed once.

Two runs agree as long as their strengths do, because everything else is the same: text, noise, levels. So the runs form
a tree over their strengths, and a step of the network is needed once for each of its branches. The results are those of
separate runs, bit for bit, where the network gives the same bits for the same input, as on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

import torch

from ..base_model.model import VideoCrafter2
from ..diffusion.ddim import Prediction, ddim_steps
from ..diffusion.strength import StrengthSchedule
from ..errors import InputError
from ..subject.adapter import attached
from ..subject.subject import Subject
from .preparation import AppliedSubject, prepare, strengths_per_step
from .settings import VideoSettings

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
    run = prepare(model, settings, [AppliedSubject(subject) for subject in subjects], any_base=any_base)
    strengths = [strengths_per_step(schedules, len(run.timesteps)) for schedules in runs]
    noise, forwards, made = cache(run.noise.of_step), forwards_of(strengths), count(1)
    latent = run.noise()
    with attached(model.unet, run.subjects) as attachment:

        def advance(x: torch.Tensor, start: int, stop: int, member: int) -> torch.Tensor:
            def predict(x: torch.Tensor, step: int) -> Prediction:
                attachment.set_strengths(strengths[member][step])
                return run.predict(x, step)

            for step in ddim_steps(predict, x, run.levels, noise=noise, eta=run.settings.eta, start=start, stop=stop):
                x = step.following
                if on_forward is not None:
                    on_forward(next(made), forwards)
            return x

        latents = sample_tree(strengths, latent, advance)
    return SharedRuns(latents, strengths, run.settings, forwards)


def forwards_of(strengths: Strengths) -> int:
    """Predictions that runs need together: branches over all steps."""
    return len({tuple(run[: i + 1]) for run in strengths for i in range(len(run))})


Advance = Callable[[torch.Tensor, int, int, int], torch.Tensor]
"""``(x, start, stop, run) -> x`` after the steps ``start … stop - 1`` at the strengths that this run has."""


def sample_tree(strengths: Strengths, x: torch.Tensor, advance: Advance) -> list[torch.Tensor]:
    """Walk the tree of runs, branch by branch, first to its leaf: the first run passes all steps in their order.

    Args:
        strengths: of the runs, all of as many steps.
        x: what all runs begin with.
        advance: makes some steps of one run, which stands for all that have come so far with it.

    Returns:
        What each run ended with; equal runs share one.
    """
    found = _ends(strengths, x, advance, 0, list(range(len(strengths))))
    return [found[run] for run in range(len(strengths))]


def _ends(
    strengths: Strengths, x: torch.Tensor, advance: Advance, start: int, members: list[int]
) -> dict[int, torch.Tensor]:
    """The ends of the runs ``members``, which have come to ``x`` before step ``start`` together."""
    first, steps = strengths[members[0]], len(strengths[members[0]])
    fork = next((i for i in range(start, steps) if any(strengths[run][i] != first[i] for run in members)), steps)
    if fork > start:
        x = advance(x, start, fork, members[0])
    if fork == steps:
        return dict.fromkeys(members, x)
    branches: dict[tuple[float, ...], list[int]] = {}
    for run in members:
        branches.setdefault(strengths[run][fork], []).append(run)
    return {run: end for branch in branches.values() for run, end in _ends(strengths, x, advance, fork, branch).items()}
