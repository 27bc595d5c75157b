"""Several processes, one per GPU, started by ``accelerate launch``: each takes its part of the batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch

from .workers import ALONE, Workers

LONGEST_WAIT = timedelta(hours=12)
"""For one process that makes prior images or a sample video while the others wait."""


class LaunchedWorkers(Workers):
    """Processes that Accelerate brought together; gradients are averaged as in data-parallel training."""

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their mean over all processes; sent as one tensor, for there are hundreds of small ones."""
        from accelerate.utils import reduce

        flat = reduce(torch.cat([tensor.detach().flatten() for tensor in tensors]), reduction="mean")
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Go on when all processes have come here."""
        from accelerate.utils import wait_for_everyone

        wait_for_everyone()


def launched_workers(device: torch.device) -> tuple[Workers, torch.device]:
    """The processes that ``accelerate launch`` started and this one's device; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, device
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=LONGEST_WAIT)
    return LaunchedWorkers(state.process_index, state.num_processes), state.device
