"""Saved workflows keep loading: a snapshot of every node's id, inputs, order, types and defaults."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from tests.host.bench import Bench
from tests.host.running_host import PACK, ROOT, host_python
from tools.schemas import input_type

SNAPSHOT = Path(__file__).parent / "schemas.json"
FOLLOWS_THE_HOST = {  # choices that grow with the host: whose they are
    "sampler_name": ("KSampler", "sampler_name"),
    "scheduler": ("KSampler", "scheduler"),
    "checkpoint": ("CheckpointLoaderSimple", "ckpt_name"),
    "subject": ("LoraLoader", "lora_name"),
    "lora": ("LoraLoader", "lora_name"),
}
KEPT = (
    "default",
    "min",
    "max",
    "step",
    "round",
    "display",
    "control_after_generate",
    "multiline",
    "advanced",
    "forceInput",
)
CURVE = ",CURVE"  # what newer hosts also take where older ones take the text of a curve


def described(node: dict[str, Any], descriptions: dict[str, Any]) -> dict[str, Any]:
    """What a saved workflow and the page depend on."""
    inputs = []
    for kind in ("required", "optional"):
        for name in node["input_order"].get(kind, []):
            given, options, _ = input_type(node["input"][kind][name])
            kept = {key: options[key] for key in KEPT if options.get(key) is not None}
            if given == "COMBO":
                kept["options"] = own_choices(name, options["options"], descriptions)
            inputs.append({"name": name, "type": given, "kind": kind, **kept})
    outputs = [list(row) for row in zip(node["output"], node["output_name"], node["output_is_list"], strict=True)]
    names = {key: node[key] for key in ("display_name", "category", "output_node")}
    return {**names, "inputs": inputs, "outputs": outputs}


def own_choices(name: str, choices: list[str], descriptions: dict[str, Any]) -> list[str]:
    """The choices that this pack brings."""
    if name not in FOLLOWS_THE_HOST:
        return choices
    node, theirs = FOLLOWS_THE_HOST[name]
    _, options, _ = input_type(descriptions[node]["input"]["required"][theirs])
    return [choice for choice in choices if choice not in options["options"]]


def test_schemas_are_the_snapshot(bench: Bench) -> None:
    descriptions, own = bench.host.get("/object_info"), bench.own_nodes()
    assert own and all(name.startswith("CustomCrafter") for name in own), "ids that no other pack has"
    found = {name: described(node, descriptions) for name, node in own.items()}
    curves = "CurveEditor" in descriptions
    if os.environ.get("UPDATE_SNAPSHOT") and curves:
        SNAPSHOT.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    expected = SNAPSHOT.read_text()
    assert found == json.loads(expected if curves else expected.replace(CURVE, ""))


def test_everything_is_explained(bench: Bench) -> None:
    """In words: a name, a description, a place in the menu, other words to find it by, and a text for every socket."""
    finds = "search_aliases" in next(iter(bench.own_nodes().values()))  # newer hosts only
    for name, node in bench.own_nodes().items():
        assert node["description"] and " " in node["display_name"], name
        assert node["category"].partition("/")[0] == "CustomCrafter", name
        assert not finds or len(node["search_aliases"]) >= 2, name
        for kind in ("required", "optional"):
            for given, (_, *more) in node["input"].get(kind, {}).items():
                assert more and more[0].get("tooltip"), f"{name}.{given}"
        assert len(node["output_tooltips"]) == len(node["output"]) and all(node["output_tooltips"]), name


def test_every_node_has_a_help_page(bench: Bench) -> None:
    for name in bench.own_nodes():
        address = f"http://127.0.0.1:{bench.host.port}/extensions/{PACK}/docs/{name}.md"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.read().decode().startswith("# "), name
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(bench.own_nodes())


def test_import_is_quick_and_loads_nothing_heavy(bench: Bench) -> None:
    """Measured in a fresh process of the host's interpreter, after what the host imports itself."""
    code = f"""
import sys, time
sys.path.insert(0, {str(bench.host.folder)!r}); sys.argv = ["main.py", "--cpu"]
import comfy.options; comfy.options.enable_args_parsing()
import comfy.samplers, comfy.sd, folder_paths, latent_preview, nodes as host_nodes
from comfy_api.latest import io
before = set(sys.modules)
import asyncio, importlib.util, time
start = time.process_time()
spec = importlib.util.spec_from_file_location("pack_under_test", {str(ROOT / "__init__.py")!r})
pack = importlib.util.module_from_spec(spec); sys.modules["pack_under_test"] = pack
spec.loader.exec_module(pack)
nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
for node in nodes: node.GET_SCHEMA()
print(time.process_time() - start)
print(sorted(name for name in set(sys.modules) - before if name in ("diffusers", "peft", "accelerate")))
"""
    done = subprocess.run(
        [host_python(bench.host.folder), "-c", code], capture_output=True, text=True, cwd=bench.host.folder, check=True
    )
    seconds, heavy = done.stdout.strip().splitlines()[-2:]
    assert float(seconds) < 0.3
    assert heavy == "[]"
