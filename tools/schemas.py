"""How the host describes nodes in /object_info, and what its page makes of that."""

from __future__ import annotations

from typing import Any

Description = dict[str, Any]
"""A node as the host describes it."""

InputType = tuple[str, dict[str, Any], bool]
"""Type of an input, its options, and whether it is a widget."""

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NESTED = "COMFY_DYNAMICCOMBO_V3"


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
