"""A LoRA whose strength follows a schedule while the host samples, on any model.

Nothing is ever written into the model: a wrapper around it finds the strength of each call, and for its length layers add
``strength · B A`` to their weights on the way. After an interrupt there is nothing to undo.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import nn

from ...customcrafter_core.errors import InputError, some_names
from .. import host
from .around_network import around_network
from .identity_adapter import Branches
from .lora_file import Patches, parts_of, same_as_carried
from .output_branch import OutputBranch, branch_of, holds_bytes
from .step_clock import clock_of, keep_clock
from .strength_plan import RunStrengths, StrengthPlan, levels_of
from .weight_change import Now, Place, WeightChange, changed_layers, place_of

log = logging.getLogger(__name__)

KEY = "customcrafter"
FOLLOWED = "customcrafter_followed"
"""In a model's ``transformer_options``: gives the plan that its LoRAs follow instead of their own."""
RUNS = "customcrafter_strengths"
"""In the ``transformer_options`` of a run: each `ScheduledLoRA` -> its `strength_plan.RunStrengths`."""


class InModel:
    """A LoRA's places in one copy of a model, looked up once in a run: hosts with several GPUs have a copy on each."""

    def __init__(self, model: Any, changes: Sequence[WeightChange | OutputBranch], device: torch.device) -> None:
        self.now = Now()
        for change in changes:
            change.place(device, model.manual_cast_dtype or model.get_dtype())
        self.places: list[Place] = [
            branch_of(model, change, self.now)
            if isinstance(change, OutputBranch)
            else place_of(model, change, self.now)
            for change in changes
        ]

    @property
    def missed(self) -> list[str]:
        """The weights whose layers never asked for the LoRA."""
        return [place.key for place in self.places if not place.use.taken]


