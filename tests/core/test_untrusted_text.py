"""Text in files comes from strangers: it is shown as text, never as markup, and never steers the terminal."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from customcrafter_core.cli.main import main
from customcrafter_core.cli.terminal import printable, show_warnings
from customcrafter_core.experiments.report_folder import MANIFEST
from customcrafter_core.subject.file import save_subject
from customcrafter_core.subject.subject import LoRAFactors, Subject
from tests.core import small_reports

HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mdog\r\nusable  yes\u202egnp.exe\x9b1m"
MARKUP = '"></script><script>alert(1)</script><img src=x onerror=alert(2)>'


@pytest.fixture
def subject_file(tmp_path: Path) -> Path:
    """A subject whose every text is hostile."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {name: LoRAFactors(torch.ones(2, 8), torch.ones(8, 2))}
    subject = Subject(factors, torch.ones(1, 8), class_word=HOSTILE, base=HOSTILE, training={HOSTILE: HOSTILE})
    return save_subject(replace(subject, placeholder="<\x1b[31m>"), tmp_path / "subject.safetensors")


def is_plain(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_inspect_shows_text_as_text(subject_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(subject_file)]) == 0
    told = capsys.readouterr()
    assert is_plain(told.out) and is_plain(told.err)
    assert r"\x1b[31mdog\r\nusable  yes" in told.out
    assert [line.split()[0] for line in told.out.splitlines()].count("usable") == 1


def test_errors_show_text_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of tensors stand in errors."""
    path = tmp_path / "lora.safetensors"
    save_file({f"lora_unet_{HOSTILE}.lora_up.weight": torch.ones(2, 2)}, path)
    assert main(["inspect", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and is_plain(told.err) and len(told.err.splitlines()) == 1
    assert r"\x1b[2J" in told.err


def test_commands_and_warnings_show_text_as_text(
    subject_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(subject_file), str(tmp_path / "host"), "--for-host"]) == 0
    show_warnings()
    logging.getLogger("customcrafter_core.test").warning("Left out %s", HOSTILE)
    told = capsys.readouterr()
    assert is_plain(told.out) and is_plain(told.err)
    assert "Use in prompts" in told.out and r"Left out \x1b]0;title\x07" in told.err


def test_printable_leaves_other_scripts_alone() -> None:
    assert printable("Ünï-çødé 犬 λs 0.4 → 0.8 ✓") == "Ünï-çødé 犬 λs 0.4 → 0.8 ✓"
    assert printable("a\tb\ud800") == r"a\tb\ud800"


class Elements(HTMLParser):
    """Which elements a page has, read as a browser does."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.names.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_preference_page_holds_prompts_as_text(tmp_path: Path) -> None:
    report = small_reports.write_report(tmp_path / "report")
    assert main(["study", str(report)]) == 0
    before = Elements((report / "study.html").read_text())
    listed = json.loads((report / MANIFEST).read_text())
    for video in listed["videos"]:
        video["prompt"] = f"{video['prompt']} {MARKUP}"
    (report / MANIFEST).write_text(json.dumps(listed))
    assert main(["study", str(report)]) == 0
    page = (report / "study.html").read_text()
    after = Elements(page)
    assert "alert(1)" in page
    assert after.names == before.names and after.handlers == before.handlers == []
