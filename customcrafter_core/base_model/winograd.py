"""3x3 convolution by minimal filtering, F(2x2, 3x3): 16 products for four results in the place of 36.

For wide layers in float32 on a CPU, where torch computes all 36; cuDNN chooses such ways by itself.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), section 4.1.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

NARROWEST = 256  # channels; with fewer, the sums around the products cost what the products save
MOST_BYTES, FEWEST_POSITIONS = 2**25, 2048  # of a slice: what a cache holds, and what is worth fetching the kernels for
KERNEL = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # the paper's G


def pays(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether ``x (n, c, h, w)`` and a kernel ``(o, c, 3, 3)`` are large enough, and even, to be faster this way."""
    frames, channels, height, width = x.shape
    is_even = height % 2 == 0 and width % 2 == 0
    return min(channels, len(weight)) >= NARROWEST and is_even and frames * height * width >= FEWEST_POSITIONS


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 3x3 convolution with a padding and a stride of 1.

    Args:
        x: ``(n, c, h, w)``, h and w even.
        weight: ``(o, c, 3, 3)``.
        bias: ``(o,)``.

    Returns:
        ``(n, o, h, w)``, channels last in memory.
    """
    count, channels, height, width = x.shape
    outputs = len(weight)
    both = torch.einsum("ai,bj->abij", KERNEL, KERNEL).reshape(16, 9).to(x)
    # made anew at each call: kept, they would take almost twice the memory of the weights, which the host may change besides
    kernels = (both @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(16, outputs, channels).transpose(1, 2)
    out = torch.empty(count, height, width, outputs, dtype=x.dtype, device=x.device)
    positions = max(MOST_BYTES // (4 * x.element_size() * (channels + outputs)), FEWEST_POSITIONS)
    slices = math.ceil(count / (positions // (height * width) or 1))
    for part, result in zip(x.permute(0, 2, 3, 1).tensor_split(slices), out.tensor_split(slices), strict=True):
        products = torch.bmm(_tiles(part), kernels).view(4, 4, len(part), height // 2, width // 2, outputs)
        _write_results(products, result)
    if bias is not None:
        out += bias
    return out.permute(0, 3, 1, 2)


def _tiles(x: torch.Tensor) -> torch.Tensor:
    """``x (n, h, w, c)`` in overlapping tiles of 4x4, transformed: ``(16, n · h/2 · w/2, c)``; the paper's Bᵀ d B."""
    count, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    tiles = x.new_empty(4, 4, count, height // 2, width // 2, channels)
    for row, line in zip(tiles, _combined([padded[:, i : i + height - 1 : 2] for i in range(4)]), strict=True):
        _combined([line[:, :, j : j + width - 1 : 2] for j in range(4)], row)
    return tiles.view(16, -1, channels)


def _combined(d: list[torch.Tensor], out: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Along one axis of the tiles, the paper's Bᵀ d."""
    a, b, c, e = (None,) * 4 if out is None else out
    return [
        torch.sub(d[0], d[2], out=a),
        torch.add(d[1], d[2], out=b),
        torch.sub(d[2], d[1], out=c),
        torch.sub(d[1], d[3], out=e),
    ]


def _write_results(products: torch.Tensor, out: torch.Tensor) -> None:
    """Products ``(4, 4, n, h/2, w/2, o)`` to the results ``(n, h, w, o)``; the paper's Aᵀ m A."""
    for i, line in enumerate((products[0] + products[1] + products[2], products[1] - products[2] - products[3])):
        torch.add(line[0] + line[1], line[2], out=out[:, i::2, ::2])
        torch.sub(line[1] - line[2], line[3], out=out[:, i::2, 1::2])
