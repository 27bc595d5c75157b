"""Whose processor this is; Python itself does not tell on every system."""

from __future__ import annotations

import os
from pathlib import Path

LISTED = Path("/proc/cpuinfo")


def processor_maker(listed: Path = LISTED) -> str:
    """The maker as the processor calls it, ``GenuineIntel`` or ``AuthenticAMD``; empty where it is not known.

    Args:
        listed: where Linux describes its processors, one after the other.
    """
    try:
        with listed.open(encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
    except OSError:  # Windows says "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel"
        return os.environ.get("PROCESSOR_IDENTIFIER", "").rpartition(", ")[2]
