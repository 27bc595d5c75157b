"""The peak of memory that some work adds to what is in use before it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

BEGIN_ANEW = Path("/proc/self/clear_refs")  # 5 written into it lets Linux count a process's peak anew


@dataclass
class Peak:
    """Bytes at the peak above those in use before; known when the work is done."""

    added: int | None = 0
    """None: this system does not tell."""


@contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """Measure the work inside the context: on a GPU what PyTorch allocates, else what the process holds (Linux only)."""
    peak = Peak()
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.added = torch.cuda.max_memory_allocated(device) - before
    elif not BEGIN_ANEW.exists():
        yield peak
        peak.added = None
    else:
        BEGIN_ANEW.write_text("5")
        before = _status("VmRSS")
        yield peak
        peak.added = _status("VmHWM") - before


def _status(field: str) -> int:
    """Bytes that the system notes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
