"""Time and memory of loading VideoCrafter2's 7.4 GB, against reading the file once from disk.

Random weights of that size are written into the folder and removed again. Before each reading the file is dropped from
the system's cache. Linux only. Each load runs in a process of its own; its peak is counted above what its imports took.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from .full_size import write_full_size
from .memory import BEGIN_ANEW
from .results import Row, Section, at_most, missing
from .setup import Setup

CHUNK = 2**24
MOST_TIME, MOST_MEMORY = 1.5, 1.3
LOAD = """
import sys, time, torch
torch.set_num_threads(1)
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.demo import demo_checkpoint

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

load_videocrafter2(demo_checkpoint(), device=sys.argv[3])  # everything that is imported on the way
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
started = time.perf_counter()
model = load_videocrafter2(sys.argv[1], dtype=getattr(torch, sys.argv[2]), device=sys.argv[3])
seconds = time.perf_counter() - started
networks = (model.unet, model.text_encoder, model.vae)
weights = sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
print(seconds, memory("VmHWM") - before, weights)
"""


def measure(setup: Setup) -> Section:
    """Reading and loading in turns, for both kinds of file and all types."""
    how = "A full-size file (7.4 GB float32) loaded by a new process over reading it once; both from the disk."
    if not setup.full:
        return Section("loading", "Loading", how, [missing("all", "needs --full and 7.4 GB of disk")])
    if not BEGIN_ANEW.exists():
        return Section("loading", "Loading", how, [missing("all", "needs Linux")])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=setup.folder) as folder:
        for suffix in (".ckpt", ".safetensors"):
            path = write_full_size(Path(folder) / f"model{suffix}")
            for dtype in ("float16", "bfloat16", "float32"):
                rows += _rows(path, dtype, setup)
            path.unlink()
    return Section("loading", "Loading", how, rows)


def _rows(path: Path, dtype: str, setup: Setup) -> list[Row]:
    pairs = [(read_once(path), *load(path, dtype, setup.device)) for _ in range(setup.rounds)]
    reading, loading, peak, weights = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratios = [pair[1] / pair[0] for pair in pairs]
    ratio, what = statistics.median(ratios), f"{path.suffix} to {dtype}"
    shown = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}; {loading:.1f} s / {reading:.1f} s)"
    rows = [at_most(f"{what}: load / read once", ratio, MOST_TIME, shown)]
    if setup.device.type == "cpu":  # elsewhere the weights are not in the memory of the process
        rows.append(at_most(f"{what}: peak / weights", peak / weights, MOST_MEMORY, f"{peak / weights:.2f}"))
    return rows


def load(path: Path, dtype: str, device: torch.device) -> tuple[float, float, float]:
    """Seconds, bytes at the peak and bytes of the weights, of one load by a new process."""
    drop_from_cache(path)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path), dtype, str(device)], capture_output=True, text=True, check=True
    )
    seconds, peak, weights = map(float, done.stdout.split()[-3:])
    return seconds, peak, weights


def read_once(path: Path) -> float:
    """Seconds of reading the file from start to end."""
    drop_from_cache(path)
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNK):
            pass
    return time.perf_counter() - started


def drop_from_cache(path: Path) -> None:
    """Let the next reading come from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