class ScheduledLoRA:
    """One LoRA on a model; wraps the host's runs of samplers and its calls of the model."""

    def __init__(
        self,
        name: str,
        plan: StrengthPlan,
        patches: Patches,
        changes: Sequence[WeightChange | OutputBranch],
        page: host.NodeOnPage | None,
    ) -> None:
        """Args:
        name: of its file, for messages.
        plan: its strength.
        patches: as the host reads them.
        changes: what they do to each weight.
        page: the node that puts it on the model.
        """
        self.name, self.plan, self.patches, self.changes = name, plan, patches, changes
        self._page = page
        self._standing: list[str] = []
        self.adapters: Branches | None = None
        self._models: dict[nn.Module, InModel] = {}

    def around_run(
        self, run: Any, noise: torch.Tensor, latent: Any, sampler: Any, sigmas: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        """The host's run of a sampler ``(noise, latent, sampler, sigmas, …)``, checked before anything is loaded."""
        sampling = run.class_obj.model_patcher.get_model_object("model_sampling")
        followed = run.class_obj.model_options.get("transformer_options", {}).get(FOLLOWED)
        strengths = (self.plan if followed is None else followed()).over(sigmas, noise, sampling)
        if followed is None:
            self._tell(strengths, sampling)
        run.class_obj.model_options.setdefault("transformer_options", {}).setdefault(RUNS, {})[self] = strengths
        try:
            result = run(noise, latent, sampler, sigmas, *rest, **more)
            self._tell_missed()
            return result
        finally:
            self._models = {}
            for change in self.changes:
                change.let_go()

    def _tell(self, strengths: RunStrengths, sampling: Any) -> None:
        """On the node that puts it on the model, what it comes to in a run."""
        remark = strengths.remark()
        if remark:
            log.warning(remark)
        if self._page is not None:
            self._page.show_levels(levels_of(strengths.part.sigmas, sampling))
        self._say(remark or strengths.words())

    def around_call(
        self, run: Any, x: torch.Tensor, sigma: torch.Tensor, *rest: Any, **conditions: Any
    ) -> torch.Tensor:
        """The host's model call ``(x, sigma, concat, text, control, options, …)`` at the strength of its step."""
        options, model = rest[3], run.class_obj
        clock = clock_of(options)
        if clock is None:
            raise InputError(
                expected="a sampler that tells the model its steps",
                found="a call of the model outside of sampling",
                remedy="Use a sampler node of the host or of this pack.",
            )
        strengths = options.get(RUNS, {}).get(self)
        if strengths is None:  # something else than the host's guider calls the model
            strengths = self.plan.over(torch.tensor(clock.sigmas), None, model.model_sampling)
            here = InModel(model, self.changes, x.device)
        else:
            here = self._in(model, x.device)
        call, called = strengths.now(clock, float(sigma.max())), list[bool]()

        def note(run: Any, *given: Any, **more: Any) -> Any:
            called.append(True)
            return run(*given, **more)

        options = around_network(options, note)
        if self.adapters is not None:
            options = around_network(options, self.adapters.at(call.strength))
        here.now.strength = call.strength
        try:
            with changed_layers(here.places):
                result = run(x, sigma, *rest[:3], options, *rest[4:], **conditions)
        finally:
            here.now.strength = 0.0
        if called:
            self._check_taken(here)
            strengths.calls.append(call)
        return result

    def _in(self, model: nn.Module, device: torch.device) -> InModel:
        if model not in self._models:
            self._models[model] = InModel(model, self.changes, device)
        return self._models[model]

    def _check_taken(self, here: InModel) -> None:
        if here.places and len(here.missed) == len(here.places):
            raise InputError(
                expected="a model whose layers take LoRA weights while it samples",
                found=f"{len(here.places)} layers that all ignored {self.name} (a format of their own)",
                remedy="Load the model with the host's own loader.",
            )

    def _tell_missed(self) -> None:
        for here in self._models.values():
            if here.missed and len(here.missed) < len(here.places):
                took, all_of = len(here.places) - len(here.missed), len(here.places)
                told = f"{self.name}: {took} of {all_of} layers took it; these did not: {some_names(here.missed, 3)}"
                log.warning(told)
                self._say(told)

    def warn(self, text: str) -> None:
        """Say something in the log, and on the node as long as it runs."""
        log.warning(text)
        self._standing.append(text)
        self._say("")

    def _say(self, text: str) -> None:
        if self._page is not None:
            self._page.say("\n".join(filter(None, [*self._standing, text])))


def with_dynamic_lora(
    model: ModelPatcher,
    name: str,
    patches: Patches,
    plan: StrengthPlan,
    *,
    adapters: Branches | None = None,
    page: host.NodeOnPage | None = None,
) -> ModelPatcher:
    """A clone of a model whose LoRA follows a schedule; several can be put on top of each other."""
    clone = model.clone()
    lora = ScheduledLoRA(name, plan, patches, [_change(model, *item) for item in patches.items()], page)
    lora.adapters = adapters
    if patches and same_as_carried(model, patches, [one.patches for one in loras_on(model)]):
        lora.warn(f"{name} is on this model already: the strengths add up.")
    keep_clock(clone)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, lora.around_run)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, lora.around_call)
    return clone


def _change(model: ModelPatcher, target: Any, patch: Any) -> WeightChange | OutputBranch:
    key, offset, function = parts_of(target)
    layer, _, kind = key.rpartition(".")
    if holds_bytes(model.get_model_object(layer), kind):
        return OutputBranch(key, patch, offset)
    return WeightChange(key, patch, offset, function, host.stored_scale(model, key))


def all_following(model: ModelPatcher, plan: StrengthPlan) -> ModelPatcher:
    """A clone of a model whose LoRAs with a scheduled strength follow another plan, all of them.

    Raises:
        InputError: there are none on it.
    """
    if not loras_on(model):
        raise InputError(
            expected="a MODEL with a LoRA whose strength follows the steps",
            found="one without",
            remedy="Connect it after Dynamic LoRA Weights or Dynamic Subject Weights.",
        )
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    options[FOLLOWED] = lambda: plan  # a function, because hosts copy what else is in a model's options
    return clone


def loras_on(model: ModelPatcher) -> list[ScheduledLoRA]:
    """Those of a model whose strength follows the steps, in the order in which they were put on it."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return [wrapper.__self__ for wrapper in wrappers if isinstance(getattr(wrapper, "__self__", None), ScheduledLoRA)]
