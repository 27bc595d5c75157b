"""The shipped workflows: as the script makes them, valid for every host, and the files themselves run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.host.bench import Bench
from tests.host.saved_workflow import api_of
from tools import workflows
from tools.graphs import PROJECT, Graph, to_text
from tools.pictures import is_picture_of
from tools.schemas import input_types

GRAPHS = [make() for make in workflows.WORKFLOWS]
FILES = sorted(workflows.FOLDER.glob("*.json"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name[0])


def test_every_workflow_has_a_picture_and_nothing_lies_about() -> None:
    names = {graph.name for graph in GRAPHS}
    assert {path.stem for path in FILES} == names
    assert {path.stem for path in workflows.FOLDER.glob("*.jpg")} == names
    for path in workflows.FOLDER.glob("*.jpg"):
        assert min(Image.open(path).size) >= 256 and path.stat().st_size < 200_000


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name[0])
def test_file_and_picture_are_what_the_script_makes(bench: Bench, graph: Graph) -> None:
    descriptions = bench.host.get("/object_info")
    if "CurveEditor" not in descriptions:
        pytest.skip("files are written with the newest host")
    assert to_text(graph.workflow(descriptions)) == (workflows.FOLDER / f"{graph.name}.json").read_text()
    picture = workflows.FOLDER / f"{graph.name}.jpg"
    assert is_picture_of(picture, graph, descriptions), "made with other values: run python -m tools.workflows"


@each_file
def test_a_page_without_the_pack_can_offer_it(file: Path) -> None:
    nodes = json.loads(file.read_text())["nodes"]
    ours = [node["properties"] for node in nodes if node["type"].startswith("CustomCrafter")]
    assert ours and all((given["cnr_id"], given["ver"]) == (PROJECT["name"], PROJECT["version"]) for given in ours)


@each_file
def test_links_fit_the_host(bench: Bench, file: Path) -> None:
    """Every link joins sockets of one type, and both ends know of it."""
    descriptions, workflow = bench.host.get("/object_info"), json.loads(file.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, origin, output, target, slot, kind in workflow["links"]:
        assert descriptions[nodes[origin]["type"]]["output"][output] == kind
        assert number in nodes[origin]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == number
        given = nodes[target]["inputs"][slot]["name"]
        taken, _, _ = input_types(descriptions[nodes[target]["type"]])[given]
        assert kind in taken.split(","), f"{nodes[target]['type']}.{given}"
    linked = [given["link"] for node in nodes.values() for given in node["inputs"] if given["link"] is not None]
    assert sorted(linked) == sorted(row[0] for row in workflow["links"])


@each_file
def test_file_runs(bench: Bench, file: Path) -> None:
    """The file itself, read as the page reads it: no value missing, left over or not allowed; then with fewer steps."""
    api = api_of(json.loads(file.read_text()), bench.host.get("/object_info"))
    for node in api.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    outputs = bench.host.run(api)
    kept = [shown for shown in files_of(outputs) if shown["type"] == "output"]
    assert len(kept) == sum(node["class_type"] in ("SaveVideo", "SaveImage") for node in api.values())
    for shown in kept:
        assert (bench.host.base / "output" / shown["subfolder"] / shown["filename"]).stat().st_size > 500


def files_of(outputs: dict[str, Any]) -> list[dict[str, Any]]:
    """All files that nodes showed."""
    return [file for shown in outputs.values() for kind in ("images", "video") for file in shown.get(kind, [])]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda values: values.pop(), "switch_at has no value"),
        (lambda values: values.append(1), "values left over"),
        (lambda values: values.pop(1), "no choice of what follows"),
        (lambda values: values.__setitem__(5, "ddim (old name)"), "is no choice"),
        (lambda values: values.__setitem__(7, 4.0), "lambda_s: 4.0"),
    ],
)
def test_stale_file_is_noticed(bench: Bench, change: Any, complaint: str) -> None:
    workflow = json.loads(FILES[0].read_text())
    sampler = next(node for node in workflow["nodes"] if node["type"] == "CustomCrafterDynamicWeightedKSampler")
    change(sampler["widgets_values"])
    with pytest.raises(AssertionError, match=complaint):
        api_of(workflow, bench.host.get("/object_info"))
