"""Put a subject on a MODEL, and see to it that the prompt names it."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...customcrafter_core.diffusion.strength import Constant
from ...customcrafter_core.errors import InputError
from ...customcrafter_core.subject.file import PREFIX, lora_tensors
from ...customcrafter_core.subject.subject import Subject, check_fits
from .. import host
from .dynamic import KEY as DYNAMIC
from .dynamic import with_dynamic_lora
from .identity_adapter import Branches
from .lora_file import Patches
from .model import require_base
from .strength_plan import StrengthPlan
from .text import may_hold

CARRIED = "customcrafter_subjects"
KEY = "customcrafter_token"
FOR_OTHERS = "Connect that node's MODEL output, or use Dynamic LoRA Weights for other models."


def with_dynamic_subject(
    model: ModelPatcher,
    subject: Subject,
    plan: StrengthPlan,
    *,
    any_base: bool = False,
    page: host.NodeOnPage | None = None,
) -> ModelPatcher:
    """A clone of a model with a subject whose strength follows the steps.

    Raises:
        InputError: the subject does not fit the model, or the model carries one of the same token.
    """
    model = _take_subject(model, subject, plan, any_base=any_base)
    if not subject.factors and not subject.adapters:  # a learned token alone
        return model
    adapters = Branches(subject.adapters) if subject.adapters else None
    patches = subject_patches(subject)
    return with_dynamic_lora(model, subject.placeholder, patches, plan, adapters=adapters, page=page)


def with_constant_subject(
    model: ModelPatcher, subject: Subject, strength: float, *, any_base: bool = False
) -> ModelPatcher:
    """A clone of a model with a subject at one strength.

    Raises:
        InputError: the subject does not fit the model, or the model carries one of the same token.
    """
    model = _take_subject(model, subject, StrengthPlan(Constant(strength)), any_base=any_base)
    model.add_patches(subject_patches(subject), strength)
    if subject.adapters:
        branches = partial(Branches(subject.adapters).around_call, strength)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, DYNAMIC, branches)
    return model


def subject_patches(subject: Subject) -> Patches:
    """A subject's LoRA factors as the host's patches."""
    names = {f"{PREFIX}{name}": f"{PREFIX}{name}.weight" for name in subject.factors}
    patches: Patches = comfy.lora.load_lora(lora_tensors(subject), names)
    return patches


def _take_subject(model: ModelPatcher, subject: Subject, plan: StrengthPlan, *, any_base: bool) -> ModelPatcher:
    check_fits(subject, require_base(model, FOR_OTHERS), any_base=any_base)
    carried = model.get_attachment(CARRIED) or ()
    if subject.placeholder in carried:
        raise InputError(
            expected=f"{subject.placeholder} once on a model",
            found="a model that already carries it",
            remedy="Connect the model from before, or give the second subject another token in Load Subject.",
        )
    clone = model.clone()
    clone.set_attachments(CARRIED, (*carried, subject.placeholder))
    check = TokenCheck(subject.placeholder, subject.trigger, plan)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, check)
    return clone


class TokenCheck:
    """Refuses to sample with a subject that the prompt does not name; runs before the host loads the model."""

    def __init__(self, token: str, trigger: str, plan: StrengthPlan) -> None:
        self._token, self._trigger, self._plan = token, trigger, plan

    def __call__(
        self, run: Any, noise: Any, latent: Any, sampler: Any, sigmas: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        """The host's run of a sampler ``(noise, latent, sampler, sigmas, …)``.

        Raises:
            InputError: no positive prompt holds the subject's token.
        """
        strengths = self._plan.over(sigmas, noise, run.class_obj.model_patcher.get_model_object("model_sampling"))
        prompts = [prompt for name, given in run.class_obj.conds.items() if "negative" not in name for prompt in given]
        if any(strengths.each()) and not any(may_hold(one["cross_attn"], one, self._token) for one in prompts):
            raise InputError(
                expected=f"{self._token} in the positive prompt, encoded by a CLIP that knows it",
                found="a prompt without it, or a CLIP that does not know it",
                remedy=f"Write {self._trigger!r}, and connect the CLIP output of Teach Token, or of the node that put the "
                "subject on the model, to CLIP Text Encode.",
            )
        return run(noise, latent, sampler, sigmas, *rest, **more)
