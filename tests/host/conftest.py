"""Fixtures of the host's tests."""

from __future__ import annotations

import pytest
from bench import Bench
from running_host import RunningHost


@pytest.fixture
def bench(host: RunningHost) -> Bench:
    """Short ways to build and run graphs on the host."""
    return Bench(host)
