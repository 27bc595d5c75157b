"""The help pages of the nodes: each shows a picture of its effect, and they stay small."""

from __future__ import annotations

import re

from PIL import Image
from running_host import ROOT

from tools.help_pictures import FOLDER, OURS, PICTURES

DOCS = ROOT / "web" / "docs"
LARGEST = 1_500_000  # bytes, all together


def test_every_page_shows_its_picture() -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    assert pages.keys() == {OURS + name for name in PICTURES}
    for name, page in pages.items():
        shown = re.findall(r"!\[([^]]+)\]\(([^)]+)\)", page)
        assert [path for _, path in shown] == [f"pictures/{name}.png"] and len(shown[0][0].split()) > 3, name
        with Image.open(DOCS / shown[0][1]) as picture:
            assert picture.width >= 300 and picture.height >= 80, name
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 8, f"{name}: there is something to see"


def test_no_picture_lies_about_and_all_are_small() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {OURS + name for name in PICTURES}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST
