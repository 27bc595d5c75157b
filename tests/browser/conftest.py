"""Fixtures: the page of a host in Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_host import RunningHost

BROWSER = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = Path(__file__).parents[2] / "output" / "screenshots"
HARMLESS = re.compile(
    r"Failed to load resource: .* \(http://127\.0\.0\.1:\d+/(user\.css|favicon\.ico|api/userdata[/?]\S*)\)"  # none there
    r"|Failed to load resource: .* \(https://[\w.-]+\.comfy\.org/\S*\)"  # the page's own services, where there is no net
    r"|ComfyApp graph accessed before initialization.*"
    r"|Attempted to cleanup event listeners for graph that was never set up .*"  # 0.3.64's small map, when put away
    r"|(Connecting to|Fetch API cannot load) '?https://huggingface\.co/Comfy-Org/.*"  # models of the page's first workflow
)
AT_START = re.compile(r"Cannot read properties of undefined \(reading 'id'\)")  # the page of 0.3.64, of itself


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="PLAYWRIGHT MISSING: pip install playwright")
    if BROWSER is None:
        pytest.skip("NO CHROMIUM FOUND: install Debian's, or set CHROMIUM_PATH")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(host: RunningHost, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The host's page, ready; a screenshot of its end is kept, also when the test fails or the page never gets ready."""
    page = browser.new_page(viewport={"width": 1600, "height": 950})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(said(line)) if line.type == "error" else None)
    try:
        page.goto(f"http://127.0.0.1:{host.port}/")
        page.wait_for_function(
            "() => !!(window.app && window.app.graph && window.LiteGraph"
            " && LiteGraph.registered_node_types['CustomCrafterDynamicWeightedKSampler'])",
            timeout=120_000,
        )
        page.wait_for_timeout(1500)
        problems[:] = [problem for problem in problems if not AT_START.fullmatch(problem)]
        yield page
    finally:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{request.node.name.replace('[', ' ').replace(']', '')}.png")
        page.close()
    assert [problem for problem in problems if not HARMLESS.fullmatch(problem)] == []


def said(line: Any) -> str:
    """An error in the console, with the address it is about."""
    return f"{line.text} ({line.location['url']})"
