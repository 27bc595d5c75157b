"""Weights are read ahead of their use: in blocks, in any order and type, and nothing is left behind by a stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.loading import load_videocrafter2, read_weights
from customcrafter_core.errors import InputError
from customcrafter_core.files.read_ahead import AHEAD, BLOCK, read_ahead
from customcrafter_core.files.tensor_file import open_tensor_file
from tests.core import tiny_models

Write = Callable[[dict[str, torch.Tensor], Path], None]
WRITERS: dict[str, Write] = {"safetensors": save_file, "ckpt": torch.save}


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Write:
    return WRITERS[request.param]


def test_parts_of_a_file_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    content = torch.randint(0, 256, (3 * BLOCK + 5,), dtype=torch.uint8)
    path.write_bytes(content.numpy().tobytes())
    lengths = [0, 1, 7, BLOCK - 1, BLOCK] * AHEAD  # more than are ever in memory
    parts = [(index * 100_003 % (2 * BLOCK), length) for index, length in enumerate(lengths)]
    for (offset, length), block in zip(parts, read_ahead(path, parts), strict=True):
        assert torch.equal(block, content[offset : offset + length])
    assert not readers()


def test_a_part_beyond_the_end_is_short(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(100)))
    assert [len(block) for block in read_ahead(path, [(0, 60), (90, 60), (200, 60)])] == [60, 10, 0]


def test_a_reader_that_is_dropped_ends(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(100))
    blocks = read_ahead(path, [(0, 10)] * 100)
    assert len(list(islice(blocks, 3))) == 3 and readers()
    blocks.close()
    assert not readers()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_tensors_of_many_blocks(tmp_path: Path, write: Write, dtype: torch.dtype) -> None:
    count = BLOCK // 4
    state = {
        "b": random(2 * count + 3),
        "a": random(4, count // 4),
        "one": random(1)[0],
        "none": random(0, 3),
        "c": random(7),
    }
    write(state, tmp_path / "file")
    with open_tensor_file(tmp_path / "file") as file:
        for names in (file.in_order(state), sorted(state), sorted(state, reverse=True)):
            read = dict(read_weights(file, dict.fromkeys(names, dtype)))
            assert list(read) == names
            for name, value in read.items():
                assert value.shape == state[name].shape and value.dtype == dtype
                assert torch.equal(value.float(), state[name].to(dtype).float()), name


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
@pytest.mark.parametrize("at", [0, BLOCK // 4, -1])
def test_a_bad_number_in_any_block_is_found(tmp_path: Path, at: int, dtype: torch.dtype) -> None:
    state = {"fine": random(9), "spoiled": random(BLOCK // 2 + 1)}
    state["spoiled"][at] = torch.nan
    save_file(state, tmp_path / "file")
    with open_tensor_file(tmp_path / "file") as file, pytest.raises(InputError, match="NaN or infinity in spoiled"):
        list(read_weights(file, dict.fromkeys(state, dtype)))
    assert not readers()


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"a": random(2 * BLOCK), "b": random(5)}, path)
    with open_tensor_file(path) as file:
        with path.open("r+b") as cut:
            cut.truncate(5 * BLOCK)
        with pytest.raises(InputError, match="a ends early") as caught:
            list(read_weights(file, {"a": torch.float16}))
        assert not readers(), "also while a host still shows the error"
        del caught


def test_a_stop_in_the_middle_of_loading(tmp_path: Path) -> None:
    path = tiny_models.write(tmp_path / "model.safetensors", tiny_models.state_dict())

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            assert readers()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_videocrafter2(path, dtype=torch.float16, on_tensor=stop)
    assert not readers()


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
