"""What a run of the tests says at its end: loudly, what it could not test."""

from __future__ import annotations

from typing import Any

from running_host import found_hosts
from telling import not_tested


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was not tested for want of a host or a browser."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    reports = [report for kind in ("passed", "failed", "error") for report in terminalreporter.stats.get(kind, [])]
    hosts = found_hosts()
    ran = [folder for folder in hosts if any(f"[{folder.name}" in report.nodeid for report in reports)]
    told = not_tested(skipped, hosts if ran else [])
    if told:
        terminalreporter.write_sep("!", "NOT TESTED", red=True, bold=True)
        for line in told:
            terminalreporter.write_line(line, red=True, bold=True)
