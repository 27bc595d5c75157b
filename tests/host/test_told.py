"""A run of the tests that lacks a host says so at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.running_host import NO_HOST, ROOT
from tests.host.telling import not_tested


def test_no_host_is_told_at_the_end(tmp_path: Path) -> None:
    """In a process that is told by another what was skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-n", "1", "tests/host/test_schemas.py"],
        cwd=ROOT, env={**os.environ, "COMFYUI_PATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "no host found: 4 tests skipped" in done.stdout.partition("NOT TESTED")[2]


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        (["0.3.64", "0.33.0"], []),
        (["0.33.0"], ["one generation of hosts only: 0.33.0, none 0.3.x."]),
        (["0.3.64"], ["one generation of hosts only: 0.3.64, none later than 0.3."]),
        ([], []),
    ],
)
def test_generations(tmp_path: Path, versions: list[str], told: list[str]) -> None:
    for version in versions:
        (tmp_path / version).mkdir()
        (tmp_path / version / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    assert not_tested([], [tmp_path / version for version in versions]) == told


def test_counts() -> None:
    skipped = [f"Skipped: {NO_HOST}: set COMFYUI_PATH", "Skipped: this host has no curves", f"Skipped: {NO_HOST}"]
    assert [line.partition(",")[0] for line in not_tested(skipped, [])] == ["no host found: 2 tests skipped"]
