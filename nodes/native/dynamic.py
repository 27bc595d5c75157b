"""LoRA strength that follows a schedule while the host samples, on any model.

Nothing is ever written into the model: a wrapper around the model sets the strength before each call, and for its length
layers add ``strength · B A`` to their weights on the way. After an interrupt there is nothing to undo.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import nn

from ...customcrafter_core.diffusion.strength import Curve, StrengthSchedule, remark_on
from ...customcrafter_core.errors import InputError, some_names
from ...customcrafter_core.subject.file import PREFIX, lora_tensors
from ...customcrafter_core.subject.subject import Subject
from .. import host
from .weight_change import Place, WeightChange, changed_weights, places_in

log = logging.getLogger(__name__)

KEY = "customcrafter"
INNERMOST = "customcrafter_network"
RECORD = "customcrafter_record"
SAME_SIGMA = 1e-4  # relative; sigmas of neighbouring steps differ by more

Patches = Mapping[Any, Any]
"""The host's LoRA patches: weight name, or (name, offset, function), -> patch."""


class _Call(threading.local):
    """A call of the model; hosts with several GPUs make one on each at the same time."""

    strength = 0.0
    uses = 0


class ScheduledStrength:
    """Strength of one LoRA during the current call of the model; as a wrapper it sets it for the length of the call."""

    def __init__(self, schedule: StrengthSchedule, *, start_at_step: int = 0, total_steps: int = 0) -> None:
        """Args:
        schedule: strength over steps.
        start_at_step: steps of the whole run that lie before this sampler's.
        total_steps: of the whole run; 0 if it ends with this sampler's.
        """
        self._call = _Call()
        self.changes: list[WeightChange] = []
        self._places: dict[nn.Module, list[Place]] = {}
        self._schedule, self._start, self._total = schedule, start_at_step, total_steps

    @property
    def now(self) -> float:
        """The strength; 0 between calls."""
        return self._call.strength

    @property
    def uses(self) -> int:
        """How often something asked for it in this call."""
        return self._call.uses

    def use(self) -> float:
        """The strength, for what follows it; notes that something does."""
        self._call.uses += 1
        return self._call.strength

    def strengths(self, sigmas: torch.Tensor) -> list[float]:
        """The strength at each step of a sampler that runs over these sigmas ``(steps + 1,)``.

        Raises:
            InputError: as `total_of`.
        """
        total = self.total_of(sigmas)
        return [self._schedule(self._start + step, total) for step in range(len(sigmas) - 1)]

    def total_of(self, sigmas: torch.Tensor) -> int:
        """Steps of the whole run that a sampler over these sigmas ``(steps + 1,)`` is a part of.

        Raises:
            InputError: the sampler runs a part of the steps, and which part is not told.
        """
        end = self._start + len(sigmas) - 1
        if self._total and end > self._total:
            raise InputError(
                expected=f"a sampler that ends by step {self._total}, the total_steps",
                found=f"one that runs from step {self._start} to step {end}",
                remedy="Set total_steps and start_at_step to KSampler Advanced's steps and start_at_step; some "
                "schedulers, such as ddim_uniform, make one step more than asked.",
            )
        if isinstance(self._schedule, Curve) and not self._total and float(sigmas[-1]) > 0:
            raise InputError(
                expected="total_steps for a curve over a sampler that leaves noise for the next one",
                found="total_steps 0",
                remedy="Set it to the steps of KSampler Advanced, and start_at_step to its start_at_step.",
            )
        return self._total or end

    def watch(
        self, run: Any, noise: Any, latent: Any, sampler: Any, sigmas: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        """The host's run of a sampler ``(noise, latent, sampler, sigmas, …)``, checked before anything is computed."""
        total = self.total_of(sigmas)
        known = bool(self._total) or float(sigmas[-1]) == 0
        remark = remark_on(self._schedule, total) if known else ""
        if remark:
            log.warning(remark)
        try:
            return run(noise, latent, sampler, sigmas, *rest, **more)
        finally:
            self._places = {}
            for change in self.changes:
                change.let_go()

    def _places_in(self, model: nn.Module) -> list[Place]:
        """Where the changes belong, looked up once in a run for each model: hosts with several GPUs have one on each."""
        if model not in self._places:
            self._places[model] = places_in(model, self.changes, self.use)
        return self._places[model]

    def __call__(self, run: Any, x: torch.Tensor, sigma: torch.Tensor, *rest: Any, **conditions: Any) -> torch.Tensor:
        """The host's model call ``(x, sigma, concat, text, control, options, …)`` with the strength set."""
        sigmas = rest[3].get("sample_sigmas")
        if sigmas is None:
            raise InputError(
                expected="a sampler that tells the model its steps",
                found="a call of the model outside of sampling",
                remedy="Use a sampler node of the host or of this pack.",
            )
        total = self.total_of(sigmas)
        # heun's second call of a part's last step is at the sigma of the next part's first
        self._call.strength = self._schedule(min(self._start + steps_above(sigma, sigmas), total - 1), total)
        self._call.uses = 0
        called: list[bool] = []

        def note(run: Any, *given: Any, **more: Any) -> Any:
            called.append(True)
            return run(*given, **more)

        rest = (*rest[:3], around_network(rest[3], note), *rest[4:])
        try:
            with changed_weights(self._places_in(run.class_obj)):
                result = run(x, sigma, *rest, **conditions)
            if called and not self.uses:
                raise InputError(
                    expected="a model whose layers take LoRA weights while it samples",
                    found="layers that ignored them (GGUF, compiled or in a format of their own)",
                    remedy="Load the model with the host's own loader.",
                )
            return result
        finally:
            self._call.strength = 0.0


def around_network(options: dict[str, Any], wrapper: Any) -> dict[str, Any]:
    """The host's options with a wrapper next to the network: a cache (EasyCache) can answer a call before it."""
    wrappers = options.get("wrappers", {})
    around = dict(wrappers.get(WrappersMP.DIFFUSION_MODEL, {}))
    around[INNERMOST] = [*around.pop(INNERMOST, []), wrapper]  # the last one is the innermost
    return {**options, "wrappers": {**wrappers, WrappersMP.DIFFUSION_MODEL: around}}


def step_at(sigma: torch.Tensor, sigmas: torch.Tensor) -> int:
    """Step, from 0, of a call at ``sigma`` within its sampler's own run."""
    return max(min(steps_above(sigma, sigmas), len(sigmas) - 2), 0)


def steps_above(sigma: torch.Tensor, sigmas: torch.Tensor) -> int:
    """How many of a run's sigmas lie above a call's: its step, from 0; in between two steps, the later one."""
    return int((sigmas > float(sigma.max()) * (1 + SAME_SIGMA)).sum())


def with_dynamic_strength(model: ModelPatcher, patches: Patches, strength: ScheduledStrength) -> ModelPatcher:
    """A clone of a model whose LoRA follows a schedule; several can be put on top of each other."""
    clone = model.clone()
    parts = [(*_parts(target), patch) for target, patch in patches.items()]
    strength.changes = [
        WeightChange(key, patch, offset, function, host.stored_scale(model, key))
        for key, offset, function, patch in parts
    ]
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, strength)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, strength.watch)
    return clone


