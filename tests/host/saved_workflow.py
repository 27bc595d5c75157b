"""A saved workflow file as the page reads it: its widgets' values by their order, and the graph it sends to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tools.graphs import NOTE
from tools.schemas import NESTED, Description, default_of, input_type, input_types

SEED_CHOICES = ("fixed", "increment", "decrement", "randomize")


def api_of(workflow: dict[str, Any], descriptions: dict[str, Description]) -> dict[str, Any]:
    """The graph that the page would send; fails on a value that is missing, left over or not allowed."""
    origins = {row[0]: [str(row[1]), row[2]] for row in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == NOTE:
            continue
        assert node["type"] in descriptions, f"the host has no {node['type']}"
        inputs = widgets_of(node, descriptions[node["type"]])
        for given in node["inputs"]:
            if given["link"] is not None:
                inputs[given["name"]] = origins[given["link"]]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def widgets_of(node: dict[str, Any], description: Description) -> dict[str, Any]:
    """The values of a saved node's widgets, by name."""
    saved = iter(node["widgets_values"])
    found: dict[str, Any] = {}
    for name, (given, options, is_widget) in input_types(description).items():
        if is_widget:
            found |= _take(saved, name, given, options, node["type"])
    left = list(saved)
    if (
        left and node["type"] == "CreateVideo" and "bit_depth" not in found
    ):  # a widget that newer hosts added at its end
        assert left.pop(0) == 8
    assert not left, f"{node['type']} has values left over: {left}"
    return found


def _take(saved: Iterator[Any], name: str, given: str, options: dict[str, Any], node: str) -> dict[str, Any]:
    """The next value, those of widgets that belong to it taken too."""
    where = f"{node}.{name}"
    missing = object()
    value = next(saved, missing)
    assert value is not missing, f"{where} has no value"
    check_value(value, given, options, where)
    found = {name: value}
    if options.get("control_after_generate"):
        assert next(saved, None) in SEED_CHOICES, f"{where} has no choice of what follows"
    if given == NESTED:
        inside = next(option["inputs"] for option in options["options"] if option["key"] == value)
        for part in ("required", "optional"):
            for inner, described in inside.get(part, {}).items():
                kind, more, is_widget = input_type(described)
                if is_widget:
                    found |= _take(saved, f"{name}.{inner}", kind, more, node)
    return found


def check_value(value: Any, given: str, options: dict[str, Any], where: str) -> None:
    """A widget's value is one it may have."""
    if given == "COMBO":
        assert value in options["options"], f"{where}: {value!r} is no choice"
    elif given == NESTED:
        assert value in [option["key"] for option in options["options"]], f"{where}: {value!r} is no choice"
    elif given in ("INT", "FLOAT"):
        assert isinstance(value, (int, float)) and not isinstance(value, bool), f"{where}: {value!r}"
        assert isinstance(value, int) or given == "FLOAT", f"{where}: {value!r}"
        assert options.get("min", value) <= value <= options.get("max", value), f"{where}: {value!r}"
    else:
        assert isinstance(value, type(default_of(given, options))), f"{where}: {value!r}"
