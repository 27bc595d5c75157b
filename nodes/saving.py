"""Says that nodes which save or merge a model leave out LoRAs whose strength follows the steps.

Such a LoRA is never in the model's weights, so there is nothing of it to save. Each graph is looked at when it is queued:
nodes themselves may come from the host's cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from . import host

log = logging.getLogger(__name__)

SCHEDULED = ("CustomCrafterDynamicSubjectWeights", "CustomCrafterDynamicLoRAWeights")
LEAVING_OUT = ("save", "merge")
"""In the names of nodes that read a model's weights."""

Graph = dict[str, dict[str, Any]]
"""Node id -> class_type and inputs, as the host runs it."""


def watch() -> None:
    """Look at each graph that is queued."""
    host.server().add_on_prompt_handler(look)


def look(request: dict[str, Any]) -> dict[str, Any]:
    """The host's request to run a graph, passed on as it is."""
    graph = request.get("prompt")
    try:
        found = list(left_out(graph)) if isinstance(graph, dict) else []
    except (AttributeError, KeyError, TypeError):  # the host itself says what is wrong with a graph
        found = []
    host.NodeOnPage.notes.clear()
    for node_id, reader in found:
        told = (
            f"{reader} reads the model without this LoRA, whose strength follows the steps. To have it in the file, put it on the "
            "model with Load LoRA instead."
        )
        log.warning("Node %s: %s", node_id, told)
        host.NodeOnPage.notes[node_id] = told
        host.NodeOnPage(node_id).say("")
    return request


def left_out(graph: Graph) -> Iterator[tuple[str, str]]:
    """Nodes of this pack that schedule a LoRA on a model, each with the class of a node that reads the model's weights."""
    for node_id, node in graph.items():
        if node["class_type"] in SCHEDULED:
            for reader in _readers(graph, node_id, set()):
                yield node_id, reader


def _readers(graph: Graph, source: str, seen: set[str]) -> Iterator[str]:
    """Classes of nodes that read the weights of the model that comes out of a node, directly or through other nodes."""
    for node_id, node in graph.items():
        if node_id in seen or not any(link == [source, 0] for link in node.get("inputs", {}).values()):
            continue
        seen.add(node_id)
        kind = node["class_type"]
        if any(word in kind.lower() for word in LEAVING_OUT):
            yield kind
        if host.gives_model(kind):
            yield from _readers(graph, node_id, seen)