def _parts(target: Any) -> tuple[str, Any, Any]:
    """Weight, offset and function of a patch's target."""
    if not isinstance(target, tuple):
        return target, None, None
    return target if len(target) == 3 else (*target, None)


def lora_patches(model: ModelPatcher, tensors: Mapping[str, torch.Tensor], name: str) -> Patches:
    """What a LoRA file changes in a model, by the host's own reading of LoRA files.

    Raises:
        InputError: no name in it fits the model, or a size does not.
    """
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    tensors = comfy.lora_convert.convert_lora(dict(tensors))
    patches = comfy.lora.load_lora(tensors, names, log_missing=False)
    weights = model.model.state_dict()
    patches = {
        target: patch
        for target, patch in patches.items()
        if _parts(target)[0] in weights and _can_change(model, _parts(target)[0])
    }
    if not patches:
        raise InputError(
            expected=f"a LoRA for {type(model.model).__name__}",
            found=f"{name}, of whose names none fits what can change while it samples: {some_names(list(tensors), 3)}",
            remedy="Choose a LoRA that was made for this model.",
        )
    values = [value for key, value in tensors.items() if not key.endswith(".alpha")]
    taken = {id(value) for patch in patches.values() for value in _tensors_of(patch)}
    count = sum(id(value) in taken for value in values)
    if count < len(values):
        log.warning(
            "%s: %d of %d tensors are used; the others (of a text encoder or of other layers) fit nothing that can change "
            "while %s samples.",
            name, count, len(values), type(model.model).__name__,
        )  # fmt: skip
    for target, patch in patches.items():
        key, offset, function = _parts(target)
        if not _fits(weights[key], key, patch, offset, function):
            raise InputError(
                expected=f"a LoRA for {type(model.model).__name__}",
                found=f"{name}, whose sizes do not fit {key} of {tuple(weights[key].shape)}",
                remedy="Choose a LoRA that was made for this model.",
            )
    return patches


