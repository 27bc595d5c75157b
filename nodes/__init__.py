"""The nodes: the host's face of `customcrafter_core`. The only package that imports the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import evaluation, levels, loading, sampling, saving, subjects, training, weights

FAMILIES = (loading, subjects, weights, sampling, training, evaluation)


class CustomCrafterExtension(ComfyExtension):
    """All nodes of this pack."""

    async def on_load(self) -> None:
        """Join the host's server."""
        levels.serve()
        saving.watch()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of every family."""
        return [node for family in FAMILIES for node in family.NODES]
