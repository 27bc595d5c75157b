"""The core imports no host and opens no connection: on import, when it tokenizes, loads a model and samples."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from tests.core import tiny_models
from tools import floor_plan

ROOT = Path(__file__).parents[2]
CORE = ROOT / "customcrafter_core"
HOST_MODULES = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "execution", "nodes"}
NETWORK_EVENTS = ["socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"]

WATCH = f"""
import json, pkgutil, sys
opened = []
def watch(event, args):
    if event in {NETWORK_EVENTS} and not (event == "socket.connect" and isinstance(args[1], str)):  # a str is a local Unix socket
        opened.append([event, repr(args[1:] or args)])
sys.addaudithook(watch)
"""
IMPORT_ALL = """
import customcrafter_core
names = [info.name for info in pkgutil.walk_packages(customcrafter_core.__path__, "customcrafter_core.", onerror=print)]
names = [name for name in names if not name.endswith(".__main__")]
for name in names:
    __import__(name)
"""
SAMPLE = """
from customcrafter_core.base_model.text import PromptTokenizer
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.settings import VideoSettings
assert PromptTokenizer({"<new1>": 1})(["a <new1> dog"])[0, :5].tolist() == [49406, 320, 49408, 1929, 49407]
assert generate(load_videocrafter2(sys.argv[1]), VideoSettings("a dog", steps=1)).latent.isfinite().all()
"""
REPORT = """
print(json.dumps({"opened": opened, "names": names, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def run(code: str, *arguments: str) -> Any:
    """Run code in a process that thinks it is online; gives what it printed last."""
    online = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=online, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny_models.write(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", tiny_models.state_dict())
    return run(WATCH + IMPORT_ALL + SAMPLE + REPORT, str(path))


def test_every_module_of_the_core_can_be_imported(imported: Any) -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in CORE.rglob("*.py")
        if path.name != "__main__.py"
    }
    assert set(imported["names"]) | {"customcrafter_core"} == files
    assert len(files) > 30


def test_importing_the_core_imports_no_host(imported: Any) -> None:
    assert "customcrafter_core" in imported["modules"] and "torch" in imported["modules"]
    assert not HOST_MODULES & set(imported["modules"])


def test_neither_importing_nor_sampling_opens_a_connection(imported: Any) -> None:
    assert imported["opened"] == []


@pytest.mark.parametrize(
    "attempt", ["socket.create_connection(('127.0.0.1', 9), timeout=1)", "urllib.request.urlopen('http://localhost:9')"]
)
def test_a_connection_would_have_been_seen(attempt: str) -> None:
    tried = f"import socket, urllib.request\ntry:\n    {attempt}\nexcept OSError:\n    pass\nnames = []\n"
    assert run(WATCH + tried + REPORT)["opened"]


def test_no_line_of_the_core_names_the_host() -> None:
    """Imports inside functions included, which importing the modules would not show."""
    seen = 0
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            else:
                continue
            seen += len(modules)
            wrong = [module for module in modules if module.partition(".")[0] in HOST_MODULES]
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
    assert seen > 100


FLOORS = [
    "errors", "intervals", "files", "diffusion", "base_model", "subject", "output", "memory", "sampling", "evaluation",
    "training", "experiments", "demo", "cli", "__main__",
]  # fmt: skip
"""Rooms of the core from below; imports may only point down."""


def test_imports_point_down() -> None:
    checked = 0
    for path in CORE.rglob("*.py"):
        room, *inside = path.relative_to(CORE).with_suffix("").parts
        if room == "__init__":
            continue
        for target in imported_in(path):
            if target.startswith("customcrafter_core."):
                assert FLOORS.index(target.split(".")[1]) <= FLOORS.index(room), f"{room}/{inside} imports {target}"
                checked += 1
    assert checked > 300


def imported_in(path: Path) -> Iterator[str]:
    """The modules of the pack that a file imports anywhere: inside functions and for the type checker only, too."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = [*parts[: len(parts) - node.level], *filter(None, (node.module or "").split("."))]
            for alias in node.names:
                is_module = (ROOT.joinpath(*package) / f"{alias.name}.py").is_file()
                yield ".".join([*package, alias.name] if is_module else package)


def test_families_of_nodes_do_not_import_one_another() -> None:
    families = {"loading", "subjects", "weights", "sampling", "training", "evaluation", "sweep", "onset"}
    assert all((ROOT / "nodes" / f"{name}.py").is_file() for name in families)
    for path in (ROOT / "nodes").rglob("*.py"):
        if path.name != "__init__.py":
            found = {target.removeprefix("nodes.") for target in imported_in(path)} & families
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


@pytest.mark.parametrize(("folder", "least"), [("customcrafter_core", 200), ("nodes", 60)])
def test_no_imports_go_round_in_a_circle(folder: str, least: int) -> None:
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): set(imported_in(path))
        for path in (ROOT / folder).rglob("*.py")
    }
    assert sum(map(len, graph.values())) > least
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_the_floor_plan_is_that_of_today() -> None:
    assert floor_plan.svg() == floor_plan.PICTURE.read_text(encoding="utf-8"), "run python -m tools.floor_plan"
    assert set(FLOORS) - {"__main__"} | {"nodes"} == set(floor_plan.rooms())


def test_the_page_for_maintainers_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|json))`", page))
    folders = [ROOT, CORE, ROOT / "nodes" / "native", ROOT / "tests" / "host"]
    assert len(named) > 20
    assert not {name for name in named if not any((folder / name).is_file() for folder in folders)}
