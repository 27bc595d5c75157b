"""The benchmark's report as a person sees it: the short demo benchmark, made from scratch, opened as a file in Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running_host import ROOT

from customcrafter_core.cli.main import main
from customcrafter_core.demo import world
from customcrafter_core.evaluation.paper_tables import TABLE_1

SHOTS = ROOT / "output" / "screenshots"
CONFIG = ROOT / "benchmarks" / "demo_short.json"
TRAINING_STEPS, STEPS = 12, 6


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the shipped config with fewer steps."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    for subject in config["subjects"]:
        subject |= {name: str(CONFIG.parent / subject[name]) for name in ("photos", "prior")}
    config["training"]["steps"], config["steps"] = TRAINING_STEPS, STEPS
    folder = tmp_path_factory.mktemp("report")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["benchmark", str(folder / "config.json"), "--out", str(folder / "made")]) == 0
    return folder / "made"


def test_report_in_the_browser(browser: Any, report: Path) -> None:
    context = browser.new_context(viewport={"width": 1100, "height": 950}, offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.goto((report / "report.html").as_uri())
    page.wait_for_function("() => [...document.querySelectorAll('video')].every(v => v.videoWidth > 0)")
    methods = json.loads(CONFIG.read_text(encoding="utf-8"))["methods"]
    videos = page.eval_on_selector_all("video", "all => all.map(v => [v.videoWidth, v.getBoundingClientRect().width])")
    assert len(videos) == 2 * len(methods)
    assert all(width == 8 * world.SIDE and shown >= 96 for width, shown in videos), videos
    text = page.inner_text("body")
    ours = next(row for row in TABLE_1 if row.method == "customcrafter")
    assert "Demo world, short" in text and all(f"{value:.3f}" in text for value in ours.values), (
        "the paper's, beside ours"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "benchmark report.png", full_page=True)
    context.close()
    assert problems == []
