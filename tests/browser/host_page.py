"""The host's page in a tab of Chromium."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tests.host.running_host import ROOT, RunningHost

SHOTS = ROOT / "output" / "screenshots"
HARMLESS = re.compile(
    r"Failed to load resource: .* \(http://127\.0\.0\.1:\d+/(user\.css|favicon\.ico|api/userdata[/?]\S*)\)"  # none there
    r"|Failed to load resource: .* \(https://[\w.-]+\.comfy\.org/\S*\)"  # the page's own services, where there is no net
    r"|ComfyApp graph accessed before initialization.*"
    r"|Attempted to cleanup event listeners for graph that was never set up .*"  # 0.3.64's small map, when put away
    r"|(Connecting to|Fetch API cannot load) '?https://huggingface\.co/Comfy-Org/.*"  # models of the page's first workflow
)
# It knows our nodes, and has opened the workflow that it starts with
READY = """() => !!(window.app && window.app.graph && window.LiteGraph
    && LiteGraph.registered_node_types['CustomCrafterDynamicWeightedKSampler']
    && app.graph._nodes.length > 0 && app.extensionManager.workflow?.activeWorkflow)"""
# A node of this kind is drawn: only then it is known where each widget stands
DRAWN = """kind => app.graph._nodes.find(node => node.type === kind)
    ?.widgets.every(widget => widget.element || widget.hidden || widget.last_y !== undefined)"""
PATIENCE = 120_000  # ms, for anything that a busy machine does late
VIEW = {"width": 1600, "height": 950}
AT_START = re.compile(r"Cannot read properties of undefined \(reading 'id'\)")  # the page of 0.3.64, of itself


@dataclass
class Tab:
    """The host's page, loaded once, with what it complained about since the test before."""

    page: Any
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, browser: Any, host: RunningHost, test: str) -> Tab:
        """Load it for a test and wait until it has started, without the templates that a host shows a new user."""
        host.post("/settings/Comfy.TutorialCompleted", True)
        tab = cls(browser.new_page(viewport=VIEW))
        tab.page.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.page.on("console", lambda line: tab.problems.append(said(line)) if line.type == "error" else None)
        tab.page.set_default_timeout(PATIENCE)
        try:
            tab.page.goto(f"http://127.0.0.1:{host.port}/")
            tab.page.wait_for_function(READY)
            tab.page.wait_for_timeout(500)  # for what it complains about at its start
        except BaseException:
            tab.close(test)
            raise
        tab.problems[:] = [problem for problem in tab.problems if not AT_START.fullmatch(problem)]
        return tab

    def blank(self) -> None:
        """Put away what a test before may have left open, and open an empty workflow."""
        self.page.mouse.up()
        self.page.set_viewport_size(VIEW)
        self.page.keyboard.press("Escape")
        blank(self.page)

    def close(self, test: str) -> None:
        """Close it, and keep a picture of how it was."""
        try:
            self.keep_picture(test)
        finally:
            self.page.close()

    def keep_picture(self, name: str) -> None:
        """A screenshot."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name.replace('[', ' ').replace(']', '')}.png")


def blank(page: Any) -> None:
    """Open an empty workflow."""
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph._nodes.length === 0")
    page.wait_for_timeout(500)


def said(line: Any) -> str:
    """An error in the console, with the address it is about."""
    return f"{line.text} ({line.location['url']})"
