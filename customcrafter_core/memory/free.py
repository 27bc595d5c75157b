"""How much memory a device has left."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import torch

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device.

    On a GPU those that PyTorch holds for reuse are included. On a CPU those are not that hold files which this process has
    mapped, weights among them: the system would give them up, and read them again at each step.
    """
    if device.type == "cpu":
        mapped = getattr(psutil.Process().memory_info(), "shared", 0)
        return max(int(min(psutil.virtual_memory().available, free_in_groups())) - mapped, 0)
    module = torch.get_device_module(device)
    if device.type == "mps":
        return int(module.recommended_max_memory() - module.current_allocated_memory())
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def free_in_groups(mounted: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """Bytes that the control groups of this process, a container's for example, let it take; infinite without limits.

    Args:
        mounted: where Linux shows the groups of memory, version 1 or 2.
        own: the file that says in which groups the process is.
    """
    free = math.inf
    for line in _text_of(own).splitlines():
        number, _, path = line.partition(":")
        kinds, _, path = path.partition(":")
        if number != "0" and "memory" not in kinds.split(","):
            continue
        names = _GROUP_FILES[1] if number == "0" else _GROUP_FILES[0]
        root = mounted if number == "0" else mounted / "memory"
        group = root / path.strip("/")  # in a container the root may be this group itself
        for folder in (group, *group.parents):
            free = min(free, _free_in(folder, *names))
            if folder == root:
                break
    return free


# Names of: limit, use, the lines of memory.stat that count cached files, which are given up when memory is short.
_GROUP_FILES = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
)


def _free_in(group: Path, limit: str, use: str, cached: tuple[str, ...]) -> float:
    """What one group has left; infinite if it has no limit, or is not shown."""
    most, used = _text_of(group / limit).strip(), _text_of(group / use).strip()
    if not most.isdecimal() or not used.isdecimal():  # "max", or absent
        return math.inf
    counts = dict(line.split(" ", 1) for line in _text_of(group / "memory.stat").splitlines() if " " in line)
    files = sum(int(counts[name]) for name in cached if counts.get(name, "").isdecimal())
    return max(int(most) - int(used) + files, 0)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def gigabytes(count: int) -> str:
    """Bytes in units of 10⁹, with two digits that count."""
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"
