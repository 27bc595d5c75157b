"""Weights are read one at a time, in any type; what was read of the file is let go on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.loading import load_videocrafter2, read_weights
from customcrafter_core.errors import InputError
from customcrafter_core.files.tensor_file import TensorFile, open_tensor_file
from tests.core import tiny_models

Write = Callable[[dict[str, torch.Tensor], Path], None]
WRITERS: dict[str, Write] = {"safetensors": save_file, "ckpt": torch.save}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Write:
    return WRITERS[request.param]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_tensors_of_any_shape_in_the_order_of_the_file(tmp_path: Path, write: Write, dtype: torch.dtype) -> None:
    state = {"b": random(2003), "a": random(4, 250), "one": random(1)[0], "none": random(0, 3), "c": random(7)}
    write(state, tmp_path / "file")
    with open_tensor_file(tmp_path / "file") as file:
        places = {name: value.data_ptr() for name, value in file.tensors.items()}
        read = dict(read_weights(file, dict.fromkeys(state, dtype)))
    assert list(read) == sorted(state, key=lambda name: places[name])
    for name, value in read.items():
        assert value.shape == state[name].shape and value.dtype == dtype
        assert torch.equal(value.float(), state[name].to(dtype).float()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_file_is_mapped_again_while_its_weights_are_converted(
    tmp_path: Path, write: Write, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its pages do not pile up beside the weights; what was given out stays valid."""
    state = {f"weight {i}": random(500, i + 1) for i in range(100)}
    write(state, tmp_path / "file")
    times = []
    release = TensorFile.release_pages
    monkeypatch.setattr(TensorFile, "release_pages", lambda file: (times.append(1), release(file)))
    with open_tensor_file(tmp_path / "file") as file:
        read = dict(read_weights(file, dict.fromkeys(state, dtype)))
    assert len(times) == (0 if dtype is torch.float32 else 17)
    assert all(torch.equal(value, state[name].to(dtype)) for name, value in read.items())


def test_tensors_that_are_not_contiguous(tmp_path: Path) -> None:
    """What lies between a view's numbers is none of its own."""
    around = random(8, 8)
    around[:, ::2] = torch.nan
    state = {"turned": random(300, 5000).T, "part": around[2:6, 1::2]}
    torch.save(state, tmp_path / "file")
    with open_tensor_file(tmp_path / "file") as file:
        for name, value in read_weights(file, dict.fromkeys(state, torch.float16)):
            assert torch.equal(value, state[name].half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("at", [0, 4000, -1])
def test_a_bad_number_anywhere_is_found(tmp_path: Path, at: int, dtype: torch.dtype) -> None:
    state = {"fine": random(9), "spoiled": random(8001)}
    state["spoiled"][at] = torch.nan
    save_file(state, tmp_path / "file")
    with open_tensor_file(tmp_path / "file") as file, pytest.raises(InputError, match="NaN or infinity in spoiled"):
        list(read_weights(file, dict.fromkeys(state, dtype)))


def test_the_fingerprint_does_not_depend_on_the_type(tmp_path: Path) -> None:
    """8-bit types round weights so far that the model would be taken for another."""
    path = tiny_models.write(tmp_path / "model.safetensors", tiny_models.state_dict())
    expected = load_videocrafter2(path).fingerprint
    for dtype in (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        assert load_videocrafter2(path, unet_dtype=lambda _, dtype=dtype: dtype).fingerprint == expected


def test_the_unet_in_a_type_of_its_own(tmp_path: Path) -> None:
    path = tiny_models.write(tmp_path / "model.safetensors", tiny_models.state_dict())
    seen: list[int] = []

    def choose(parameters: int) -> torch.dtype:
        seen.append(parameters)
        return torch.float16

    model = load_videocrafter2(path, unet_dtype=choose)
    assert seen == [sum(parameter.numel() for parameter in model.unet.parameters())]
    assert {parameter.dtype for parameter in model.unet.parameters()} == {torch.float16} == {model.dtype}
    rest = [*model.text_encoder.parameters(), *model.vae.parameters()]
    assert {parameter.dtype for parameter in rest} == {torch.float32}
