"""Fixtures of the host's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.bench import Bench
from tests.host.running_host import LOST, RunningHost


@pytest.fixture
def bench(host: RunningHost) -> Iterator[Bench]:
    """Short ways to build and run graphs on the host; no model that it lost slows the test after."""
    before = len(host.log)
    yield Bench(host)
    if LOST in host.log[before:]:
        host.post("/free", {"unload_models": True})
