"""In which step of its sampler's own a call of the model is."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from .rehearsal import NotRehearsed, Order, rehearse

log = logging.getLogger(__name__)

KEY = "customcrafter_clock"
SAME_SIGMA = 1e-4  # relative; sigmas of neighbouring steps differ by more


class StepClock:
    """Counts a sampler's calls and reports.

    Not by the noise level that the model is told: several samplers call it between two levels, wrappers of samplers tell it another
    one, and lists may go up again. A sampler whose steps are not fixed beforehand is followed by its noise level.
    """

    def __init__(self, sigmas: torch.Tensor, order: Order | None) -> None:
        """Args:
        sigmas: of the sampler's steps ``(steps + 1,)``.
        order: the step of each of its calls, as `rehearse` gives it; None if they are not fixed.
        """
        self.sigmas = [float(sigma) for sigma in sigmas]
        self._order = order
        self._reports, self._calls = 0, 0

    @property
    def counts(self) -> bool:
        """Whether steps are counted; otherwise the noise level tells them."""
        return self._order is not None

    @property
    def steps(self) -> int:
        """How many the sampler has."""
        return len(self.sigmas) - 1

    def called(self) -> None:
        """A call of the model begins."""
        self._calls += 1

    def reported(self) -> None:
        """The sampler has told its caller of a step."""
        self._reports += 1
        self._calls = 0

    def step(self, sigma: float) -> int:
        """The step, from 0, of the call that is under way at this noise level."""
        if self._order is None:
            return level_step(sigma, self.sigmas)
        calls = self._order[min(self._reports, len(self._order) - 1)]
        if calls:
            return calls[min(max(self._calls - 1, 0), len(calls) - 1)]
        return min(self._reports, self.steps - 1)


def level_step(sigma: float, sigmas: list[float]) -> int:
    """The step, from 0, over whose noise levels a sigma is: from its own sigma down to, not including, the next one."""
    return max(sum(one >= sigma * (1 - SAME_SIGMA) for one in sigmas[:-1]) - 1, 0)


def clock_of(options: dict[str, Any]) -> StepClock | None:
    """The clock of the run to which the host's ``transformer_options`` belong; None outside of a sampler's run."""
    if KEY in options:
        clock: StepClock = options[KEY]
        return clock
    sigmas = options.get("sample_sigmas")
    return None if sigmas is None else StepClock(sigmas, None)


def keep_clock(model: ModelPatcher) -> None:
    """Let a model's runs have a clock."""
    if not model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _with_clock)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _counted)


def _with_clock(
    run: Any,
    guider: Any,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: torch.Tensor,
    *rest: Any,
) -> Any:
    """The host's run of a sampler, ``run.class_obj``."""
    clock = StepClock(sigmas, _order_of(run.class_obj, guider, sigmas, extra_args, noise))

    def report(*given: Any) -> None:
        clock.reported()
        if callback is not None:
            callback(*given)

    extra_args["model_options"]["transformer_options"][KEY] = clock
    return run(guider, sigmas, extra_args, report, noise, *rest)


def _order_of(
    sampler: Any, guider: Any, sigmas: torch.Tensor, extra_args: dict[str, Any], noise: torch.Tensor
) -> Order | None:
    if getattr(getattr(sampler, "sampler_function", None), "sets_strength", False):
        return None
    try:
        return rehearse(sampler, guider, sigmas, extra_args, noise)
    except NotRehearsed as reason:
        name = getattr(getattr(sampler, "sampler_function", sampler), "__name__", type(sampler).__name__)
        log.info("%s has no steps that can be counted (%s): strength follows the noise level.", name, reason)
        return None


def _counted(
    run: Any, x: torch.Tensor, sigma: torch.Tensor, model_options: dict[str, Any], *rest: Any, **more: Any
) -> Any:
    """The host's call of the model by a sampler; each is one or several calls of the network."""
    clock = model_options.get("transformer_options", {}).get(KEY)
    if clock is not None:
        clock.called()
    return run(x, sigma, model_options, *rest, **more)