def _can_change(model: ModelPatcher, key: str) -> bool:
    """Whether the layer of a weight asks for changes of it: the host's own do, for ``weight`` and ``bias`` only."""
    layer, _, kind = key.rpartition(".")
    return kind in ("weight", "bias") and hasattr(model.get_model_object(layer), f"{kind}_function")


def _tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.weights if hasattr(value, "weights") else value
    return [found for part in parts for found in _tensors_of(part)] if isinstance(parts, (tuple, list)) else []


def _fits(weight: torch.Tensor, key: str, patch: Any, offset: Any, function: Any) -> bool:
    """Whether a patch can change a weight: the host only logs one that cannot, and samples without it.

    The host's own computation runs without numbers; it reaches ``function`` only with a change of the weight's shape.
    """
    reached = []

    def reach(change: torch.Tensor) -> torch.Tensor:
        reached.append(True)
        return change if function is None else function(change)

    def tried(device: str) -> bool:
        blank = torch.zeros(weight.shape, device=device)
        try:
            comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, reach)], blank, key)
        except (RuntimeError, IndexError, ValueError):
            return False
        return bool(reached) or (isinstance(patch, tuple) and patch[0] == "set")

    return tried("meta") or tried("cpu")  # some adapters need numbers


def recorded(model: ModelPatcher) -> tuple[ModelPatcher, list[dict[int, float]]]:
    """A clone of a model that notes at which strengths its layers run.

    Returns:
        The model, and for each LoRA with a scheduled strength: step -> strength. A step that the network did not see
        (a cache of steps answered it) is missing.
    """
    strengths = [
        item for item in model.get_wrappers(WrappersMP.APPLY_MODEL, KEY) if isinstance(item, ScheduledStrength)
    ]
    notes: list[dict[int, float]] = [{} for _ in strengths]

    def record(run: Any, x: torch.Tensor, sigma: torch.Tensor, *rest: Any, **conditions: Any) -> torch.Tensor:
        result = run(x, sigma, *rest, **conditions)
        for strength, noted in zip(strengths, notes, strict=True):
            if strength.uses:
                noted.setdefault(step_at(sigma, rest[3]["sample_sigmas"]), strength.now)
        return result

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, RECORD, record)  # added last, so inside those that set strengths
    return clone, notes


def subject_patches(subject: Subject) -> Patches:
    """A subject's LoRA factors as the host's patches."""
    names = {f"{PREFIX}{name}": f"{PREFIX}{name}.weight" for name in subject.factors}
    return comfy.lora.load_lora(lora_tensors(subject), names)
