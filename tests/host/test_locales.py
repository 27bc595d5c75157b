"""Texts of the page in English and Chinese: complete, of the live schemas, and served by the host."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.host.bench import Bench
from tools import locales

PAGES = {path.relative_to(locales.FOLDER).as_posix(): path for path in sorted(locales.FOLDER.glob("*/*.json"))}


def test_files_are_what_the_script_makes(bench: Bench) -> None:
    made = locales.files(bench.host.get("/object_info"))
    assert made.keys() == PAGES.keys()
    for name, text in made.items():
        assert PAGES[name].read_text(encoding="utf-8") == text, f"{name}: run python -m tools.locales"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_socket_of_every_node_has_a_name_and_a_text(bench: Bench, language: str) -> None:
    """Keys against the host's own list of nodes, not against the script's."""
    texts = json.loads(PAGES[f"{language}/nodeDefs.json"].read_text(encoding="utf-8"))
    nodes = bench.own_nodes()
    assert texts.keys() == nodes.keys() and nodes
    for name, node in nodes.items():
        told, inputs = texts[name], {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert told.keys() == {"display_name", "description", "inputs", "outputs"}
        assert told["inputs"].keys() == inputs.keys(), name
        assert list(told["outputs"]) == [str(number) for number in range(len(node["output"]))], name
        for socket, (_, options) in inputs.items():
            own = language == "en" and locales.MESSAGE_SYNTAX.search(options["tooltip"])  # the page shows the schema's
            assert told["inputs"][socket].keys() == {"name"} | (set() if own else {"tooltip"}), f"{name}.{socket}"
        assert all(output.keys() == {"name", "tooltip"} for output in told["outputs"].values()), name


def test_chinese_is_chinese() -> None:
    texts = json.loads(PAGES["zh/nodeDefs.json"].read_text(encoding="utf-8"))
    sentences = [text for _, _, key, text in locales.each_text(texts) if key in ("description", "tooltip")]
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in sentences)
    tooltip = texts["CustomCrafterDynamicWeightedKSampler"]["inputs"]["k"]["tooltip"]
    assert "λs" in tooltip and "λl" in tooltip and "0" in tooltip


def test_host_serves_them(bench: Bench) -> None:
    served = bench.host.get("/i18n")
    for language in ("en", "zh"):
        texts = json.loads(PAGES[f"{language}/nodeDefs.json"].read_text(encoding="utf-8"))
        assert served[language]["nodeDefs"].items() >= texts.items()
    assert served["zh"]["nodeCategories"]["evaluation"] == "评估"


NODE: dict[str, Any] = {
    "CustomCrafterX": {
        "display_name": "X", "description": "Makes 3 of x2.", "outputs": {},
        "inputs": {"k": {"name": "k", "tooltip": "From -1 to 0.5, 3e-05."}},
    }
}  # fmt: skip
KNOWN = {"names": {"X": "甲", "k": "乙"}, "texts": {"Makes # of x2.": "# 个 x2", "From -# to #, #.": "-# 至 #，#"}}


def test_numbers_follow_the_schema() -> None:
    made = locales.translated(NODE, KNOWN)["CustomCrafterX"]
    assert made["description"] == "3 个 x2" and made["inputs"]["k"] == {"name": "乙", "tooltip": "-1 至 0.5，3e-05"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda known: known["texts"].pop("Makes # of x2."), r"no translation: \['Makes # of x2.'\]"),
        (lambda known: known["names"].update(old="旧"), r"translations of nothing: \['old'\]"),
        (lambda known: known["names"].update(X="{甲}"), r"message syntax: \['\{甲\}'\]"),
    ],
)
def test_stale_translation_is_noticed(change: Any, complaint: str) -> None:
    known = copy.deepcopy(KNOWN)
    change(known)
    with pytest.raises(ValueError, match=complaint):
        locales.translated(NODE, known)
