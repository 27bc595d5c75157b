"""Which subjects a MODEL carries."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from ...customcrafter_core.errors import InputError
from ...customcrafter_core.subject.subject import Subject, check_fits
from .model import require_base

CARRIED = "customcrafter_subjects"


def take_subject(model: ModelPatcher, subject: Subject, *, any_base: bool = False) -> ModelPatcher:
    """A clone of a model that notes the subject about to be put on it.

    Raises:
        InputError: the subject does not fit the model, or the model carries one of the same token.
    """
    check_fits(subject, require_base(model), any_base=any_base)
    carried = model.get_attachment(CARRIED) or ()
    if subject.placeholder in carried:
        raise InputError(
            expected=f"{subject.placeholder} once on a model",
            found="a model that already carries it",
            remedy="Connect the model from before, or give the second subject another token in Load Subject.",
        )
    clone = model.clone()
    clone.set_attachments(CARRIED, (*carried, subject.placeholder))
    return clone
