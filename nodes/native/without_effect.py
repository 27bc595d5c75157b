"""Refuse what other nodes put on a run that VideoCrafter2 would ignore, rather than leave it without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...customcrafter_core.errors import InputError


def refuse_without_effect(control: Any, options: Mapping[str, Any]) -> None:
    """Refuse a ControlNet and patches of the host's own UNet.

    Args:
        control: a ControlNet or what it computed; None if there is none.
        options: the host's ``transformer_options``.

    Raises:
        InputError: there is one.
    """
    patches = [kind for kind in ("patches", "patches_replace") if options.get(kind)]
    if control is None and not patches:
        return
    unet = "a patch made for the host's own UNet (FreeU, PAG and others)"
    raise InputError(
        expected="a model that VideoCrafter2 can run as it is",
        found=f"{unet if control is None else 'a ControlNet'}, which would have no effect",
        remedy="Remove that node; only LoRA and sampling nodes work with VideoCrafter2.",
    )


def check_run(run: Any, *given: Any, **more: Any) -> Any:
    """The host's run of a sampler, checked before anything is loaded: a real ControlNet would fail on a video.

    Raises:
        InputError: as `refuse_without_effect`.
    """
    prompts = [prompt for prompts in run.class_obj.conds.values() for prompt in prompts]
    control = next((prompt["control"] for prompt in prompts if prompt.get("control") is not None), None)
    refuse_without_effect(control, run.class_obj.model_options.get("transformer_options", {}))
    return run(*given, **more)
