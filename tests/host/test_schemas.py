"""Saved workflows keep loading: a snapshot of every node's id, inputs, order, types and defaults."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from bench import Bench
from running_host import PACK, ROOT, host_python

SNAPSHOT = Path(__file__).parent / "schemas.json"
FOLLOWS_THE_HOST = {"sampler_name", "scheduler"}  # their choices grow with the host


def ours(bench: Bench) -> dict[str, Any]:
    """This pack's nodes as the host describes them."""
    nodes = bench.host.get("/object_info")
    return {name: node for name, node in sorted(nodes.items()) if name.startswith("CustomCrafter")}


def described(node: dict[str, Any]) -> dict[str, Any]:
    """What a saved workflow depends on."""
    inputs = []
    for kind in ("required", "optional"):
        for name in node["input_order"].get(kind, []):
            type_, more = (*node["input"][kind][name], {})[:2]
            if isinstance(type_, list):  # how older hosts write a choice
                type_ = "COMBO"
            type_ = type_.split(",")[0]  # newer hosts also take a CURVE where older ones take its text
            inputs.append([name, type_, kind, more.get("default"), more.get("min"), more.get("max")])
    return {"inputs": inputs, "outputs": [list(pair) for pair in zip(node["output"], node["output_name"], strict=True)]}


def test_schemas_are_the_snapshot(bench: Bench) -> None:
    found = {name: described(node) for name, node in ours(bench).items()}
    if os.environ.get("UPDATE_SNAPSHOT"):
        lines = [f"{json.dumps(name)}: {json.dumps(node, ensure_ascii=False)}" for name, node in found.items()]
        SNAPSHOT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert found == json.loads(SNAPSHOT.read_text())


def test_everything_is_explained(bench: Bench) -> None:
    for name, node in ours(bench).items():
        assert node["description"], name
        for kind in ("required", "optional"):
            for given, (_, *more) in node["input"].get(kind, {}).items():
                assert more and more[0].get("tooltip"), f"{name}.{given}"
        assert all(node["output_tooltips"]), name


def test_every_node_has_a_help_page(bench: Bench) -> None:
    for name in ours(bench):
        address = f"http://127.0.0.1:{bench.host.port}/extensions/{PACK}/docs/{name}.md"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.read().decode().startswith("# "), name
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(ours(bench))


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
