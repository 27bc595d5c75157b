"""Every command that a page of the project tells people to type is one that exists, with options that exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.__main__ import options_of
from customcrafter_core.cli import demo
from customcrafter_core.cli.main import parser_for
from tests.host.running_host import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md")
PYTHON = ".venv/bin/python"
MAKE = (ROOT / "Makefile").read_text(encoding="utf-8")
OTHERS = {"cd", "git", "comfy"}
"""Programs whose options are not ours to check."""


def written(page: str) -> list[str]:
    """The commands in a page's blocks and, in the text, those that begin with one of ours."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if block[0] != "@"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    begins = ("make ", PYTHON, "python -m", "accelerate ", "pip ", "comfy ")
    return lines + [command for command in inline if command.startswith(begins)]


ALL = [(page, command) for page in PAGES for command in written(page)]


def words_of(command: str) -> list[str]:
    """Without variables before it and a remark behind it."""
    words = shlex.split(command.partition(" #")[0].replace("…", ""))
    while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        name = words.pop(0).partition("=")[0]
        assert any(f'"{name}"' in path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return words


def check_make(words: list[str]) -> None:
    """A target of the Makefile; its ARGS are those of what it runs."""
    target, given = words[1], dict(word.split("=", 1) for word in words[2:])
    assert re.search(rf"^{target}:", MAKE, re.MULTILINE), f"no target {target}"
    assert all(re.search(rf"^{name} \?=", MAKE, re.MULTILINE) for name in given), f"unknown variable in {given}"
    arguments = shlex.split(given.get("ARGS", ""))
    if target == "bench":
        options_of(arguments)
    for path in (word for word in arguments if word.startswith("tests/")):
        assert (ROOT / path).is_file(), path


def check_module(words: list[str]) -> None:
    """``python -m``: the module is there, and the pack's own commands take the options."""
    assert words[1] == "-m", words
    module, arguments = words[2], words[3:]
    assert importlib.util.find_spec(module) is not None, module
    if module == "customcrafter_core" and arguments:
        given = demo.with_subcommand(arguments)
        if given[-1] == "--help":
            with pytest.raises(SystemExit, match="0"):
                parser_for(given).parse_args(given)
        else:
            parser_for(given).parse_args(given)
    elif module == "benchmarks":
        options_of([argument for argument in arguments if argument not in ("--videocrafter", "PATH")])
    else:
        assert arguments in ([], ["--help"]), "a test has to know its options"


def check_accelerate(words: list[str]) -> None:
    """The launcher is there, and what it launches."""
    assert shutil.which("accelerate", path=str(Path(sys.executable).parent))
    module = words.index("-m")
    assert words[1] == "launch" and importlib.util.find_spec(words[module + 1]) is not None
    assert words[module + 2] == "train"


def check_pip(words: list[str]) -> None:
    """It installs from a file that is there."""
    assert words[1:3] == ["install", "-r"] and (ROOT / Path(words[3]).name).is_file(), words


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make, "python": check_module, PYTHON: check_module, "accelerate": check_accelerate, "pip": check_pip,
}  # fmt: skip


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{page}: {command[:60]}" for page, command in ALL])
def test_it_exists(page: str, command: str) -> None:
    words = words_of(command)
    assert words[0] in CHECKS or words[0] in OTHERS, f"{page}: no check knows {words[0]}"
    if words[0] in CHECKS:
        CHECKS[words[0]](words)


def test_commands_are_found() -> None:
    assert sum(page == "README.md" for page, _ in ALL) > 12 and ("README.md", "comfy node install customcrafter") in ALL
