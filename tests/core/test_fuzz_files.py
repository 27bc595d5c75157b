"""Damaged files, at random but from a fixed seed: each is read or refused by `InputError`, nothing else happens.

A few hundred in every run; ``FUZZED_FILES=10000 make test ARGS=tests/core/test_fuzz_files.py`` before a release.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from customcrafter_core.base_model.loading import load_videocrafter2, plan
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.errors import InputError
from customcrafter_core.files.tensor_file import open_tensor_file
from customcrafter_core.subject.file import load_subject, save_subject
from customcrafter_core.subject.formats import import_lora, read_token
from customcrafter_core.subject.subject import LoRAFactors, Subject, check_tensors
from customcrafter_core.subject.targets import lora_targets
from customcrafter_core.training.checkpoints import STATE, CheckpointManager, RunIdentity, digest_pictures
from customcrafter_core.training.config import TrainConfig
from customcrafter_core.training.examples import encode_examples
from customcrafter_core.training.loop import train_subject
from customcrafter_core.training.photos import Photo
from customcrafter_core.training.run_options import RunOptions
from customcrafter_core.training.trainer import Trainer
from tests.core import tiny_models

FILES = int(os.environ.get("FUZZED_FILES", "700"))
KINDS = 14  # of tests below that damage files
COUNT = -(-FILES // KINDS)
MOST_SECONDS, MOST_MEMORY = 20, 3 * 10**9  # for one file
REFUSED = 0.3  # at least: else the damage is too slight to mean anything
SOUND_EVERY = 10  # so many files come one that is sound: who refuses everything is no good reader
HARMFUL = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.remove", "os.rename", "os.spawn",
    "pty.spawn", "shutil.rmtree", "socket.connect", "subprocess.Popen",
}  # fmt: skip
"""What Python announces and reading a file must never do."""
watched: list[str] = []
is_reading = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what happens while a damaged file is read; cannot be taken back, so it is off in between."""
    if is_reading and (event in HARMFUL or (event == "open" and set(str(arguments[1])) & set("wax+"))):
        watched.append(f"{event} {arguments}")


sys.addaudithook(watch)


@contextmanager
def reading() -> Iterator[None]:
    """Read a damaged file: in bounded time and memory, without consequences."""
    global is_reading

    def too_long(number: int, frame: object) -> None:
        raise TimeoutError(f"not read within {MOST_SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, before[1]))
    old = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(MOST_SECONDS)
    is_reading = True
    try:
        yield
    finally:
        is_reading = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)
        seen = watched.copy()
        watched.clear()
        assert not seen, seen  # here, so that a file that is refused in the end is looked at, too


def is_sound(i: int) -> bool:
    """Whether this file is left as it was."""
    return i % SOUND_EVERY == 0


def tell(outcomes: Counter[str], read: Callable[[], Any], what: str, *, sound: bool) -> None:
    """Read once, and count what came of it; a sound file has to be read."""
    try:
        with reading():
            read()
        outcomes["sound" if sound else "read"] += 1
    except InputError as error:
        assert not sound, f"{what}: {error}"
        assert error.expected and error.found and error.remedy
        outcomes["refused"] += 1
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


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


def leave(content: bytes, dice: random.Random, region: int) -> bytes:
    """Change nothing."""
    return content


def append(content: bytes, dice: random.Random, region: int) -> bytes:
    """Go on after the end."""
    return content + dice.randbytes(dice.randint(1, 100))


CHANGES = (flip, flip, flip, cut, take_out, put_in, repeat, append)


def fuzz(path: Path, read: Callable[[Path], Any], *, region: int, seed: int, in_place: bool = False) -> Counter[str]:
    """Read `COUNT` damaged copies of a file, some sound ones between; gives how many were refused and read."""
    content, dice, outcomes = path.read_bytes(), random.Random(seed), Counter[str]()
    for i in range(COUNT):
        change = leave if is_sound(i) else dice.choice(CHANGES)
        damaged = path if in_place else path.with_name(f"damaged{i % 2}{path.suffix}")
        damaged.write_bytes(change(content, dice, region))
        tell(outcomes, lambda path=damaged: read(path), f"damage {i} by {change.__name__}", sound=is_sound(i))
    return outcomes


def enough(outcomes: Counter[str]) -> bool:
    """Whether enough of what was damaged was refused, and sound files were read in between."""
    return outcomes["refused"] > REFUSED * (outcomes["refused"] + outcomes["read"]) and outcomes["sound"] > 0


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
        for name, mapped in file.tensors.items():
            for value in (file.read(name), mapped):
                assert value.shape == mapped.shape and value.dtype == mapped.dtype
                value.double().sum()  # touches every byte


def plan_checkpoint(path: Path) -> None:
    with open_tensor_file(path) as file:
        plan(file, tiny_models.CONFIG)


@pytest.mark.parametrize("region", [8, 200, 1500, 10_000], ids=["length", "metadata", "header", "all"])
def test_subject_files(subject: Subject, tmp_path: Path, region: int) -> None:
    path = save_subject(subject, tmp_path / "subject.safetensors")
    assert path.stat().st_size < 10_000
    load_and_use(path)
    assert enough(fuzz(path, load_and_use, region=region, seed=region))


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
        for name in dice.sample(sorted(content), 0 if is_sound(i) else dice.randint(1, 3)):
            content[name] = dice.choice(anything)
        save_file(tensors, path, metadata={**metadata, "customcrafter.subject": json.dumps(content)})
        tell(outcomes, lambda: load_and_use(path), f"case {i}: {content}", sound=is_sound(i))
    assert enough(outcomes)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_torch_files(tmp_path: Path, zipped: bool) -> None:
    state = {"a": torch.randn(3, 4), "b": torch.randn(2, 2).half(), "c": torch.arange(5)}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    read_everything(path)
    assert enough(fuzz(path, read_everything, region=10_000, seed=1))


