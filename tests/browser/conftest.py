"""Fixtures: the page of a host in Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.host_page import HARMLESS, Tab
from tests.host.running_host import RunningHost, found_hosts

BROWSER = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(
    scope="session", params=found_hosts() or [None], ids=lambda folder: folder.name if folder else "no host"
)
def host(request: pytest.FixtureRequest, run_host: Any) -> Iterator[RunningHost]:
    """A host that no other tests have used: what the page shows is as it was at its start."""
    with run_host(request.param) as running:
        yield running


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


@pytest.fixture(scope="module")
def tabs(host: RunningHost, browser: Any) -> Iterator[list[Tab]]:
    """The one tab that the tests of a file share; none before the first, and after one that failed."""
    opened: list[Tab] = []
    yield opened
    for tab in opened:
        tab.page.close()


@pytest.fixture
def page(host: RunningHost, browser: Any, tabs: list[Tab], request: pytest.FixtureRequest) -> Iterator[Any]:
    """The host's page with an empty workflow; a screenshot of its end is kept, also when the test fails."""
    tab = tabs.pop() if tabs else Tab.of(browser, host, request.node.name)
    failed, is_whole = request.session.testsfailed, False
    try:
        tab.blank()
        yield tab.page
        tab.keep_picture(request.node.name)
        is_whole = request.session.testsfailed == failed
    finally:
        problems = [problem for problem in tab.problems if not HARMLESS.fullmatch(problem)]
        tab.problems.clear()
        if is_whole and not problems:
            tabs.append(tab)
        else:
            tab.close(request.node.name)
    assert problems == []
