"""Runs that are stopped, killed or out of disk, and go on as if nothing had happened."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.errors import InputError
from customcrafter_core.subject.file import load_subject
from customcrafter_core.training.config import TrainConfig
from customcrafter_core.training.keeper import BEST, LOSS_PICTURE, SAMPLE_STRIP, STATE, folder_of, start_over
from customcrafter_core.training.loop import TrainingResult, train_subject
from customcrafter_core.training.photos import Photo
from customcrafter_core.training.steering import Steering
from customcrafter_core.training.trainer import TrainStep
from customcrafter_core.training.watcher import Watcher

CONFIG = TrainConfig("dog", steps=6, lr=1e-2, batch=2, frames=2, views=2, rank=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter2:
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    tiny_models.write(path, tiny_models.state_dict())
    return load_videocrafter2(path)


def photos(turn: int = 0) -> list[Photo]:
    gradient = Image.linear_gradient("L").resize((80, 60))
    return [Photo(gradient.rotate(90 * i + turn).convert("RGB")) for i in range(2)]


def run(
    model: VideoCrafter2,
    target: Path | None,
    config: TrainConfig = CONFIG,
    *,
    on_step: Callable[[TrainStep], None] | None = None,
    given: list[Photo] | None = None,
    every: int = 2,
    sample_every: int = 0,
) -> TrainingResult:
    steering = Steering(target, checkpoint_every=every, sample_every=sample_every, sample_steps=1)
    return train_subject(
        model, given or photos(), config, prior=photos(45), steering=steering, watcher=Watcher(on_step=on_step)
    )


def stop_after(steps: int) -> Callable[[TrainStep], None]:
    def stop(step: TrainStep) -> None:
        if step.step + 1 == steps:
            raise KeyboardInterrupt

    return stop


def assert_equal(found: TrainingResult, expected: TrainingResult) -> None:
    assert [(s.loss, s.prior_loss) for s in found.steps] == [(s.loss, s.prior_loss) for s in expected.steps]
    a, b = found.subject, expected.subject
    assert torch.equal(a.embedding, b.embedding)
    assert a.factors.keys() == b.factors.keys() and a.adapters.keys() == b.adapters.keys()
    for name in a.factors:
        assert torch.equal(a.factors[name].up, b.factors[name].up)
        assert torch.equal(a.factors[name].down, b.factors[name].down)
    for name in a.adapters:
        assert all(torch.equal(value, b.adapters[name].tensors()[n]) for n, value in a.adapters[name].tensors().items())


@pytest.mark.parametrize("method", ["customcrafter", "custom_diffusion", "dreamvideo", "textual_inversion"])
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_stopped_run_goes_on_bit_for_bit(tiny: VideoCrafter2, tmp_path: Path, method: str, stop: int) -> None:
    """Stops in the token's stage, at its end, and in the main stage."""
    config = replace(CONFIG, method=method, token_steps=2, steps=4, offset_noise=0.1)
    whole = run(tiny, None, config)
    target = tmp_path / "dog.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(tiny, target, config, on_step=stop_after(stop), every=100)
    assert load_subject(target).steps == stop
    assert_equal(run(tiny, target, config, every=100), whole)
    assert load_subject(target).steps == 6


def test_more_steps_go_on_from_the_end(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, replace(CONFIG, steps=3))
    assert_equal(run(tiny, target), run(tiny, None))
    with pytest.raises(InputError, match="at least 6 steps"):
        run(tiny, target, replace(CONFIG, steps=3))


