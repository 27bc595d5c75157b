"""The benchmark's report as a person sees it: the short demo benchmark, made from scratch, opened as a file in Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from customcrafter_core.cli.main import main
from customcrafter_core.demo import world
from customcrafter_core.experiments.benchmark_report import PAGE
from customcrafter_core.experiments.paper_tables import TABLE_1
from tests.browser.host_page import PATIENCE, SHOTS
from tests.host.running_host import ROOT

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


def played(page: Any, video: Any, then: str) -> Any:
    """Scroll a video into view, wait until it plays, and ask something about it."""
    video.scroll_into_view_if_needed()
    page.wait_for_function("video => video.videoWidth > 0 && !video.paused && video.currentTime > 0", arg=video)
    return video.evaluate(f"video => {{ {then} }}")


def test_of_many_videos_only_those_in_view_have_a_player(browser: Any, report: Path) -> None:
    text = (report / PAGE).read_text(encoding="utf-8")
    start, end = text.index("<h3>"), text.index("<script>")
    (report / "many.html").write_text(text[:start] + text[start:end] * 40 + text[end:], encoding="utf-8")
    context = browser.new_context(viewport={"width": 1100, "height": 950}, offline=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto((report / "many.html").as_uri())
    videos = page.query_selector_all("video")
    height = page.evaluate("document.documentElement.scrollHeight")
    assert len(videos) > 300
    for video in (videos[0], videos[len(videos) // 2], videos[-1]):
        played(page, video, "")
        page.wait_for_function("() => [...document.querySelectorAll('video[src]')].length < 60")
    page.wait_for_function(
        "first => first.paused && first.networkState === HTMLMediaElement.NETWORK_EMPTY", arg=videos[0]
    )
    assert page.evaluate("document.documentElement.scrollHeight") == height  # nothing jumps when a video is loaded
    context.close()


def test_videos_can_be_played_without_scripts(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto((report / PAGE).as_uri())
    shown = [video for video in page.query_selector_all("video") if video.is_visible()]
    assert len(shown) == len(list((report / "cells").rglob("*.mp4")))
    for video in shown:
        assert video.get_attribute("controls") is not None and (report / video.get_attribute("src")).is_file()
    context.close()


def test_report_in_the_browser(browser: Any, report: Path) -> None:
    context = browser.new_context(viewport={"width": 1100, "height": 950}, offline=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.goto((report / PAGE).as_uri())
    methods = json.loads(CONFIG.read_text(encoding="utf-8"))["methods"]
    videos = [
        played(page, video, "return [video.videoWidth, ...(r => [r.width, r.height])(video.getBoundingClientRect())]")
        for video in page.query_selector_all("video")
    ]
    assert len(videos) == 2 * len(methods)
    assert all(width == 8 * world.SIDE and shown >= 96 and high == shown for width, shown, high in videos), videos
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
