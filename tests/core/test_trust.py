"""What the shipped code cannot do: read from its text, so that a slip is seen before it ships (not proof against malice)."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator

import pytest
from packaging.requirements import Requirement

from tests.core.shipped import shipped_files
from tests.host.running_host import ROOT

DYNAMIC_CODE = {"eval", "exec", "compile", "__import__", "breakpoint"}
FORBIDDEN_MODULES = {
    "subprocess", "pty", "socket", "socketserver", "ssl", "http", "urllib", "ftplib", "smtplib", "poplib", "imaplib",
    "telnetlib", "xmlrpc", "webbrowser", "requests", "httpx", "aiohttp", "websocket", "websockets", "huggingface_hub",
    "ctypes", "cffi", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "codeop", "builtins", "pip",
}  # fmt: skip
FORBIDDEN_CALLS = re.compile(
    r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*|fork\w*|startfile)|importlib\.import_module"
    r"|torch\.(hub|package|jit)(\..*)?|torch\.utils\.cpp_extension.*|sys\.path\.\w+|.*\bhf_hub_download|.*\bsnapshot_download"
    r"|.*\badd_safe_globals|.*\bload_url|.*\bload_state_dict_from_url|pickle\.(?!UnpicklingError).*"
    r"|asyncio\.(create_subprocess_\w+|open_(unix_)?connection|start_(unix_)?server|subprocess.*)"
    r"|.*\.(create_(unix_)?(connection|server)|create_datagram_endpoint|subprocess_(exec|shell))"
)
HOST = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "latent_preview", "node_helpers"}
OPTIONAL = {"torchvision", "pillow_heif"}
ANSWERS = "aiohttp.web"  # what ComfyUI's own server is answered with
FORBIDDEN_SCRIPT = re.compile(
    r"\beval\s*\(|\bFunction\s*\(|\.innerHTML|\.outerHTML|insertAdjacentHTML|document\.write|XMLHttpRequest|WebSocket"
    r"|sendBeacon|EventSource|importScripts|\bfetch\s*\(|\bimport\s*\(|https?://(?!www\.w3\.org/)"
)


Names = dict[str, str]
"""What a name of a module stands for, by its imports: after ``import os as o``, o is os."""


def dotted(node: ast.AST, names: Names | None = None) -> str:
    """``a.b.c`` of a name or attribute, imported names written out; empty for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return (names or {}).get(node.id, node.id) if isinstance(node, ast.Name) else ""


def names_of(tree: ast.AST) -> Names:
    """Every name that a module imports absolutely, anywhere in it, under the one that it uses."""
    names: Names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules_of(node: ast.AST) -> list[str]:
    """What a statement imports absolutely: modules, and what it takes out of them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or node.level:
        return []
    return [f"{node.module}.{alias.name}" for alias in node.names]


def is_true(call: ast.Call, name: str) -> bool:
    """Whether a call says ``name=True``, itself or by a literal dictionary of the same function."""
    given = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return isinstance(given, ast.Constant) and given.value is True


def local_only(call: ast.Call, dictionaries: dict[str, ast.Dict]) -> bool:
    """Whether ``from_pretrained`` reads files alone."""
    if is_true(call, "local_files_only"):
        return True
    spread = [dictionaries.get(dotted(keyword.value)) for keyword in call.keywords if keyword.arg is None]
    return any(
        isinstance(key, ast.Constant) and key.value == "local_files_only" and getattr(value, "value", None) is True
        for content in spread if content is not None
        for key, value in zip(content.keys, content.values, strict=True)
    )  # fmt: skip


def faults(text: str) -> Iterator[str]:
    """What a module does that a shipped one must not."""
    tree = ast.parse(text)
    names = names_of(tree)
    dictionaries = {
        dotted(target): node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    for node in ast.walk(tree):
        for module in modules_of(node):
            root = module.partition(".")[0]
            if module == ANSWERS or (isinstance(node, ast.Import) and module == "nodes"):  # ComfyUI's own module
                continue
            if root in FORBIDDEN_MODULES or FORBIDDEN_CALLS.fullmatch(module):
                yield f"imports {module}"
            elif module.endswith(".*"):
                yield f"imports {module}, whatever that is"
            elif root not in sys.stdlib_module_names | HOST | OPTIONAL | known_packages() | {"__future__"}:
                yield f"imports {module}, which the pack does not ask for"
        if isinstance(node, ast.Name) and node.id in DYNAMIC_CODE and isinstance(node.ctx, ast.Load):
            yield node.id
        if isinstance(node, ast.Attribute | ast.Name) and FORBIDDEN_CALLS.fullmatch(dotted(node, names)):
            yield dotted(node, names)
        if isinstance(node, ast.Call):
            yield from faults_of_call(node, dictionaries, names)


def faults_of_call(call: ast.Call, dictionaries: dict[str, ast.Dict], names: Names) -> Iterator[str]:
    """What a call does that it must not."""
    name = dotted(call.func, names) or getattr(call.func, "attr", "")
    if name == "torch.load" and not is_true(call, "weights_only"):
        yield "torch.load without weights_only=True"
    if name.rpartition(".")[2] == "from_pretrained" and not local_only(call, dictionaries):
        yield f"{name} without local_files_only=True"
    for risky in ("allow_pickle", "trust_remote_code", "shell"):
        if is_true(call, risky):
            yield f"{risky}=True"
    if name in ("Image.open", "PIL.Image.open") and not any(keyword.arg == "formats" for keyword in call.keywords):
        yield "Image.open without formats: some of Pillow's start other programs"


def known_packages() -> set[str]:
    """What ``requirements.txt`` names, as it is imported."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {Requirement(line).name for line in lines if line.strip() and not line.startswith("#")}
    return {"PIL" if name == "Pillow" else name for name in names}