def test_a_finished_run_is_not_made_again(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    first = run(tiny, target)
    content = target.read_bytes()
    assert_equal(run(tiny, target, on_step=stop_after(1)), first)
    assert target.read_bytes() == content
    target.unlink()
    run(tiny, target, on_step=stop_after(1))
    assert torch.equal(load_subject(target).embedding, first.subject.embedding)


def test_another_run_under_the_same_name_is_refused(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, replace(CONFIG, steps=2))
    before = {path: path.read_bytes() for path in (target, folder_of(target) / STATE)}
    with pytest.raises(InputError, match=r"lr 0\.01 then, 0\.001 now"):
        run(tiny, target, replace(CONFIG, lr=1e-3))
    with pytest.raises(InputError, match="other photos"):
        run(tiny, target, given=photos(10))
    with pytest.raises(InputError, match="other photos"):
        run(tiny, target, given=[replace(photo, caption="a {} here") for photo in photos()])
    with pytest.raises(InputError, match="another base model"):
        run(replace(tiny, fingerprint="{}"), target)
    assert {path: path.read_bytes() for path in before} == before
    start_over(target)
    assert not (folder_of(target) / STATE).exists()
    run(tiny, target, replace(CONFIG, lr=1e-3))


@pytest.mark.parametrize("damage", ["short", "text", "empty", "json"])
def test_a_damaged_state_is_refused(tiny: VideoCrafter2, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, replace(CONFIG, steps=2))
    state = folder_of(target) / STATE
    content = state.read_bytes()
    broken = {
        "short": content[:-100],
        "text": b"no state",
        "empty": b"",
        "json": content.replace(b"best_step", b"best_stop"),
    }[damage]
    state.write_bytes(broken)
    before = target.read_bytes()
    with pytest.raises(InputError):
        run(tiny, target)
    assert (state.read_bytes(), target.read_bytes()) == (broken, before)


def test_the_best_checkpoint_is_the_one_of_lowest_probe_loss(
    tiny: VideoCrafter2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("customcrafter_core.training.trainer.Trainer.probe_loss", lambda self, on_draw: next(told))
    result = run(tiny, tmp_path / "dog.safetensors")
    assert result.best is not None and (result.best.steps, result.subject.steps) == (4, 6)
    assert load_subject(folder_of(tmp_path / "dog.safetensors") / BEST).steps == 4


def test_the_probe_tells_learning_from_not_learning(tiny: VideoCrafter2, tmp_path: Path) -> None:
    """The same draws each time: equal for the same weights, lower after learning."""
    from customcrafter_core.training.examples import encode_examples
    from customcrafter_core.training.trainer import Trainer

    config = replace(CONFIG, steps=40, lr=2e-2)
    trainer = Trainer(tiny, config, encode_examples(tiny, config, photos()))
    with trainer.attached():
        start = trainer.probe_loss()
        assert trainer.probe_loss() == start
        for _ in range(40):
            trainer.step()
        assert trainer.probe_loss() < start


def test_a_loss_gone_wrong_keeps_the_last_checkpoint(
    tiny: VideoCrafter2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from customcrafter_core.training import trainer

    real, calls = trainer.losses_of, []

    def spoilt(*args: object) -> list[torch.Tensor]:
        calls.append(1)
        losses = real(*args)
        return [loss * float("nan") for loss in losses] if len(calls) == 4 + trainer.PROBE_DRAWS else losses

    monkeypatch.setattr(trainer, "losses_of", spoilt)
    target = tmp_path / "dog.safetensors"
    with pytest.raises(InputError, match="nan in step 4"):
        run(tiny, target)
    assert load_subject(target).steps == 2
    monkeypatch.undo()
    assert_equal(run(tiny, target), run(tiny, None))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_run_gone_wrong_before_any_checkpoint_keeps_what_it_has(
    tiny: VideoCrafter2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from customcrafter_core.training import trainer

    real, calls = trainer.losses_of, []

    def spoilt(*args: object) -> list[torch.Tensor]:
        calls.append(1)
        losses = real(*args)
        if len(calls) < 4:
            return losses
        if what == "gradient":
            losses[0].register_hook(lambda gradient: gradient * float("nan"))
            return losses
        return [loss * float("nan") for loss in losses]

    monkeypatch.setattr(trainer, "losses_of", spoilt)
    target = tmp_path / "dog.safetensors"
    with pytest.raises(InputError, match="step 4"):
        run(tiny, target, every=100)
    assert load_subject(target).steps == 3


@pytest.mark.parametrize("name", ["save_subject", "save_atomically"])
def test_a_subject_older_than_its_state_is_written_again(
    tiny: VideoCrafter2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The disk is full for one of the two files of the last checkpoint, subject or state."""
    from customcrafter_core.training import keeper

    target, config = tmp_path / "dog.safetensors", replace(CONFIG, steps=4)
    real = getattr(keeper, name)

    def full(first: Any, second: Any, *rest: object) -> object:
        path, steps = (second, first.steps) if name == "save_subject" else (first, len(second["history"]))
        if steps == 4 and path.name != BEST:
            raise OSError("No space left on device")
        return real(first, second, *rest)

    monkeypatch.setattr(keeper, name, full)
    with pytest.raises(OSError):
        run(tiny, target, config)
    monkeypatch.undo()
    assert run(tiny, target, config).subject.steps == load_subject(target).steps == 4


def test_what_a_killed_process_was_writing_is_removed(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    (tmp_path / ".dog.safetensors.12345678.partial").write_bytes(b"half")
    (tmp_path / ".cat.safetensors.12345678.partial").write_bytes(b"another run's")
    run(tiny, target, replace(CONFIG, steps=1))
    assert [path.name for path in tmp_path.glob("*.partial")] == [".cat.safetensors.12345678.partial"]


def test_another_precision_is_another_run(tiny: VideoCrafter2, tmp_path: Path) -> None:
    from customcrafter_core.training.keeper import Keeper, RunIdentity

    identity = RunIdentity(CONFIG, tiny.fingerprint, "float32", "", "")
    stored = identity.as_metadata()
    assert not identity.differences(stored)
    assert "float32 then, bfloat16 now" in replace(identity, dtype="bfloat16").differences(stored)
    assert "batch 2 then, 4 now" in replace(identity, processes=2).differences(stored)
    shared = replace(identity, processes=2, config=replace(CONFIG, batch=1))
    assert not shared.differences(stored)
    Keeper(tmp_path / "dog.safetensors", identity).check()


def test_pictures_lie_beside_the_subject(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(tiny, target, sample_every=2, on_step=stop_after(3))
    run(tiny, target, sample_every=2)
    rows = [Image.open(path) for path in sorted((folder_of(target) / "samples").glob("*.png"))]
    assert len(rows) == 4  # after 0, 2, 4 and 6 steps
    strip = Image.open(folder_of(target) / SAMPLE_STRIP)
    assert strip.height == sum(row.height for row in rows)
    assert Image.open(folder_of(target) / LOSS_PICTURE).size == (768, 384)


# --- processes that die -----------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], object]) -> int:
    """Start a copy of this process that works and leaves; returns its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_at_any_moment_leaves_files_that_load(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target, config = tmp_path / "dog.safetensors", replace(CONFIG, steps=100_000)
    started, done = time.monotonic(), 0
    run(tiny, tmp_path / "timed.safetensors", replace(CONFIG, steps=2), every=1)
    moments, longest = random.Random(0), 1.5 * (time.monotonic() - started)
    for _ in range(20):
        child = in_a_child(lambda: run(tiny, target, config, every=1))
        time.sleep(moments.uniform(0.05, 1) * longest)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if target.exists():
            steps = load_subject(target).steps
            assert steps >= done
            done = steps
    assert done > 5
    config = replace(config, steps=done + 3)
    assert_equal(run(tiny, target, config, every=100), run(tiny, None, config))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_full_disk_leaves_the_old_files(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, replace(CONFIG, steps=2))
    before = {path: path.read_bytes() for path in (target, folder_of(target) / STATE)}

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(OSError):
            run(tiny, target)

    _, status = os.waitpid(in_a_child(work), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in tmp_path.rglob("*.partial")]
    assert_equal(run(tiny, target), run(tiny, None))
