"""CustomCrafter for ComfyUI: the door through which the host finds the nodes. Imports nothing until it is asked to."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"  # help pages of the nodes


async def comfy_entrypoint() -> Any:
    """Give the host its extension; called once, at its start."""
    from .nodes import CustomCrafterExtension

    return CustomCrafterExtension()
