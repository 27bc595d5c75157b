"""Damaged files, at random but from a fixed seed: each is read or refused by `InputError`, nothing else happens."""

from __future__ import annotations

import json
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.loading import plan
from customcrafter_core.base_model.tensor_file import open_tensor_file
from customcrafter_core.errors import InputError
from customcrafter_core.subject.file import load_subject, save_subject
from customcrafter_core.subject.formats import read_token
from customcrafter_core.subject.subject import LoRAFactors, Subject, check_tensors

COUNT = 300
MARKS = b'\x00\x01\x80\xff{}[]":,0123456789.cRq()]}PKnulFINA'


def flip(content: bytes, dice: random.Random, region: int) -> bytes:
    """Change up to four bytes in the first part of the file."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        position = dice.randrange(min(region, len(changed)))
        changed[position] = dice.choice(MARKS) if dice.random() < 0.7 else dice.randrange(256)
    return bytes(changed)


def cut(content: bytes, dice: random.Random, region: int) -> bytes:
    """End early."""
    return content[: dice.randrange(len(content))]


def take_out(content: bytes, dice: random.Random, region: int) -> bytes:
    """Remove some bytes."""
    start = dice.randrange(min(region, len(content)))
    return content[:start] + content[start + dice.randint(1, 40) :]


def put_in(content: bytes, dice: random.Random, region: int) -> bytes:
    """Insert some bytes."""
    start = dice.randrange(min(region, len(content)))
    return content[:start] + dice.randbytes(dice.randint(1, 40)) + content[start:]


def repeat(content: bytes, dice: random.Random, region: int) -> bytes:
    """Copy a stretch over another."""
    source, target = (dice.randrange(min(region, len(content))) for _ in range(2))
    length = dice.randint(1, 60)
    return content[:target] + content[source : source + length] + content[target + length :]


def append(content: bytes, dice: random.Random, region: int) -> bytes:
    """Go on after the end."""
    return content + dice.randbytes(dice.randint(1, 100))


CHANGES = (flip, flip, flip, cut, take_out, put_in, repeat, append)


def fuzz(path: Path, read: Callable[[Path], Any], *, region: int, seed: int) -> Counter[str]:
    """Read `COUNT` damaged copies of a file; gives how many were refused and how many were read."""
    content, dice, outcomes = path.read_bytes(), random.Random(seed), Counter[str]()
    for i in range(COUNT):
        change = dice.choice(CHANGES)
        damaged = path.with_name(f"damaged{i % 2}{path.suffix}")
        damaged.write_bytes(change(content, dice, region))
        try:
            read(damaged)
            outcomes["read"] += 1
        except InputError as error:
            assert error.expected and error.found and error.remedy
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"damage {i} by {change.__name__}: {type(error).__name__}: {error}") from error
    return outcomes


@pytest.fixture(scope="module")
def subject() -> Subject:
    generator = torch.Generator().manual_seed(0)
    factors = {
        f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{letter}": LoRAFactors(
            torch.randn(2, 8, generator=generator), torch.randn(8, 2, generator=generator)
        )
        for letter in "qkv"
    }
    return Subject(factors, torch.randn(1, 8, generator=generator), thumbnail=b"picture", training={"lr": 1e-4})


def load_and_use(path: Path) -> None:
    """What is read must be as sound as what was saved."""
    subject = load_subject(path)
    check_tensors(subject.factors, subject.embedding)
    assert 0 <= subject.recommended(0, 50) < torch.inf or subject.recommended.lambda_s < 0


def read_everything(path: Path) -> None:
    with open_tensor_file(path) as file:
        for name, info in file.tensors.items():
            for value in (file.read(name), file.map(name)):
                assert tuple(value.shape) == info.shape and value.dtype == info.dtype
                value.double().sum()  # touches every byte


def plan_checkpoint(path: Path) -> None:
    with open_tensor_file(path) as file:
        plan(file, tiny_models.HIDDEN)


@pytest.mark.parametrize("region", [8, 200, 1500, 10_000], ids=["length", "metadata", "header", "all"])
def test_subject_files(subject: Subject, tmp_path: Path, region: int) -> None:
    path = save_subject(subject, tmp_path / "subject.safetensors")
    assert path.stat().st_size < 10_000
    load_and_use(path)
    assert fuzz(path, load_and_use, region=region, seed=region)["refused"] > COUNT / 3


def test_metadata_of_subject_files(subject: Subject, tmp_path: Path) -> None:
    """The file is sound, its own fields hold anything JSON can hold."""
    path = save_subject(subject, tmp_path / "subject.safetensors")
    with open_tensor_file(path) as file:
        metadata = dict(file.metadata)
        tensors = {name: file.read(name) for name in file.tensors}
    anything: list[Any] = [
        None,
        True,
        -1,
        0,
        2**70,
        0.5,
        -1e300,
        "",
        "1",
        "ü\ud800",
        [],
        [1],
        {},
        {"a": 1},
        float("nan"),
        float("inf"),
    ]
    dice, outcomes = random.Random(5), Counter[str]()
    for i in range(COUNT):
        content = json.loads(metadata["customcrafter.subject"])
        for name in dice.sample(sorted(content), dice.randint(1, 3)):
            content[name] = dice.choice(anything)
        save_file(tensors, path, metadata={**metadata, "customcrafter.subject": json.dumps(content)})
        try:
            load_and_use(path)
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"case {i}: {content}") from error
    assert outcomes["refused"] > COUNT / 3


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_torch_files(tmp_path: Path, zipped: bool) -> None:
    state = {"a": torch.randn(3, 4), "b": torch.randn(2, 2).half(), "c": torch.arange(5)}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    read_everything(path)
    assert fuzz(path, read_everything, region=10_000, seed=1)["refused"] > COUNT / 3


@pytest.mark.filterwarnings("ignore")
def test_pickles_inside_of_torch_files(tmp_path: Path) -> None:
    """The archive is sound, the pickle in it is not: the unpickler sees every damage."""
    path = tmp_path / "token.bin"
    torch.save({"<new1>": torch.randn(2, 4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in entries if name.endswith("data.pkl"))
    dice, outcomes = random.Random(2), Counter[str]()
    for i in range(COUNT):
        change = dice.choice(CHANGES)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, change(content, dice, 1000) if name == pickled else content)
        try:
            read_everything(path)
            read_token(path)
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"damage {i} by {change.__name__}") from error
    assert outcomes["refused"] > COUNT / 3


def test_names_and_shapes_of_checkpoints(tmp_path: Path) -> None:
    """Sound files in which some weights have other names or shapes."""
    state, dice = tiny_models.state_dict(), random.Random(3)
    names, outcomes = sorted(state), Counter[str]()
    small = {name: torch.zeros(value.shape, dtype=torch.uint8) for name, value in state.items()}
    for i in range(40):
        changed = dict(small)
        for name in dice.sample(names, dice.randint(1, 3)):
            value = changed.pop(name)
            if dice.random() < 0.5:
                digits = [j for j, letter in enumerate(name) if letter.isdigit()]
                j = dice.choice(digits or [0])
                changed[name[:j] + dice.choice("0123456789x") + name[j + 1 :]] = value
            elif dice.random() < 0.7:
                shape = [dice.choice([0, 1, size, 2 * size, size + 1]) for size in value.shape[:3]]
                changed[name] = torch.zeros(shape, dtype=torch.uint8)
        save_file(changed, tmp_path / "model.safetensors")
        try:
            plan_checkpoint(tmp_path / "model.safetensors")
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"case {i}: {sorted(set(changed) ^ set(small))}") from error
    assert outcomes["refused"] > 20
