"""Count what work would take without doing it: on tensors that have a shape but no content (PyTorch's meta device)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Bytes an allocator takes for each byte in use: rounding, gaps, the workspace of convolutions. The heap of a process has
# more of them than a GPU's: 1.5 to 1.7 were measured (`python -m benchmarks training`).
RESERVE, RESERVE_OF_HEAP = 1.15, 1.7

# What autocast does, as PyTorch documents it: these run in half precision …
HALF: set[Any] = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, torch.bmm, F.scaled_dot_product_attention}
# … and these, on GPUs, in float32.
FULL_ON_GPU: set[Any] = {F.group_norm, F.layer_norm, F.softmax}

Network = TypeVar("Network", bound=nn.Module)


def reserve_of(device: torch.device) -> float:
    """Bytes that a device's allocator takes for each byte in use."""
    return RESERVE_OF_HEAP if device.type == "cpu" else RESERVE


def without_content(network: Network) -> Network:
    """A copy whose tensors have no content and take no memory."""
    memo: dict[int, Any] = {}
    for tensor in tensors_of(network):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return deepcopy(network, memo)


def tensors_of(network: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers."""
    yield from network.parameters()
    yield from network.buffers()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations inside the context made and that are still alive."""

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        """Args:
        known: tensors that are not counted; operations hand out views of them.
        """
        super().__init__()
        self.now = self.peak = 0
        self._counted = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in [result] if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._counted:
            self._counted.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size


class DeviceKernels(TorchFunctionMode):
    """Lets operations without content take and keep what they do on a CPU or GPU.

    Attention keeps inputs, output and one number for each row, as their kernels do; without this there would be a table
    of all pairs of positions. Autocast, which the meta device does not know, changes dtypes.
    """

    def __init__(self, half: torch.dtype | None, *, on_gpu: bool) -> None:
        """Args:
        half: of autocast; None: there is none.
        on_gpu: whether norms run in float32 under autocast.
        """
        super().__init__()
        self._dtypes: dict[Any, torch.dtype] = {}
        if half is not None:
            self._dtypes = dict.fromkeys(HALF, half) | dict.fromkeys(FULL_ON_GPU if on_gpu else (), torch.float32)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function with the inputs and the kernel that a device would use."""
        kwargs = kwargs or {}
        dtype = self._dtypes.get(func)
        if dtype is not None:
            args, kwargs = tree_map(lambda value: _as_dtype(value, dtype), (tuple(args), kwargs))
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


def _as_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` by a kernel that keeps no table of pairs."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output: torch.Tensor = kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return output
