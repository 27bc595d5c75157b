"""Whose processor this is; Python names it on Windows only."""

from __future__ import annotations

import platform
from pathlib import Path

LISTED = Path("/proc/cpuinfo")


def processor_maker(listed: Path = LISTED) -> str:
    """The maker as the processor calls it, ``GenuineIntel`` or ``AuthenticAMD``; empty if it does not say.

    Args:
        listed: where Linux describes its processors.
    """
    try:
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # Windows: "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel"
        return platform.processor().rpartition(", ")[2]
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
