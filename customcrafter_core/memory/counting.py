"""Count the memory that work would take without doing it, on PyTorch's fake tensors: a shape and a device, no content."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Bytes an allocator takes for each byte in use: rounding, gaps, the workspace of convolutions. The heap of a process has
# more of them than a GPU's: 1.5 to 1.7 were measured (`python -m benchmarks training`).
RESERVE, RESERVE_OF_HEAP = 1.15, 1.7

Network = TypeVar("Network", bound=nn.Module)


def allocator_reserve(device: torch.device) -> float:
    """Bytes that a device's allocator takes for each byte in use."""
    return RESERVE_OF_HEAP if device.type == "cpu" else RESERVE


def tensors_of(network: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers."""
    yield from network.parameters()
    yield from network.buffers()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations inside the context made and that are still alive.

    torch's own tracker (`torch.distributed._tools`) is absent from builds without `torch.distributed`.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        """Args:
        known: tensors that are not counted; operations hand out views of them.
        """
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}  # storage -> what keeps its number from being another's
        for tensor in known:
            self._see(tensor.untyped_storage(), 0)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._see(storage, storage.nbytes())
        return result

    def _see(self, storage: torch.UntypedStorage, size: int) -> None:
        if id(storage) in self._seen:
            return
        self._seen[id(storage)] = weakref.finalize(storage, self._forget, id(storage), size)
        self._seen[id(storage)].atexit = False
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


class DryRun:
    """Work on networks without content: kernels, autocast and dtypes are those of the device they are on."""

    def __init__(self) -> None:
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        """A context: what is made inside has no content."""
        self.peak = 0
        """Bytes that were alive at once of what `counted` contexts made."""

    def copy(self, network: Network) -> Network:
        """A copy without content, on the same device."""
        return deepcopy(network, {id(tensor): self.fake.from_tensor(tensor) for tensor in tensors_of(network)})

    @contextmanager
    def counted(self, known: Iterable[torch.Tensor]) -> Iterator[None]:
        """What is made inside has no content and is counted; ``known`` tensors and views of them are not."""
        with self.fake, LiveBytes(known) as live:
            yield
        self.peak = max(self.peak, live.peak)