SCANNED = re.compile(
    r"os\.environ|os\.getenv|os\.putenv|\bimport (?:pickle|pickletools|base64|ctypes|subprocess|socket|requests)\b|importlib\."
    r"|sys\.modules|tempfile\.gettempdir|raw\.githubusercontent\.com|\.bind\(|\.connect\(|\bsudo\b|\brunas\b|\bffmpeg\b|\bcurl\b"
)
"""What the registry's scanner is known to report, at its lowest level too; it hides a version that it reports."""


def test_what_a_scanner_reports_is_explained() -> None:
    """Each finding that is left stands in SECURITY.md with its reason, and nothing stands there that is not left."""
    found = {
        (match[0].removeprefix("import "), name)
        for name in shipped(".py", ".js", ".toml", ".html", ".json", ".txt")
        for match in SCANNED.finditer((ROOT / name).read_text(encoding="utf-8"))
    }
    told = re.findall(
        r"^\| `([^`]+)` \| `([^`]+)` \|", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found == set(told) and found


def shipped(*endings: str) -> list[str]:
    return [name for name in shipped_files() if name.endswith(endings)]


@pytest.mark.parametrize("name", shipped(".py"))
def test_code(name: str) -> None:
    found = list(faults((ROOT / name).read_text(encoding="utf-8")))
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')", "exec(text)", "compile(text, '', 'exec')", "run = eval", "import subprocess", "from socket import socket",
        "import urllib.request", "from urllib import request", "import requests", "import aiohttp", "import os\nos.system('ls')",
        "import os\nos.execv('a', [])", "import torch\ntorch.load(p)", "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)", "import pickle\npickle.loads(b)", "from pickle import loads", "pickle.Unpickler(f)",
        "from huggingface_hub import hf_hub_download", "Model.from_pretrained('org/name')",
        "Model.from_pretrained(p, local_files_only=False)", "more = {'a': 1}\nModel.from_pretrained(p, **more)",
        "import customcrafter_core", "from customcrafter.nodes import x", "from nodes import x", "import utils",
        "import sys\nsys.path.insert(0, p)", "np.load(p, allow_pickle=True)", "torch.hub.load('a', 'b')", "import ctypes",
        "import importlib\nimportlib.import_module(n)", "__import__(n)", "Image.open(path)", "import torch.utils.cpp_extension",
        "from torch.hub import load_state_dict_from_url\nload_state_dict_from_url(u)", "torch.serialization.add_safe_globals([x])",
        "from os import system", "from os import system as run", "import os as o\no.system('ls')", "import os.path\nos.system('ls')",
        "from os import *", "from torch import load\nload(p)", "from torch import load as read\nread(p)", "import torch as t\nt.load(p)",
        "from torch import hub", "from torch.utils import cpp_extension", "from importlib import import_module",
        "import importlib as i\ni.import_module(n)", "from sys import path\npath.append(p)", "import pickle as p\np.loads(b)",
        "import asyncio\nasyncio.create_subprocess_exec('ls')", "from asyncio import create_subprocess_shell",
        "import asyncio\nasyncio.open_connection('a', 1)", "import asyncio as a\na.start_server(f)", "loop.create_connection(f)",
        "def f():\n    from os import popen", "from PIL.Image import open as read\nread(p)", "from PIL import Image as I\nI.open(p)",
        "from builtins import eval as e", "from asyncio import subprocess",
    ],
)  # fmt: skip
def test_what_would_be_seen(line: str) -> None:
    assert list(faults(line))


def test_what_is_allowed() -> None:
    allowed = """
import re, os, pickle, torch, asyncio
import os as o
from os import replace
from pickle import UnpicklingError
from torch import load as read
from PIL import Image as I
from . import customcrafter_core
from ..customcrafter_core import errors
re.compile("x"); model.eval(); os.replace(a, b)
torch.load(p, weights_only=True); read(p, weights_only=True)
o.replace(a, b); asyncio.run(f()); self.load(p); I.open(p, formats=["PNG"]); open(p)
options = {"local_files_only": True}
A.from_pretrained(p, **options); B.from_pretrained(p, local_files_only=True)
try: pass
except pickle.UnpicklingError: pass
"""
    assert list(faults(allowed)) == []


@pytest.mark.parametrize(
    "line",
    [
        "fetch('/x')", "window.fetch (x)", "new EventSource('/x')", "new WebSocket(u)", "navigator.sendBeacon(u)",
        "importScripts('a.js')", "eval('1')", "new Function('1')", "x.innerHTML = y", "import('a.js')", "'https://a.b/c.js'",
    ],
)  # fmt: skip
def test_what_would_be_seen_in_scripts(line: str) -> None:
    assert FORBIDDEN_SCRIPT.search(line) and not FORBIDDEN_SCRIPT.search("prefetched(x); import { a } from './a.js'")


@pytest.mark.parametrize("name", shipped(".js", ".html"))
def test_scripts(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not FORBIDDEN_SCRIPT.findall(text)
    if "<script" in text and name.endswith(".html"):
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
        assert policy is not None and policy[1].startswith("default-src 'none'") and "http" not in policy[1]


@pytest.mark.parametrize("name", shipped(".md", ".json"))
def test_help_and_workflows_hold_no_scripts(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    scripts: Callable[[str], list[str]] = re.compile(
        r"<\s*(script|iframe|object|embed)\b|javascript:|\bon\w+\s*=\s*[\"']", re.IGNORECASE
    ).findall
    assert not scripts(text)
    links = re.findall(r"!\[[^]]*\]\((https?://[^)]+)\)|<(?:img|video|source)[^>]+src=[\"'](https?://[^\"']+)", text)
    assert not links  # reading the help tells nobody