class Runs:
    """Runs a command when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize("more", [{}, {"runs": Runs()}], ids=["plain", "with code"])
@pytest.mark.filterwarnings("ignore")
def test_pickles_inside_of_torch_files(tmp_path: Path, more: dict[str, Any]) -> None:
    """The archive is sound, the pickle in it is not: the unpickler sees every damage; one with code is never sound."""
    path = tmp_path / "token.bin"
    torch.save({"<new1>": torch.randn(2, 4), **more}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in entries if name.endswith("data.pkl"))
    dice, outcomes = random.Random(2), Counter[str]()
    for i in range(COUNT):
        change = leave if is_sound(i) else dice.choice(CHANGES)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, change(content, dice, 1000) if name == pickled else content)
        what = f"damage {i} by {change.__name__}"
        tell(outcomes, lambda: (read_everything(path), read_token(path)), what, sound=is_sound(i) and not more)
    assert enough(outcomes) if not more else not outcomes["sound"] and outcomes["refused"] > COUNT / SOUND_EVERY


def test_names_and_shapes_of_checkpoints(tmp_path: Path) -> None:
    """Sound files in which some weights have other names or shapes."""
    state, dice = tiny_models.state_dict(), random.Random(3)
    names, outcomes = sorted(state), Counter[str]()
    small = {name: torch.zeros(value.shape, dtype=torch.uint8) for name, value in state.items()}
    for i in range(max(COUNT // 5, 10)):  # each takes a fifth of a second
        changed = dict(small)
        for name in dice.sample(names, 0 if is_sound(i) else dice.randint(1, 3)):
            value = changed.pop(name)
            if dice.random() < 0.5:
                digits = [j for j, letter in enumerate(name) if letter.isdigit()]
                j = dice.choice(digits or [0])
                changed[name[:j] + dice.choice("0123456789x") + name[j + 1 :]] = value
            elif dice.random() < 0.7:
                shape = [dice.choice([0, 1, size, 2 * size, size + 1]) for size in value.shape[:3]]
                changed[name] = torch.zeros(shape, dtype=torch.uint8)
        save_file(changed, tmp_path / "model.safetensors")
        what = f"case {i}: {sorted(set(changed) ^ set(small))}"
        tell(outcomes, lambda: plan_checkpoint(tmp_path / "model.safetensors"), what, sound=is_sound(i))
    assert enough(outcomes)


# --- LoRA files of other programs, and what a training leaves behind --------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter2:
    path = tiny_models.write(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", tiny_models.state_dict())
    return load_videocrafter2(path)


@pytest.mark.parametrize("region", [2000, 100_000], ids=["header", "all"])
def test_loras_of_other_programs(tiny: VideoCrafter2, tmp_path: Path, region: int) -> None:
    path, state = tmp_path / "lora.safetensors", {}
    for name, layer in lora_targets(tiny.unet).items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{stem}.lora_down.weight": torch.ones(2, layer.in_features), f"{stem}.alpha": torch.tensor(2.0)}
        state |= {f"{stem}.lora_up.weight": torch.ones(layer.out_features, 2)}
    save_file(state, path, metadata={"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.r": 2})})
    import_lora(path, tiny, class_word="dog")
    assert enough(fuzz(path, lambda damaged: import_lora(damaged, tiny, class_word="dog"), region=region, seed=4))


@pytest.mark.parametrize("region", [3000, 100_000], ids=["header", "all"])
def test_training_states(tiny: VideoCrafter2, tmp_path: Path, region: int) -> None:
    """A run goes on from a damaged state, or says why not."""
    config = TrainConfig("dog", steps=2, lr=1e-2, batch=1, frames=1, views=1, rank=1)
    photos = [Photo(Image.linear_gradient("L").resize((64, 64)).convert("RGB"))]
    target = tmp_path / "dog.safetensors"
    train_subject(tiny, photos, config, run_options=RunOptions(target))
    longer = replace(config, steps=1000)
    trainer = Trainer(tiny, longer, encode_examples(tiny, longer, photos, ()))
    manager = CheckpointManager(
        target, RunIdentity(longer, tiny.fingerprint, "float32", digest_pictures(photos), digest_pictures(()))
    )

    def go_on(path: Path) -> None:
        manager.check()
        assert manager.resume(trainer)
        with trainer.attached():
            trainer.step()

    path = manager.folder / STATE
    go_on(path)
    assert trainer.done == 3
    assert enough(fuzz(path, go_on, region=region, seed=6, in_place=True))


def test_what_reading_must_not_do_is_seen(tmp_path: Path) -> None:
    """Also when the file is refused in the end."""

    def refuse() -> None:
        (tmp_path / "left behind").write_text("")
        raise InputError(expected="a", found="b", remedy="c")

    with pytest.raises(AssertionError, match="left behind"):
        tell(Counter(), refuse, "a reader that writes", sound=False)
    with pytest.raises(AssertionError, match="sound one"):
        tell(Counter(), lambda: load_subject(tmp_path / "none.safetensors"), "a sound one", sound=True)
    assert not watched
