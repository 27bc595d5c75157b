"""The UNet's layers over frames: the same results in slices, with fewer products, and where they choose the usual way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from vectors import relative_l2

from customcrafter_core.base_model import winograd
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.video_layers import FrameConvolution, layers_as_on

WIDE, NARROW = winograd.NARROWEST, winograd.NARROWEST - 1


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each convolution that takes fewer products."""
    noted: list[str] = []
    convolve = winograd.convolve

    def noting(*given: Any) -> torch.Tensor:
        noted.append("fewer")
        return convolve(*given)

    monkeypatch.setattr(winograd, "convolve", noting)
    return noted


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (5, 8, 6, 10), (16, 32, 8, 4)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("most_bytes", [1, winograd.MOST_BYTES], ids=["sliced", "whole"])
def test_fewer_products_give_the_same(
    shape: tuple[int, ...], memory: Any, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "MOST_BYTES", most_bytes)
    monkeypatch.setattr(winograd, "FEWEST_POSITIONS", 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=memory)
    weight, bias = (torch.randn(size, generator=generator) for size in ((7, shape[1], 3, 3), (7,)))
    for given in (bias, None):
        expected = F.conv2d(x.double(), weight.double(), None if given is None else given.double(), padding=1)
        found = winograd.convolve(x, weight, given)
        assert found.shape == expected.shape and relative_l2(found, expected) < 2e-6


@pytest.mark.parametrize(
    ("channels", "outputs", "size", "dtype", "expected"),
    [
        (WIDE, WIDE, (16, 8, 16), torch.float32, ["fewer"]),
        (NARROW, WIDE, (16, 8, 16), torch.float32, []),
        (WIDE, NARROW, (16, 8, 16), torch.float32, []),
        (WIDE, WIDE, (16, 8, 8), torch.float32, []),  # too few positions
        (WIDE, WIDE, (32, 8, 15), torch.float32, []),  # odd
        (WIDE, WIDE, (32, 9, 16), torch.float32, []),
        (WIDE, WIDE, (16, 8, 16), torch.bfloat16, []),
    ],
)
def test_where_it_pays(
    channels: int, outputs: int, size: tuple[int, int, int], dtype: torch.dtype, expected: list[str], ways: list[str]
) -> None:
    frames, height, width = size
    layer = FrameConvolution(channels, outputs, 3, padding=1, device="meta", dtype=dtype)
    x = torch.empty(frames, channels, height, width, device="meta", dtype=dtype)
    with torch.no_grad():
        with layers_as_on(torch.device("cpu")):
            assert layer(x).shape == (frames, outputs, height, width)
        assert ways == expected
        with layers_as_on(torch.device("cuda")):
            layer(x)
    with layers_as_on(torch.device("cpu")):
        layer(x)
    assert ways == expected, "neither on a GPU nor where gradients are wanted"


def test_which_layers(model: VideoCrafter2) -> None:
    """All over 3x3 pixels but those that halve the size."""
    kinds = {type(layer) for layer in model.unet.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (1, 1)}
    assert kinds == {FrameConvolution, nn.Conv2d}
    for name, layer in model.unet.named_modules():
        if isinstance(layer, nn.Conv2d):
            is_usual = layer.kernel_size == (3, 3) and layer.stride == (1, 1)
            assert (type(layer) is FrameConvolution) == is_usual, name
