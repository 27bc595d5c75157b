"""What a run of the tests could not test, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.host.running_host import NO_HOST, generation_of, host_version

GENERATIONS = {"older": "0.3.x", "newer": "later than 0.3"}
MISSING = {
    NO_HOST: "no host found: %d tests skipped, the nodes were not tested. Set COMFYUI_PATH to a ComfyUI.",
    "NO CHROMIUM FOUND": "no Chromium found: %d tests of the page skipped. Install it, or set CHROMIUM_PATH.",
    "PLAYWRIGHT MISSING": "no Playwright found: %d tests of the page skipped. pip install playwright",
}


def not_tested(skipped: Sequence[str], hosts: Sequence[Path]) -> list[str]:
    """What was not tested for want of a host or a browser.

    Args:
        skipped: why tests were skipped, one text for each.
        hosts: folders of the hosts that tests ran on.
    """
    counts = {text: sum(reason in why for why in skipped) for reason, text in MISSING.items()}
    told = [text % count for text, count in counts.items() if count]
    lacking = set(GENERATIONS) - {generation_of(folder) for folder in hosts} if hosts else set()
    versions = ", ".join(".".join(map(str, host_version(folder))) for folder in hosts)
    return told + [f"one generation of hosts only: {versions}, none {GENERATIONS[name]}." for name in lacking]
