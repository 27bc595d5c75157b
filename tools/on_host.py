"""A host for the scripts: the newest that is found, in a folder of its own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def newest_host() -> Iterator[Any]:
    """The newest host of ``COMFYUI_PATH``, else of ``~/comfy/*``, running; see ``tests/host/running_host.py``."""
    from tests.host.running_host import RunningHost, found_hosts, host_version

    if not (hosts := found_hosts()):
        sys.exit("This needs a ComfyUI with its own .venv: set COMFYUI_PATH to its folder, or put it in ~/comfy.")
    with tempfile.TemporaryDirectory() as base:
        host = RunningHost(max(hosts, key=host_version), Path(base)).start()
        try:
            yield host
        finally:
            host.stop()
