"""Several ways to do the same work, timed in turns, so that a busy machine hurts all alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


class Timings(dict[str, list[float]]):
    """Seconds of each way, round by round."""

    def median(self, name: str) -> float:
        """Median seconds of a way."""
        return statistics.median(self[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over rounds of how many times as long one way takes as another."""
        return statistics.median(a / b for a, b in zip(self[name], self[to], strict=True))


def time_in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> Timings:
    """Run all ways once to warm up, then ``rounds`` times in turns."""
    seconds = Timings({name: [] for name in ways})
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(_timed(way, device))
    return seconds


def _timed(way: Callable[[], object], device: torch.device) -> float:
    """Seconds that something takes, work still queued on a GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def machine(device: torch.device) -> str:
    """What the figures were measured on, in a line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads"
