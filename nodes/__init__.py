"""The nodes: the host's face of `customcrafter_core`. The only package that imports the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import evaluation, host, levels, loading, onset, sampling, saving, subjects, sweep, training, weights

FAMILIES = (loading, subjects, weights, sampling, training, evaluation, sweep, onset)


class CustomCrafterExtension(ComfyExtension):
    """All nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of every family; the first thing that all hosts ask for."""
        if host.server() is not None:
            levels.serve()
            saving.watch()
        return [node for family in FAMILIES for node in family.NODES]
