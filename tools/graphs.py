"""Graphs written in Python, for the host's API and as workflow files for its page."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

Description = dict[str, Any]
"""A node as the host describes it in /object_info."""

InputType = tuple[str, dict[str, Any], bool]
"""Type of an input, its options, and whether it is a widget."""

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
COLUMN, GAP, ROW = 400, 60, 24
NOTE, NESTED = "MarkdownNote", "COMFY_DYNAMICCOMBO_V3"


@dataclass(frozen=True)
class Link:
    """An output of a node."""

    node: Node
    output: int


@dataclass(eq=False)
class Node:
    """A node, its widget values and links by input name, and where it stands."""

    kind: str
    inputs: dict[str, Any]
    column: int
    title: str = ""
    number: int = 0

    def __getitem__(self, output: int) -> Link:
        return Link(self, output)


@dataclass
class Graph:
    """A workflow: nodes in columns."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    note: str = ""

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
        nodes = [_ui_node(node, descriptions[node.kind], places[node.number], links) for node in self.nodes]
        for row in links:
            origin = nodes[row[1] - 1]["outputs"][row[2]]
            origin["links"] = [*(origin["links"] or []), row[0]]
        if self.note:
            nodes.append(_note(self.note, len(nodes) + 1))
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"customcrafter/{self.name}")),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [40, 260]}},
            "version": 0.4,
        }

    def _places(self, descriptions: dict[str, Description]) -> dict[int, tuple[list[int], list[int]]]:
        below: dict[int, int] = {}
        places = {}
        for node in self.nodes:
            top = below.get(node.column, 0)
            size = [COLUMN - GAP, _height(node, descriptions[node.kind])]
            places[node.number] = ([node.column * COLUMN, top], size)
            below[node.column] = top + size[1] + GAP
        return places


def input_types(description: Description) -> dict[str, InputType]:
    """Each input in the order of the page."""
    found = {}
    for kind in ("required", "optional"):
        for name in description["input_order"].get(kind, []):
            given = input_type(description["input"][kind][name])
            if not given[1].get("hidden"):  # kept by the host for older workflows only
                found[name] = given
    return found


def input_type(described: list[Any]) -> InputType:
    """One input as the host describes it; older hosts write a choice as the list of its values."""
    given, options = (*described, {})[:2]
    if isinstance(given, list):
        given, options = "COMBO", {**options, "options": given}
    shown = options.get("widgetType", given)
    return given, options, (shown in WIDGETS or shown == NESTED) and not options.get("forceInput")


def default_of(given: str, options: dict[str, Any]) -> Any:
    """What a widget shows when nothing is said."""
    if "default" in options:
        return options["default"]
    if given == "COMBO":
        return next(iter(options.get("options", [])), "")
    if options.get("options"):
        return options["options"][0]["key"]
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(given)


def widget_values(node: Node, description: Description) -> list[Any]:
    """The values of a node's widgets in the page's order; a seed has a second widget."""
    values = []
    for name, (given, options, is_widget) in input_types(description).items():
        if not is_widget:
            continue
        value = node.inputs.get(name)
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


def _ui_node(node: Node, description: Description, place: Any, links: list[list[Any]]) -> dict[str, Any]:
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
    outputs = [{"name": name, "type": given, "links": None} for given, name in pairs]
    return {
        "id": node.number,
        "type": node.kind,
        "pos": place[0],
        "size": place[1],
        "flags": {},
        "order": node.number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": node.title} if node.title else {}),
        "properties": {"Node name for S&R": node.kind},
        "widgets_values": widget_values(node, description),
    }


def _height(node: Node, description: Description) -> int:
    types = input_types(description)
    widgets = sum(is_widget for _, _, is_widget in types.values())
    sockets = max(len(types) - widgets, len(description["output"]))
    extra = 90 if any(options.get("multiline") for _, options, _ in types.values()) else 0
    preview = 300 if node.kind in ("SaveVideo", "SaveImage", "PreviewImage") else 0
    preview += {
        "CustomCrafterDynamicWeightedKSampler": 200,
        "CustomCrafterLoadSubject": 90,
        "CustomCrafterSubjectTrainer": 560,
    }.get(node.kind, 0)
    return 40 + ROW * (widgets + sockets) + extra + preview


def _note(text: str, number: int) -> dict[str, Any]:
    return {
        "id": number, "type": NOTE, "pos": [0, -260], "size": [2 * COLUMN - GAP, 220], "flags": {}, "order": 0,
        "mode": 0, "inputs": [], "outputs": [], "title": "What this does", "properties": {}, "widgets_values": [text],
        "color": "#432", "bgcolor": "#653",
    }  # fmt: skip


def to_text(workflow: dict[str, Any]) -> str:
    """A workflow as the text of its file."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
