"""One process or several that train one subject together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Workers:
    """The processes of a run, as one of them sees them. This one is alone; see `distributed` for several."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their mean over all processes."""

    def wait(self) -> None:
        """Go on when all processes have come here."""


ALONE = Workers()
