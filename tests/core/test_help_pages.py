"""The help pages of the nodes: each shows a picture of its effect, and they stay small."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from tests.host.running_host import ROOT
from tools.help_pictures import FOLDER, OURS, PICTURES

DOCS = ROOT / "web" / "docs"
LARGEST = 1_500_000  # bytes, all together
SCHEMAS = json.loads((ROOT / "tests" / "host" / "schemas.json").read_text(encoding="utf-8"))
SYMBOLS = {"lambda_s": "λs", "lambda_l": "λl", "k": "K"}
"""How the paper calls them, and the pages."""


def test_every_page_shows_its_picture() -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    assert pages.keys() == {OURS + name for name in PICTURES}
    for name, page in pages.items():
        shown = re.findall(r"!\[([^]]+)\]\(([^)]+)\)", page)
        assert [path for _, path in shown] == [f"pictures/{name}.png"] and len(shown[0][0].split()) > 3, name
        with Image.open(DOCS / shown[0][1]) as picture:
            assert picture.width >= 300 and picture.height >= 80, name
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 8, f"{name}: there is something to see"


def not_named(page: str, names: list[str]) -> list[str]:
    """Those that stand nowhere in a page as words in bold."""
    told = "\n".join(re.findall(r"\*\*([^*]+)\*\*", page))
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", told)]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_input_is_named(kind: str) -> None:
    names = [given["name"] for given in SCHEMAS[kind]["inputs"]]
    page = (DOCS / f"{kind}.md").read_text(encoding="utf-8")
    assert not [name for name in not_named(page, names) if not_named(page, [SYMBOLS.get(name, name)])]
    chinese = (DOCS / kind / "zh.md").read_text(encoding="utf-8")
    inputs = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))[kind]["inputs"]
    called = [SYMBOLS.get(name) or re.split("（", inputs[name]["name"])[0] for name in names]
    assert not not_named(chinese, called)


def test_a_name_in_passing_is_not_enough() -> None:
    assert not_named("a frame rate; **fps** and **clip, vae**, `dtype`", ["fps", "vae", "rate", "dtype", "ae"]) == [
        "rate", "dtype", "ae",
    ]  # fmt: skip


def test_no_picture_lies_about_and_all_are_small() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {OURS + name for name in PICTURES}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST


def test_chinese_pages_say_the_same() -> None:
    """As far as a test can tell: the same title as the node, picture, code, and as many points, rows and sections."""
    titles = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    for english in DOCS.glob("*.md"):
        chinese = DOCS / english.stem / "zh.md"  # where the page looks first
        one, other = english.read_text(encoding="utf-8"), chinese.read_text(encoding="utf-8")
        assert other.startswith(f"# {titles[english.stem]['display_name']}\n")
        for pattern in (r"\]\((\S+)\)", r"^(- |\| |## |    )", r"`([^`]+)`"):
            told, retold = (re.findall(pattern, page, re.MULTILINE) for page in (one, other))
            assert set(told) == set(retold) and len(told) == len(retold), english.stem
    assert {path.stem for path in DOCS.glob("*.md")} == {path.parent.name for path in DOCS.glob("*/zh.md")}
