"""One process or several that train one subject together: one per GPU, started by ``accelerate launch``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch

MAX_WAIT = timedelta(hours=12)
"""For one process that makes prior images or a sample video while the others wait."""


@dataclass(frozen=True)
class Workers:
    """The processes of a run, as one of them sees them; each takes its part of the batch."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their mean over all processes; sent as one tensor, for there are hundreds of small ones."""
        if self.size == 1:
            return
        from accelerate.utils import reduce

        flat = reduce(torch.cat([tensor.detach().flatten() for tensor in tensors]), reduction="mean")
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            from accelerate.utils import wait_for_everyone

            wait_for_everyone()


ALONE = Workers()


def launched_workers(device: torch.device) -> tuple[Workers, torch.device]:
    """The processes that ``accelerate launch`` started and this one's device; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, device
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=MAX_WAIT)
    return Workers(state.process_index, state.num_processes), state.device
