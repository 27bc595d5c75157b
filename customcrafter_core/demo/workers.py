"""Plain data parallelism on CPU cores, and training state that survives an interruption.

One single-thread process per core: two threads inside one process were measured 5 times slower on these small networks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import nn
from torch.multiprocessing import get_context

from ..files.tensor_file import write_tensors

Worker = Callable[..., None]
"""Called as ``worker(rank, workers, settings, report)``; ``report`` is None on every rank but 0."""
Report = Callable[[str], None]


def _join(rank: int, workers: int, rendezvous: str, worker: Worker, settings: Any, report: Report | None) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers)
    try:
        worker(rank, workers, settings, report)
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def run_workers(worker: Worker, workers: int, settings: Any, work_dir: Path, report: Report) -> None:
    """Run ``worker`` on ``workers`` processes that can average gradients; rank 0 is this process.

    Args:
        worker: a module-level function (the other processes import it).
        workers: number of processes, one thread each; 1 starts no process and keeps this one's threads.
        settings: picklable, handed to every worker.
        work_dir: where the meeting file of the processes goes.
        report: takes one line of progress.
    """
    if workers == 1:
        worker(0, 1, settings, report)
        return
    rendezvous = work_dir / f".rendezvous-{uuid.uuid4().hex}"
    context = get_context("spawn")
    others = [
        context.Process(target=_join, args=(rank, workers, str(rendezvous), worker, settings, None), daemon=True)
        for rank in range(1, workers)
    ]
    for process in others:
        process.start()
    try:
        _join(0, workers, str(rendezvous), worker, settings, report)
        for process in others:
            process.join()
    finally:
        for process in others:
            if process.is_alive():
                process.terminate()
        rendezvous.unlink(missing_ok=True)


def average_gradients(parameters: Iterable[nn.Parameter], workers: int) -> None:
    """Replace every gradient by its mean over the workers, in one message."""
    if workers == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= workers
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


class Ema:
    """Exponential mean of a module's weights; the decay warms up so that the start is forgotten quickly."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take the weights after a step in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            self.weights[key].lerp_(value, 1 - decay)


def save_state(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts to one safetensors file, whole or not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_tensors(path, plain, {"facts": json.dumps(facts)})


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_state` wrote."""
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118


def pack_training(module: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything of a training run that is a tensor, flat."""
    packed = {f"model.{k}": v for k, v in module.state_dict().items()}
    packed |= {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        packed |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    return packed


def unpack_training(
    packed: dict[str, torch.Tensor], module: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer
) -> None:
    """Put back what :func:`pack_training` took."""
    module.load_state_dict({k[6:]: v for k, v in packed.items() if k.startswith("model.")})
    for key, value in ema.weights.items():
        value.copy_(packed[f"ema.{key}"])
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in packed.items():
        if key.startswith("adam."):
            _, index, name = key.split(".")
            slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
