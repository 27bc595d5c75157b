"""Graphs written in Python, for the host's API and as workflow files for its page."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import layout
from .layout import Box
from .schemas import NESTED, Description, default_of, input_types

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

NOTE = "MarkdownNote"
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass(frozen=True)
class Link:
    """An output of a node."""

    node: Node
    output: int


@dataclass(frozen=True)
class Promoted(Link):
    """An input of a subgraph, as its nodes see it: a link from outside, and what its widget shows at first."""

    value: Any = None


@dataclass(eq=False)
class Node:
    """A node, its widget values and links by input name, and where it stands."""

    kind: str
    inputs: dict[str, Any]
    column: int
    title: str = ""
    number: int = 0
    folded: bool = False
    """Only its title is shown."""

    def __getitem__(self, output: int) -> Link:
        return Link(self, output)


@dataclass
class Graph:
    """A workflow: nodes in columns."""

    name: str
    columns: list[str] = field(default_factory=list)
    """Titles of the frames around the columns."""
    moves: list[int] = field(default_factory=list)
    """Columns that hold what is to be moved: they stand out, and ``hint`` is above them."""
    note: str = ""
    hint: str = ""
    nodes: list[Node] = field(default_factory=list)

    def add(self, column: int, kind: str, /, title: str = "", **inputs: Any) -> Node:
        """Add a node to a column."""
        node = Node(kind, inputs, column, title, len(self.nodes) + 1)
        self.nodes.append(node)
        return node

    def api(self) -> dict[str, Any]:
        """The form that POST /prompt takes."""
        return {
            str(node.number): {
                "class_type": node.kind,
                "inputs": {
                    name: [str(value.node.number), value.output] if isinstance(value, Link) else value
                    for name, value in node.inputs.items()
                },
            }
            for node in self.nodes
        }

    def full_api(self, descriptions: dict[str, Description]) -> dict[str, Any]:
        """`api` with the values that the page sends for untouched widgets."""
        graph = self.api()
        for node in graph.values():
            for name, (given, options, is_widget) in input_types(descriptions[node["class_type"]]).items():
                if is_widget:
                    node["inputs"].setdefault(name, default_of(given, options))
        return graph

    def workflow(self, descriptions: dict[str, Description]) -> dict[str, Any]:
        """The form that the page saves and opens."""
        links: list[list[Any]] = []
        places = self._places(descriptions)
        nodes = [self._ui_node(node, descriptions[node.kind], places[node.number], links) for node in self.nodes]
        for row in links:
            if row[1] > 0:  # not from outside of a subgraph
                origin = nodes[row[1] - 1]["outputs"][row[2]]
                origin["links"] = [*(origin["links"] or []), row[0]]
        notes = self._notes(len(nodes) + 1)
        noted = [Box(*note["pos"], *note["size"]) for note in notes]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"customcrafter/{self.name}")),
            "revision": 0,
            "last_node_id": len(nodes) + len(notes),
            "last_link_id": len(links),
            "nodes": nodes + notes,
            "links": links,
            "groups": self._frames(places),
            "config": {},
            "extra": {"ds": layout.view([*places.values(), *noted])},
            "version": 0.4,
        }

    def _places(self, descriptions: dict[str, Description]) -> dict[int, Box]:
        columns = [[node for node in self.nodes if node.column == column] for column in range(len(self.columns))]
        heights = [
            [
                layout.FOLDED if node.folded else layout.node_height(node.kind, descriptions[node.kind])
                for node in column
            ]
            for column in columns
        ]
        placed = zip(columns, layout.stacked(heights), strict=True)
        return {node.number: box for column, boxes in placed for node, box in zip(column, boxes, strict=True)}

    def _frames(self, places: dict[int, Box]) -> list[dict[str, Any]]:
        frames = []
        for column, title in enumerate(self.columns):
            boxes = [places[node.number] for node in self.nodes if node.column == column]
            frames.append(layout.frame(title, boxes, column + 1, loud=column in self.moves))
        return frames

    def _notes(self, number: int) -> list[dict[str, Any]]:
        return [
            layout.note(self.note, list(range(min(self.moves[0], 2))), number, "What this does"),
            layout.note(self.hint, self.moves, number + 1, "What to change"),
        ]

    def _ui_node(self, node: Node, description: Description, place: Box, links: list[list[Any]]) -> dict[str, Any]:
        inputs: list[dict[str, Any]] = []
        for name, (given, _, is_widget) in input_types(description).items():
            value = node.inputs.get(name)
            if not isinstance(value, Link):
                if not is_widget:
                    inputs.append({"name": name, "type": given, "link": None})
                continue
            number = len(links) + 1
            links.append([number, value.node.number, value.output, node.number, len(inputs), given.split(",")[0]])
            inputs.append(
                {"name": name, "type": given, "link": number, **({"widget": {"name": name}} if is_widget else {})}
            )
        pairs = zip(description["output"], description["output_name"], strict=True)
        moved = node.column in self.moves and "lambda_s" in input_types(description)
        return {
            "id": node.number,
            "type": node.kind,
            "pos": [place.left, place.top],
            "size": [place.width, place.height],
            "flags": {"collapsed": True} if node.folded else {},
            "order": node.number - 1,
            "mode": 0,
            "inputs": inputs,
            "outputs": [{"name": name, "type": given, "links": None} for given, name in pairs],
            **({"title": node.title} if node.title else {}),
            "properties": properties_of(node.kind),
            "widgets_values": widget_values(node, description),
            **(layout.MOVE_COLOR if moved else {}),
        }


def properties_of(kind: str) -> dict[str, str]:
    """What a page without this pack reads to offer its installation: the pack's id in the registry, and its version."""
    named = {"Node name for S&R": kind}
    return named | {"cnr_id": PROJECT["name"], "ver": PROJECT["version"]} if kind.startswith("CustomCrafter") else named


def widget_values(node: Node, description: Description) -> list[Any]:
    """The values of a node's widgets in the page's order; a seed has a second widget."""
    values = []
    for name, (given, options, is_widget) in input_types(description).items():
        if not is_widget:
            continue
        value = node.inputs.get(name)
        value = value.value if isinstance(value, Promoted) else value
        values.append(default_of(given, options) if value is None or isinstance(value, Link) else value)
        if options.get("control_after_generate"):
            values.append("fixed")
        if given == NESTED:
            values += _nested_values(values[-1], options)
    return values


def _nested_values(chosen: str, options: dict[str, Any]) -> list[Any]:
    """Defaults of the widgets that a choice brings with it."""
    values = []
    inside = next(option["inputs"] for option in options["options"] if option["key"] == chosen)
    for given, more in (*inside.get("required", {}).values(), *inside.get("optional", {}).values()):
        values.append(default_of(given, more))
        if given == NESTED:
            values += _nested_values(values[-1], more)
    return values


def to_text(workflow: dict[str, Any]) -> str:
    """A workflow as the text of its file."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
