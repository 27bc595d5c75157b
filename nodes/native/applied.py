"""What strengths were applied in a run, call by call."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from .dynamic import RUNS, loras_on
from .strength_plan import Call

KEY = "customcrafter_record"

Applied = list[float | list[float] | None]
"""The strength at each step; several where its calls had several, None where the network did not see it (a cache of steps answered)."""


def recorded(model: ModelPatcher) -> tuple[ModelPatcher, list[list[Call]]]:
    """A clone of a model that notes its calls.

    Returns:
        The model, and for each LoRA with a scheduled strength the calls of a run, once it is over.
    """
    loras, notes = loras_on(model), [list[Call]() for _ in loras_on(model)]

    def record(run: Any, *given: Any, **more: Any) -> Any:
        result = run(*given, **more)
        strengths = run.class_obj.model_options["transformer_options"][RUNS] if loras else {}
        for lora, noted in zip(loras, notes, strict=True):
            noted.extend(strengths[lora].calls)
        return result

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, record)  # added last, so inside those that set strengths
    return clone, notes


def by_step(calls: list[Call], steps: int) -> Applied:
    """The strengths of calls, by step."""
    found: list[list[float]] = [[] for _ in range(steps)]
    for call in calls:
        if not found[call.step] or found[call.step][-1] != call.strength:
            found[call.step].append(call.strength)
    return [None if not one else one[0] if len(one) == 1 else one for one in found]
