"""The texts of the nodes for the page: ``locales/en`` from the schemas, ``locales/zh`` by the translations in ``zh.json``.

Run: ``python -m tools.locales``    # needs a host: COMFYUI_PATH, else ~/comfy/*

A translation is found by its English text, as in gettext: where that changes, the script names it and writes nothing.
Numbers in a text are ``#`` there and are put back in the same order, so a new default needs no new translation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .on_host import ROOT, newest_host
from .schemas import Description

FOLDER = ROOT / "locales"
TRANSLATIONS = Path(__file__).with_name("zh.json")
OURS = "CustomCrafter"
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?!\w)")
# Some pages read texts as messages of vue-i18n, in which these mean something; others show them as they are.
MESSAGE_SYNTAX = re.compile(r"[{}|@]")

Texts = dict[str, dict[str, Any]]
"""Node id -> its display name, description, inputs and outputs, as the page reads them from ``nodeDefs.json``."""


def english(descriptions: dict[str, Description]) -> Texts:
    """Every text of this pack's nodes, from the host's description of them."""
    return {name: _of_node(node) for name, node in sorted(descriptions.items()) if name.startswith(OURS)}


def _of_node(node: Description) -> dict[str, Any]:
    inputs = {
        name: {"name": name, "tooltip": node["input"][kind][name][1]["tooltip"]}
        for kind in ("required", "optional")
        for name in node["input_order"].get(kind, [])
    }
    pairs = zip(node["output_name"], node["output_tooltips"], strict=True)
    outputs = {str(number): {"name": name, "tooltip": text} for number, (name, text) in enumerate(pairs)}
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def shown(texts: Texts) -> Texts:
    """English for the page, without what it could read as message syntax: there it shows the schema's own text.

    Raises:
        ValueError: a name or a description holds message syntax.
    """
    kept = json.loads(json.dumps(texts))
    for name, node in kept.items():
        if MESSAGE_SYNTAX.search(node["display_name"] + node["description"]):
            raise ValueError(f"{name}: the page may not show {{ }} | @ in its name and description; write it in words")
        for socket in (*node["inputs"].values(), *node["outputs"].values()):
            if MESSAGE_SYNTAX.search(socket["tooltip"]):
                del socket["tooltip"]
    return kept


def translated(texts: Texts, translations: dict[str, dict[str, str]]) -> Texts:
    """The same texts in the other language.

    Raises:
        ValueError: a text has no translation, a translation fits no text, or holds message syntax.
    """
    found = json.loads(json.dumps(texts))
    missing, used = [], set()
    for node, part, key, text in each_text(found):
        known, name = _place(node, key, text, translations)
        if name not in known:
            missing.append(name)
            continue
        used.add(name)
        numbers = iter(NUMBER.findall(text))
        part[key] = re.sub("#", lambda _, numbers=numbers: next(numbers), known[name])
    unused = sorted((translations["names"].keys() | translations["texts"].keys()) - used)
    syntax = [text for *_, text in each_text(found) if text not in missing and MESSAGE_SYNTAX.search(text)]
    if missing or unused or syntax:
        raise ValueError(f"no translation: {missing}\ntranslations of nothing: {unused}\nmessage syntax: {syntax}")
    return found


def _place(node: str, key: str, text: str, translations: dict[str, dict[str, str]]) -> tuple[dict[str, str], str]:
    """The table that holds a text's translation, and under what; a name may mean something else on one node."""
    if key in ("display_name", "name"):
        own = f"{node}.{text}"
        return translations["names"], own if own in translations["names"] else text
    return translations["texts"], NUMBER.sub("#", text)


def each_text(texts: Texts) -> Iterator[tuple[str, dict[str, Any], str, str]]:
    """Every text: its node, the part that holds it, its key there, and itself."""
    for name, node in texts.items():
        for part in (node, *node["inputs"].values(), *node["outputs"].values()):
            for key in ("display_name", "name", "description", "tooltip"):
                if key in part:
                    yield name, part, key, part[key]


def files(descriptions: dict[str, Description]) -> dict[str, str]:
    """Every file of ``locales/`` by its path there, and what is in it."""
    texts, translations = english(descriptions), json.loads(TRANSLATIONS.read_text(encoding="utf-8"))
    contents = {
        "en/nodeDefs.json": shown(texts),
        "zh/nodeDefs.json": translated(texts, translations),
        "zh/main.json": {"nodeCategories": translations["categories"]},
    }
    return {path: json.dumps(content, ensure_ascii=False, indent=1) + "\n" for path, content in contents.items()}


def main() -> None:
    """Write the files."""
    with newest_host() as host:
        made = files(host.get("/object_info"))
    for path, text in made.items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
