"""DreamVideo's identity adapters on a MODEL: in its network for the length of one call, never beyond it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from ...customcrafter_core.subject.identity_adapter import IdentityAdapter, adapters_attached
from .around_network import around_network


class Branches:
    """The adapters of one subject."""

    def __init__(self, adapters: Mapping[str, IdentityAdapter]) -> None:
        """Args:
        adapters: block name -> adapter.
        """
        self._adapters = adapters
        self._place: tuple[torch.device, torch.dtype] | None = None
        self._placed: Mapping[str, IdentityAdapter] = {}

    def at(self, strength: float) -> Callable[..., torch.Tensor]:
        """A wrapper around the network that has them at a strength."""
        return partial(self._attached, strength)

    def around_call(
        self, strength: float, run: Any, x: torch.Tensor, sigma: torch.Tensor, *rest: Any, **conditions: Any
    ) -> torch.Tensor:
        """The host's model call ``(x, sigma, concat, text, control, options, …)`` with the adapters at a strength."""
        rest = (*rest[:3], around_network(rest[3], self.at(strength)), *rest[4:])
        return run(x, sigma, *rest, **conditions)

    def _attached(self, strength: float, run: Any, x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        unet = run.class_obj
        adapters = self._on(x.device, unet.dtype) if strength else {}
        with adapters_attached(unet, adapters, [strength]):
            return run(x, *rest, **more)

    def _on(self, device: torch.device, dtype: torch.dtype) -> Mapping[str, IdentityAdapter]:
        """The adapters where the network computes, copied when that changes."""
        if self._place != (device, dtype):
            self._placed = {name: adapter.to(device, dtype) for name, adapter in self._adapters.items()}
            self._place = (device, dtype)
        return self._placed
