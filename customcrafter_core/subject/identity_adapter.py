"""DreamVideo's identity adapter: a bottleneck parallel to cross-attention, on the residual stream of spatial blocks.

``x <- attn2(norm2(x)) + x + strength · (up gelu(down x + down_bias) + up_bias)`` (Wei et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields

import torch
from diffusers import UNet3DConditionModel
from torch import nn
from torch.nn import functional as F

from .targets import spatial_blocks


@dataclass(frozen=True)
class IdentityAdapter:
    """The tensors of one block's adapter; ``c`` is the block's width, ``h = c / 2`` the hidden width."""

    down: torch.Tensor
    """``(h, c)``"""
    down_bias: torch.Tensor
    """``(h,)``"""
    up: torch.Tensor
    """``(c, h)``"""
    up_bias: torch.Tensor
    """``(c,)``"""

    @classmethod
    def start(cls, width: int, generator: torch.Generator) -> IdentityAdapter:
        """A new adapter, without effect: the second layer is zero, the first initialised like PyTorch's linear layers."""
        hidden, bound = width // 2, width**-0.5
        uniform = torch.empty(hidden, width + 1).uniform_(-bound, bound, generator=generator)
        return cls(
            uniform[:, :-1].contiguous(), uniform[:, -1].contiguous(), torch.zeros(width, hidden), torch.zeros(width)
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def to(self, device: torch.device, dtype: torch.dtype) -> IdentityAdapter:
        """The same adapter on another device and in another dtype; copied only where necessary."""
        return IdentityAdapter(**{name: tensor.to(device, dtype) for name, tensor in self.tensors().items()})

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What it adds to the residual stream ``(b, n, c)`` at strength 1."""
        hidden = F.gelu(F.linear(x.to(self.down.dtype), self.down, self.down_bias))
        return F.linear(hidden, self.up, self.up_bias).to(x.dtype)

    def is_consistent(self) -> bool:
        """Whether the shapes are consistent with each other."""
        h, c = self.down.shape if self.down.ndim == 2 else (0, 0)
        shapes = [tuple(tensor.shape) for tensor in self.tensors().values()]
        return h > 0 and c > 0 and shapes == [(h, c), (h,), (c, h), (c,)]


class _Branch:
    """Adds an adapter to a block with two hooks: the residual stream enters at norm2, the sum leaves at attn2."""

    def __init__(self, adapter: IdentityAdapter, strength: list[float]) -> None:
        self.adapter, self.strength = adapter, strength
        self._x: torch.Tensor | None = None

    def enter(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._x = args[0]

    def leave(self, module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        x, self._x = self._x, None
        if not self.strength[0] or x is None:
            return output
        return output + self.strength[0] * self.adapter(x)


@contextmanager
def adapters_attached(
    unet: UNet3DConditionModel, adapters: Mapping[str, IdentityAdapter], strength: list[float]
) -> Iterator[None]:
    """Attach adapters within the context; on exit, even after an error, the UNet is as it was.

    Args:
        unet: the network.
        adapters: block name -> adapter, on the network's device.
        strength: a list of one number, read at each forward pass; at 0 nothing is added.
    """
    with ExitStack() as stack:
        blocks = spatial_blocks(unet) if adapters else {}
        for name, adapter in adapters.items():
            branch = _Branch(adapter, strength)
            for handle in (
                blocks[name].norm2.register_forward_pre_hook(branch.enter),
                blocks[name].attn2.register_forward_hook(branch.leave),
            ):
                stack.callback(handle.remove)
        yield
