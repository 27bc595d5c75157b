"""The shipped workflows: as the script makes them, valid for every host, and they run."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from bench import Bench
from PIL import Image
from safetensors.torch import save_file

from tools import workflows
from tools.graphs import NESTED, NOTE, Graph, input_types, to_text

GRAPHS = [make() for make in workflows.WORKFLOWS]
USERS_OWN = {workflows.MY_SUBJECT, workflows.MY_CHECKPOINT, workflows.MY_LORA}
named = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name[0])


def saved(graph: Graph) -> dict[str, Any]:
    """The shipped file."""
    return json.loads((workflows.FOLDER / f"{graph.name}.json").read_text())


def test_every_workflow_has_a_picture_and_nothing_lies_about() -> None:
    names = {graph.name for graph in GRAPHS}
    assert {path.stem for path in workflows.FOLDER.glob("*.json")} == names
    assert {path.stem for path in workflows.FOLDER.glob("*.jpg")} == names
    for path in workflows.FOLDER.glob("*.jpg"):
        assert min(Image.open(path).size) >= 256 and path.stat().st_size < 200_000


@named
def test_file_is_what_the_script_makes(bench: Bench, graph: Graph) -> None:
    descriptions = bench.host.get("/object_info")
    if "CurveEditor" not in descriptions:
        pytest.skip("files are written with the newest host")
    assert to_text(graph.workflow(descriptions)) == (workflows.FOLDER / f"{graph.name}.json").read_text()


@named
def test_file_fits_the_host(bench: Bench, graph: Graph) -> None:
    """No missing node, no value out of range, every link between sockets of one type."""
    descriptions = bench.host.get("/object_info")
    nodes = {node["id"]: node for node in saved(graph)["nodes"]}
    for node in nodes.values():
        if node["type"] == NOTE:
            continue
        values = iter(node["widgets_values"])
        for name, (given, options, is_widget) in input_types(descriptions[node["type"]]).items():
            if is_widget:
                check_value(next(values), given, options, f"{node['type']}.{name}")
                if options.get("control_after_generate"):
                    assert next(values) in ("fixed", "randomize", "increment", "decrement")
    for _, origin, output, target, slot, kind in saved(graph)["links"]:
        assert descriptions[nodes[origin]["type"]]["output"][output] == kind
        assert nodes[target]["inputs"][slot]["type"].split(",")[0] == kind


def check_value(value: Any, given: str, options: dict[str, Any], where: str) -> None:
    """A widget's value is one it may have."""
    if given == "COMBO":
        assert value in options["options"] or value in USERS_OWN, where
    elif given == NESTED:
        assert value in [option["key"] for option in options["options"]], where
    elif given in ("INT", "FLOAT"):
        assert options.get("min", value) <= value <= options.get("max", value), where


@named
def test_runs(bench: Bench, graph: Graph) -> None:
    api = graph.full_api(bench.host.get("/object_info"))
    for node in api.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 6
    stand_in(bench, api)
    outputs = bench.host.run(api)
    files = [file for shown in outputs.values() for kind in ("images", "video") for file in shown.get(kind, [])]
    kept = [file for file in files if file["type"] == "output"]
    assert len(kept) == sum(node["class_type"] in ("SaveVideo", "SaveImage") for node in api.values())
    for file in kept:
        assert (bench.host.base / "output" / file["subfolder"] / file["filename"]).stat().st_size > 500


def stand_in(bench: Bench, api: dict[str, Any]) -> None:
    """Put test files in the place of the user's own."""
    own = any(node["inputs"].get("subject") == workflows.MY_SUBJECT for node in api.values())
    for number, node in list(api.items()):
        inputs = node["inputs"]
        if own and node["class_type"] == "CustomCrafterLoadSubject":  # a subject of the test model, so on that model
            inputs["subject"] = "first.safetensors"
        if own and node["class_type"] == "CustomCrafterLoadVideoCrafter2":
            inputs["checkpoint"] = "reference.safetensors"
        if own and node["class_type"] == "CustomCrafterEmptyVideoLatent":
            inputs.update(width=64, height=48, frames=4)
        if node["class_type"] == "CheckpointLoaderSimple":
            replace_checkpoint(bench, api, number)


def replace_checkpoint(bench: Bench, api: dict[str, Any], number: str) -> None:
    """A small model of the host's with the test model's text encoder and VAE, and a LoRA for it."""
    bench.host.run({"1": {"class_type": "ProbeSmallModel", "inputs": {"kind": "sd15"}},
                    "2": {"class_type": "ProbeSave", "inputs": {"value": ["1", 3], "name": "lora"}}})  # fmt: skip
    lora = torch.load(bench.host.base / "output" / "lora.pt")
    save_file(lora, bench.host.base / "models" / "loras" / workflows.MY_LORA)
    api["90"] = {"class_type": "ProbeSmallModel", "inputs": {"kind": "sd15"}}
    api[number] = {
        "class_type": "CustomCrafterLoadVideoCrafter2",
        "inputs": {"checkpoint": "reference.safetensors", "dtype": "float32"},
    }
    for node in api.values():
        if node["class_type"] == "CustomCrafterDynamicLoRAWeights":
            node["inputs"]["model"] = ["90", 0]
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=64, height=64)
