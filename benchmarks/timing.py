"""Several ways to do the same work, timed in turns, so that a busy machine hurts all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from customcrafter_core.memory.counting import LiveBytes


class Timings(dict[str, list[float]]):
    """Seconds of each way, round by round."""

    def median(self, name: str) -> float:
        """Median seconds of a way."""
        return statistics.median(self[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over rounds of how many times as long one way takes as another."""
        return statistics.median(a / b for a, b in zip(self[name], self[to], strict=True))

    def both(self, name: str, to: str) -> str:
        """The ratio, and the range of its rounds."""
        ratios = sorted(a / b for a, b in zip(self[name], self[to], strict=True))
        return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def time_in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> Timings:
    """Run all ways once to warm up, then ``rounds`` times in turns."""
    seconds = Timings({name: [] for name in ways})
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way, device))
    return seconds


def seconds_of(way: Callable[[], object], device: torch.device) -> float:
    """Seconds that something takes.

    On a GPU by the clock on the wall, work still queued included, and with several threads, too. On a CPU with one thread
    the processor time of this process, which is the time on the wall of an idle machine, and which other programs on it
    change far less.
    """
    if device.type != "cuda" and torch.get_num_threads() > 1:
        started = time.perf_counter()
        way()
        return time.perf_counter() - started
    if device.type != "cuda":
        started = time.process_time()
        way()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    way()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_bytes(way: Callable[[], object], device: torch.device) -> int:
    """Most bytes that are alive at once in tensors that something makes; what was there before is not counted."""
    if device.type != "cuda":
        there = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        with LiveBytes(there) as live:  # views of weights would count as made
            way()
        return live.peak
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    way()
    return torch.cuda.max_memory_allocated(device) - before
