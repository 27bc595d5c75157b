"""The subgraph blueprint: listed by hosts that know such, as the script makes it, whole, and it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.host.bench import Bench
from tests.host.saved_workflow import widgets_of
from tools import blueprint
from tools.graphs import to_text
from tools.schemas import input_types

FILE = blueprint.FOLDER / f"{blueprint.NAME}.json"


@pytest.fixture
def whole() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture
def definition(whole: dict[str, Any]) -> dict[str, Any]:
    return whole["definitions"]["subgraphs"][0]


def test_it_is_listed(bench: Bench) -> None:
    if bench.host.generation == "older":
        pytest.skip("this host knows no blueprints")
    listed = bench.host.get("/global_subgraphs")
    mine = {key: entry for key, entry in listed.items() if entry["info"]["node_pack"] == "custom_nodes.customcrafter"}
    assert [entry["name"] for entry in mine.values()] == [blueprint.NAME]
    assert bench.host.get(f"/global_subgraphs/{next(iter(mine))}")["data"] == FILE.read_text(encoding="utf-8")


def test_file_is_what_the_script_makes(bench: Bench) -> None:
    descriptions = bench.host.get("/object_info")
    if bench.host.generation == "older":
        pytest.skip("files are written with the newest host")
    assert to_text(blueprint.blueprint(descriptions)) == FILE.read_text(encoding="utf-8")


def test_links_join_sockets_of_one_type_and_both_ends_know(bench: Bench, definition: dict[str, Any]) -> None:
    descriptions, nodes = bench.host.get("/object_info"), {node["id"]: node for node in definition["nodes"]}
    for link in definition["links"]:
        number, kind = link["id"], link["type"]
        if link["origin_id"] == blueprint.INSIDE:
            start = definition["inputs"][link["origin_slot"]]
            assert number in start["linkIds"] and start["type"] == kind
        else:
            origin = nodes[link["origin_id"]]
            assert descriptions[origin["type"]]["output"][link["origin_slot"]] == kind
            assert number in origin["outputs"][link["origin_slot"]]["links"]
        if link["target_id"] == blueprint.RESULT:
            end = definition["outputs"][link["target_slot"]]
            assert end["linkIds"] == [number] and end["type"] == kind
        else:
            target = nodes[link["target_id"]]
            socket = target["inputs"][link["target_slot"]]
            assert socket["link"] == number
            given, _, is_widget = input_types(descriptions[target["type"]])[socket["name"]]
            assert kind in given.split(",") and is_widget == ("widget" in socket)
    known = [socket["link"] for node in nodes.values() for socket in node["inputs"] if socket["link"] is not None]
    known += [number for end in definition["outputs"] for number in end["linkIds"]]
    assert sorted(known) == sorted(link["id"] for link in definition["links"])


def test_the_node_shows_what_is_inside(whole: dict[str, Any], definition: dict[str, Any], bench: Bench) -> None:
    node = whole["nodes"][0]
    assert node["type"] == definition["id"] and len(whole["nodes"]) == 1
    for shown, inside in ((node["inputs"], definition["inputs"]), (node["outputs"], definition["outputs"])):
        assert [(one["name"], one["type"]) for one in shown] == [(one["name"], one["type"]) for one in inside]
    descriptions, kinds = bench.host.get("/object_info"), {str(one["id"]): one["type"] for one in definition["nodes"]}
    promoted = [descriptions[kinds[number]]["input"] for number, _ in node["properties"]["proxyWidgets"]]
    names = [name for _, name in node["properties"]["proxyWidgets"]]
    assert all(
        name in {**given["required"], **given.get("optional", {})} for given, name in zip(promoted, names, strict=True)
    )
    assert len(names) == sum("widget" in one for one in node["inputs"])
    assert {"prior", "prior_captions", "make_prior", "negative"} <= {one["name"] for one in node["inputs"]}


def test_it_runs(definition: dict[str, Any], bench: Bench) -> None:
    """What the page would send: the nodes inside with the values of their widgets, the ends joined to nodes outside."""
    descriptions = bench.host.get("/object_info")
    graph: dict[str, Any] = {
        "load": {"class_type": "CustomCrafterLoadVideoCrafter2", "inputs": {"checkpoint": "customcrafter_demo", "dtype": "default"}},
        "photos": {"class_type": "CustomCrafterDemoPhotos", "inputs": {}},
    }  # fmt: skip
    outside = {
        "model": ["load", 0],
        "clip": ["load", 1],
        "vae": ["load", 2],
        "images": ["photos", 0],
        "captions": ["photos", 1],
        "prior": ["photos", 2],
        "prior_captions": ["photos", 3],
    }
    for node in definition["nodes"]:
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": widgets_of(node, descriptions[node["type"]])}
    for link in definition["links"]:
        origin = [str(link["origin_id"]), link["origin_slot"]]
        if link["origin_id"] == blueprint.INSIDE:
            origin = outside.get(definition["inputs"][link["origin_slot"]]["name"])
        if link["target_id"] == blueprint.RESULT:
            if definition["outputs"][link["target_slot"]]["name"] == "frames":
                graph["save"] = {
                    "class_type": "SaveImage",
                    "inputs": {"images": origin, "filename_prefix": "blueprint"},
                }
        elif origin is not None:  # else a widget of the node outside, which shows what is inside
            target = next(node for node in definition["nodes"] if node["id"] == link["target_id"])
            graph[str(target["id"])]["inputs"][target["inputs"][link["target_slot"]]["name"]] = origin
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    shown = bench.host.run(graph)["save"]["images"]
    assert len(shown) == 8 and (bench.host.base / "models" / "loras" / "my_subject.safetensors").is_file()
