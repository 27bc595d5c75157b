"""Time and memory of loading VideoCrafter2's 7.4 GB, against reading the file once from disk.

    python -m benchmarks.loading [--folder /tmp] [--rounds 2]

Random weights of that size are written into the folder and removed again. Before each reading the file is dropped from
the system's cache. Linux only. Each load runs in a process of its own; its peak is counted above what its imports took.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from .full_size import write_full_size

CHUNK = 2**24
LOAD = """
import sys, time, torch
torch.set_num_threads(1)
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.demo import demo_checkpoint

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

load_videocrafter2(demo_checkpoint())  # everything that is imported on the way
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
started = time.perf_counter()
model = load_videocrafter2(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
seconds = time.perf_counter() - started
networks = (model.unet, model.text_encoder, model.vae)
weights = sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
print(seconds, memory("VmHWM") - before, weights)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where 7.4 GB fit (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, medians of {options.rounds} rounds"
    )
    print(f"{'file':12} {'dtype':9} {'load':>8} {'read once':>10} {'ratio':>6} {'peak / weights':>15}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for suffix in (".ckpt", ".safetensors"):
            path = write_full_size(Path(folder) / f"model{suffix}")
            for dtype in ("float16", "bfloat16", "float32"):
                pairs = [(read_once(path), *load(path, dtype)) for _ in range(options.rounds)]
                reading, loading, peak, weights = (statistics.median(values) for values in zip(*pairs, strict=True))
                ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
                print(f"{suffix:12} {dtype:9} {loading:7.1f}s {reading:9.1f}s {ratio:6.2f} {peak / weights:15.2f}")
            path.unlink()


def load(path: Path, dtype: str) -> tuple[float, float, float]:
    """Seconds, bytes at the peak and bytes of the weights, of one load by a new process."""
    drop_from_cache(path)
    done = subprocess.run([sys.executable, "-c", LOAD, str(path), dtype], capture_output=True, text=True, check=True)
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


if __name__ == "__main__":
    main()
