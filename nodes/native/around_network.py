"""Wrappers right around the network of a model."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP

INNERMOST = "customcrafter_network"


def around_network(options: dict[str, Any], wrapper: Any) -> dict[str, Any]:
    """The host's options with a wrapper next to the network: a cache (EasyCache) can answer a call before it."""
    wrappers = options.get("wrappers", {})
    around = dict(wrappers.get(WrappersMP.DIFFUSION_MODEL, {}))
    around[INNERMOST] = [*around.pop(INNERMOST, []), wrapper]  # the last one is the innermost
    return {**options, "wrappers": {**wrappers, WrappersMP.DIFFUSION_MODEL: around}}
