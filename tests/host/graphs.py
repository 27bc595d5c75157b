"""Graphs in the API format, written as Python."""

from __future__ import annotations

from typing import Any


class Graph:
    """Collects nodes; ``graph.add("KSampler", seed=0, model=load[0])`` gives an object whose items are outputs."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, /, **inputs: Any) -> Node:
        """Add a node."""
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": kind, "inputs": {k: v for k, v in inputs.items() if v is not None}}
        return Node(name)


class Node:
    """A node of a graph."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, output: int) -> list[Any]:
        return [self.name, output]
