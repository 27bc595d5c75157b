"""The UNet's layers over frames: the same results in slices, with fewer products, and where they choose the usual way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from vectors import relative_l2

from customcrafter_core.base_model import video_layers, winograd
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.processor import processor_maker
from customcrafter_core.base_model.video_layers import FrameConvolution, WideLinear, layers_as_on

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
@pytest.mark.parametrize("most_bytes", [1, 40_000, winograd.MOST_BYTES], ids=["one by one", "some", "whole"])
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
        assert found.is_contiguous(memory_format=torch.channels_last)


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
        layer.padding_mode = "circular"  # as nodes for seamless pictures set it
        with layers_as_on(torch.device("cpu")):
            layer(x)
        layer.padding_mode = "zeros"
    with layers_as_on(torch.device("cpu")):
        layer(x)
    assert ways == expected, "neither on a GPU, nor with other edges, nor where gradients are wanted"


@pytest.mark.parametrize(
    ("inputs", "outputs", "rows", "expected"),
    [
        (video_layers.NARROWEST, 200, video_layers.FEWEST_ROWS, True),
        (200, video_layers.NARROWEST - 1, video_layers.FEWEST_ROWS, False),
        (200, 200, video_layers.FEWEST_ROWS - 1, False),
    ],
)
def test_wide_linear_layers(
    inputs: int, outputs: int, rows: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the other library the same, for rows of any shape and order in memory; not where gradients are wanted."""
    called: list[bool] = []
    onednn = video_layers.ONEDNN
    assert onednn is not None, "this torch has no oneDNN"
    monkeypatch.setattr(video_layers, "ONEDNN", lambda *given: called.append(True) or onednn(*given))
    monkeypatch.setattr(video_layers, "MKL_IS_FASTER", False)
    for bias in (True, False):
        layer = WideLinear(inputs, outputs, bias=bias)
        x = torch.randn(2 * inputs, rows)[::2].t()
        for given in (x, x.contiguous(), x.contiguous()[None, :, None]):
            wanted = F.linear(given, layer.weight, layer.bias)
            called.clear()
            assert layer(given).requires_grad and not called
            with torch.no_grad():
                found = layer(given)
            assert bool(called) == expected
            assert found.shape == wanted.shape and relative_l2(found, wanted.detach()) < 1e-6
    monkeypatch.setattr(video_layers, "MKL_IS_FASTER", True)
    called.clear()
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight)) and not called


def test_whose_processor_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for maker in ("GenuineIntel", "AuthenticAMD"):
        listed = tmp_path / maker
        listed.write_text(
            f"processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: 6\n\nprocessor\t: 1\nvendor_id\t: {maker}\n"
        )
        assert processor_maker(listed) == maker
    (tmp_path / "arm").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert processor_maker(tmp_path / "arm") == ""
    for name, maker in (
        ("Intel64 Family 6 Model 85 Stepping 7, GenuineIntel", "GenuineIntel"),
        ("", ""),
    ):
        monkeypatch.setenv("PROCESSOR_IDENTIFIER", name)
        assert processor_maker(tmp_path / "absent") == maker


def test_which_layers(model: VideoCrafter2) -> None:
    """All over 3x3 pixels but those that halve the size."""
    kinds = {type(layer) for layer in model.unet.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (1, 1)}
    assert kinds == {FrameConvolution, nn.Conv2d}
    assert {type(layer) for layer in model.unet.modules() if isinstance(layer, nn.Linear)} == {WideLinear}
    for name, layer in model.unet.named_modules():
        if isinstance(layer, nn.Conv2d):
            is_usual = layer.kernel_size == (3, 3) and layer.stride == (1, 1)
            assert (type(layer) is FrameConvolution) == is_usual, name
