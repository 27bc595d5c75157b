"""Runs that are stopped, killed or out of disk, and go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor, ImageDraw

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.cli.options import check_target
from customcrafter_core.errors import InputError
from customcrafter_core.files.tensor_file import open_tensor_file, write_tensors
from customcrafter_core.output import chart
from customcrafter_core.subject.file import load_subject
from customcrafter_core.training import checkpoints
from customcrafter_core.training.callbacks import Callbacks
from customcrafter_core.training.checkpoints import (
    LOSS_PICTURE,
    SAMPLE_STRIP,
    STATE,
    STATE_KEY,
    checkpoints_of,
    forget_run,
    has_run,
    run_folder,
)
from customcrafter_core.training.config import TrainConfig
from customcrafter_core.training.loop import TrainingResult, check_run, train_subject
from customcrafter_core.training.photos import Photo
from customcrafter_core.training.pictures import draw_loss, smooth
from customcrafter_core.training.run_options import RunOptions
from customcrafter_core.training.trainer import TrainStep
from tests.core import tiny_models

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
    run_options = RunOptions(target, checkpoint_every=every, sample_every=sample_every, sample_steps=1)
    return train_subject(
        model,
        given or photos(),
        config,
        prior=photos(45),
        run_options=run_options,
        callbacks=Callbacks(on_step=on_step),
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


@pytest.mark.slow
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
    before = {path: path.read_bytes() for path in (target, run_folder(target) / STATE)}
    with pytest.raises(InputError, match="batch 2 then, 1 now"):
        run(tiny, target, replace(CONFIG, batch=1))
    with pytest.raises(InputError, match="other photos"):
        run(tiny, target, given=photos(10))
    with pytest.raises(InputError, match="other photos"):
        run(tiny, target, given=[replace(photo, caption="a {} here") for photo in photos()])
    with pytest.raises(InputError, match="another base model"):
        run(replace(tiny, fingerprint="{}"), target)
    assert {path: path.read_bytes() for path in before} == before
    forget_run(target)
    assert not (run_folder(target) / STATE).exists()
    run(tiny, target, replace(CONFIG, lr=1e-3))


@pytest.mark.parametrize("damage", ["short", "text", "empty", "json"])
def test_a_damaged_state_is_refused(tiny: VideoCrafter2, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, replace(CONFIG, steps=2))
    state = run_folder(target) / STATE
    content = state.read_bytes()
    broken = {
        "short": content[:-100],
        "text": b"no state",
        "empty": b"",
        "json": content.replace(b"base", b"vase"),
    }[damage]
    state.write_bytes(broken)
    before = target.read_bytes()
    with pytest.raises(InputError):
        run(tiny, target)
    assert (state.read_bytes(), target.read_bytes()) == (broken, before)


def numbered(target: Path) -> list[int]:
    return [load_subject(path).steps for path in checkpoints_of(target)]


def test_numbered_checkpoints_are_subjects_to_choose_from(tiny: VideoCrafter2, tmp_path: Path) -> None:
    """The newest ones, each what the run was then; files that only look alike stay."""
    target = tmp_path / "dog.safetensors"
    other = run_folder(target) / "dog-000002-mine.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"a copy that was given another name")

    def learn(steps: int, keep: int) -> None:
        run_options = RunOptions(target, checkpoint_every=2, keep_checkpoints=keep)
        train_subject(tiny, photos(), replace(CONFIG, steps=steps), prior=photos(45), run_options=run_options)

    learn(6, 0)
    assert numbered(target) == [2, 4, 6]
    assert checkpoints_of(target)[0].name == "dog-000002.safetensors"
    early = run(tiny, None, replace(CONFIG, steps=2)).subject
    assert torch.equal(load_subject(checkpoints_of(target)[0]).embedding, early.embedding)
    learn(10, 2)
    assert numbered(target) == [8, 10] and other.exists()
    forget_run(target)
    assert not checkpoints_of(target) and other.exists() and target.exists()


def test_each_sample_has_its_checkpoint(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, every=4, sample_every=3)
    assert numbered(target) == [3, 4, 6]
    checkpoints_of(target)[-1].unlink()  # as a kill between two files leaves it
    run(tiny, target, every=4, sample_every=3)
    assert numbered(target) == [3, 4, 6]


def test_the_learning_rate_may_be_changed_and_is_recorded(tiny: VideoCrafter2, tmp_path: Path) -> None:
    """Steps before are the same; a run that nobody changes does not say anything."""
    target = tmp_path / "dog.safetensors"
    first = run(tiny, target, replace(CONFIG, steps=3))
    assert "changes" not in first.subject.training
    second = run(tiny, target, replace(CONFIG, lr=1e-4, max_grad_norm=1.0))
    assert [s.loss for s in second.steps[:3]] == [s.loss for s in first.steps]
    (change,) = load_subject(target).training["changes"]
    assert change == {"step": 3, "lr": [0.01, 0.0001], "max_grad_norm": [0.0, 1.0]}
    more = replace(CONFIG, steps=8, lr=1e-4, max_grad_norm=1.0)
    assert len(run(tiny, target, more).subject.training["changes"]) == 1
    untouched = run(tiny, None, replace(CONFIG, steps=6))
    assert second.steps[-1].loss != untouched.steps[-1].loss


def test_a_state_of_version_0_1_0_goes_on(tiny: VideoCrafter2, tmp_path: Path) -> None:
    """It knows no settings of today, and judged checkpoints by a loss."""
    target, config = tmp_path / "dog.safetensors", replace(CONFIG, fit="cut", mask_background=1.0)
    run(tiny, target, replace(config, steps=3))
    state = run_folder(target) / STATE
    with open_tensor_file(state) as file:
        tensors, metadata = {name: file.read(name) for name in file.tensors}, dict(file.metadata)
    content = json.loads(metadata[STATE_KEY])
    for name in checkpoints.BEFORE:
        del content["config"][name]
    del content["history"]
    content |= {"best_loss": 1.0, "best_step": 2, "probed_step": 2}
    write_tensors(state, tensors, {**metadata, STATE_KEY: json.dumps(content)})
    assert_equal(run(tiny, target, config), run(tiny, None, config))
    write_tensors(state, tensors, {**metadata, STATE_KEY: json.dumps(content)})
    with pytest.raises(InputError, match="fit cut then, auto now"):
        run(tiny, target, replace(config, fit="auto"))


@pytest.mark.parametrize("every", [2, 100])
def test_a_loss_gone_wrong_keeps_the_last_good_state(
    tiny: VideoCrafter2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """Three bad steps in a row: the last checkpoint, or what was learned before where there is none."""
    from customcrafter_core.training import trainer

    real, calls = trainer.compute_losses, []

    def spoilt(*args: object) -> list[torch.Tensor]:
        calls.append(1)
        return [loss * (float("nan") if len(calls) > 3 else 1) for loss in real(*args)]

    monkeypatch.setattr(trainer, "compute_losses", spoilt)
    target = tmp_path / "dog.safetensors"
    with pytest.raises(InputError, match=r"3 steps in a row.*nan in step 6.*Lower the learning rate"):
        run(tiny, target, replace(CONFIG, steps=9), every=every)
    monkeypatch.undo()
    three = run(tiny, None, replace(CONFIG, steps=3)).subject
    assert torch.equal(load_subject(target).embedding, three.embedding)
    lower = replace(CONFIG, steps=9, lr=1e-3)
    assert run(tiny, target, lower).subject.steps == 9


@pytest.mark.parametrize("name", ["save_subject", "write_tensors"])
def test_a_subject_older_than_its_state_is_written_again(
    tiny: VideoCrafter2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The disk is full for one of the two files of the last checkpoint, subject or state."""

    target, config = tmp_path / "dog.safetensors", replace(CONFIG, steps=4)
    real = getattr(checkpoints, name)

    def full(first: Any, second: Any, *rest: object) -> object:
        path, steps = (second, first.steps) if name == "save_subject" else (first, len(second["history"]))
        if (steps == 4 and path.parent.name != "dog.training") or (steps == 4 and name == "write_tensors"):
            raise OSError("No space left on device")
        return real(first, second, *rest)

    monkeypatch.setattr(checkpoints, name, full)
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
    from customcrafter_core.training.checkpoints import CheckpointManager, RunIdentity

    identity = RunIdentity(CONFIG, tiny.fingerprint, "float32", "", "")
    stored = identity.as_metadata()
    assert not identity.differences(stored)
    assert "float32 then, bfloat16 now" in replace(identity, dtype="bfloat16").differences(stored)
    assert "batch 2 then, 4 now" in replace(identity, processes=2).differences(stored)
    shared = replace(identity, processes=2, config=replace(CONFIG, batch=1))
    assert not shared.differences(stored)
    unknown = replace(identity, prior=None)
    assert not unknown.differences({**stored, "prior": "of an hour"})
    assert replace(unknown, photos="others").differences(stored) == ["other photos"]
    CheckpointManager(tmp_path / "dog.safetensors", identity).check()


def test_pictures_lie_beside_the_subject(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(tiny, target, sample_every=2, on_step=stop_after(3))
    run(tiny, target, sample_every=2)
    rows = [Image.open(path) for path in sorted((run_folder(target) / "samples").glob("*.png"))]
    assert len(rows) == 4  # after 0, 2, 4 and 6 steps
    strip = Image.open(run_folder(target) / SAMPLE_STRIP)
    assert strip.height == sum(row.height for row in rows)
    assert Image.open(run_folder(target) / LOSS_PICTURE).size == (chart.WIDTH, chart.HEIGHT)


def test_the_loss_is_drawn_as_the_mean_of_about_fifty_steps() -> None:
    """First all steps so far count the same, then each new one a fiftieth."""
    losses = [2.0 * (i % 2) for i in range(50)] + [1.0] * 20 + [2.0] * 50
    means = smooth(losses)
    assert means[:4] == pytest.approx([0, 1, 2 / 3, 1])
    assert means[49] == pytest.approx(1) and means[69] == pytest.approx(1)
    assert means[-1] == pytest.approx(2 - 0.98**50)
    steps = [TrainStep(i, 500, loss) for i, loss in enumerate(losses)]
    pixels = np.asarray(draw_loss(steps))
    line = (pixels == np.array(ImageColor.getrgb(chart.COLOURS[0]))).all(-1)
    width, height = chart.WIDTH - chart.LEFT - chart.RIGHT, chart.HEIGHT - chart.TOP - chart.BOTTOM
    for i in (49, 69, 119):
        rows = np.flatnonzero(line[:, chart.LEFT + round(width * i / 119) - 1])
        assert rows.mean() == pytest.approx(chart.HEIGHT - chart.BOTTOM - height * means[i] / 2, abs=3)


def test_the_loss_picture_names_the_steps_that_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, at, text, **given: drawn.append(text) or draw(self, at, text, **given)
    )
    steps = [TrainStep(i, 5000, 1.0) for i in range(3000)]
    draw_loss(steps[-2000:])
    assert "step 1001 to 3000 of 5000" in drawn
    drawn.clear()
    draw_loss(steps)
    assert "step 1 to 3000 of 5000" in drawn


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_sample_that_a_stop_broke_off_is_made_when_the_run_goes_on(
    tiny: VideoCrafter2, tmp_path: Path, at: int
) -> None:
    """Before the first step, between two, and after the last."""
    target, config = tmp_path / "dog.safetensors", replace(CONFIG, steps=4)
    run_options = RunOptions(target, checkpoint_every=0, sample_every=2, sample_steps=1)
    rows, made = run_folder(target) / "samples", []

    def stop(_: object) -> None:
        if len(list(rows.glob("*.png"))) == at // 2:
            raise Stop

    with pytest.raises(Stop):
        train_subject(tiny, photos(), config, run_options=run_options, callbacks=Callbacks(on_sampled_step=stop))
    assert target.exists() == (at > 0) and len(list(rows.glob("*.png"))) == at // 2
    train_subject(
        tiny, photos(), config, run_options=run_options, callbacks=Callbacks(on_sample=lambda s: made.append(s.step))
    )
    assert made == [0, 2, 4][at // 2 :]
    train_subject(
        tiny, photos(), config, run_options=run_options, callbacks=Callbacks(on_sample=lambda s: made.append(s.step))
    )
    assert made == [0, 2, 4][at // 2 :], "nothing is made twice"


def test_what_will_be_refused_is_refused_before_pictures_of_the_class_are_made(
    tiny: VideoCrafter2, tmp_path: Path
) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, replace(CONFIG, steps=1))
    check_run(tiny, photos(), CONFIG, RunOptions(target))
    with pytest.raises(InputError, match="rank"):
        check_run(tiny, photos(), replace(CONFIG, rank=3), RunOptions(target))
    with pytest.raises(InputError, match="other photos"):
        check_run(tiny, photos(10), CONFIG, RunOptions(target))
    with pytest.raises(InputError, match="another base model"):
        check_run(replace(tiny, fingerprint="{}"), photos(), CONFIG, RunOptions(target))
    check_run(tiny, photos(10), replace(CONFIG, lr=1e-3), RunOptions(target, start_over=True))
    with pytest.raises(InputError, match="other prior"):
        check_run(tiny, photos(), CONFIG, RunOptions(target), prior=())
    with pytest.raises(InputError, match="one photo"):
        check_run(tiny, [], CONFIG, RunOptions())


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


def killed(child: int) -> None:
    """Wait for a child and see that nothing but SIGKILL ended it."""
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def assert_the_same_command_goes_on(target: Path) -> None:
    """What the command line, and in other words the node, asks of the name before it trains."""
    check_target(target, force=has_run(target))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_at_any_moment_loses_the_steps_since_the_last_checkpoint(
    tiny: VideoCrafter2, tmp_path: Path
) -> None:
    target, told, config = tmp_path / "dog.safetensors", tmp_path / "told", replace(CONFIG, steps=100_000)
    started, done, every = time.monotonic(), 0, 2
    run(tiny, tmp_path / "timed.safetensors", replace(CONFIG, steps=2), every=every)
    moments, longest = random.Random(0), 1.5 * (time.monotonic() - started)
    told.write_bytes(b"")

    def work() -> None:
        with told.open("ab") as file:

            def tell(step: TrainStep) -> None:
                file.write(b"%d\n" % (step.step + 1))
                file.flush()

            run(tiny, target, config, every=every, on_step=tell)

    for _ in range(20):
        child = in_a_child(work)
        time.sleep(moments.uniform(0.05, 1) * longest)
        os.kill(child, signal.SIGKILL)
        killed(child)
        last = int(told.read_bytes().split()[-1]) if told.stat().st_size else 0
        kept = trained_steps(target)
        assert kept >= max(done, (last - 1) // every * every), "the step that was told last may not be kept yet"
        assert not target.exists() or load_subject(target).steps in (kept, kept - every)
        assert_the_same_command_goes_on(target)
        if kept == done:  # other programs may slow it down
            longest *= 1.2
        done = kept
    assert done > 3
    config = replace(config, steps=done + 3)
    assert_equal(run(tiny, target, config, every=100), run(tiny, None, config))


def trained_steps(target: Path) -> int:
    """How far the state of a run is."""
    if not has_run(target):
        return 0
    with open_tensor_file(run_folder(target) / STATE) as file:
        return len(file.read("history"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("start_over", [False, True])
@pytest.mark.parametrize("written", [1, 2, 3])
def test_killed_between_two_files_the_same_command_goes_on(
    tiny: VideoCrafter2, tmp_path: Path, written: int, start_over: bool
) -> None:
    """After each of the files of the first checkpoint; also where an earlier run's subject has the name."""

    target, config = tmp_path / "dog.safetensors", replace(CONFIG, steps=2)
    if start_over:
        run(tiny, target, replace(CONFIG, steps=1, seed=9))

    def work() -> None:
        count = 0

        def then_die(write: Callable[..., object]) -> Callable[..., object]:
            def wrapped(*args: object, **kwargs: object) -> object:
                nonlocal count
                result = write(*args, **kwargs)
                count += 1
                if count == written:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return wrapped

        checkpoints.save_subject = then_die(checkpoints.save_subject)  # of this process alone
        checkpoints.write_tensors = then_die(checkpoints.write_tensors)
        train_subject(
            tiny,
            photos(),
            config,
            prior=photos(45),
            run_options=RunOptions(target, start_over=start_over, checkpoint_every=1),
        )

    killed(in_a_child(work))
    assert_the_same_command_goes_on(target)
    assert_equal(run(tiny, target, config), run(tiny, None, config))
    assert load_subject(target).steps == 2 and load_subject(target).training["seed"] == CONFIG.seed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_full_disk_leaves_the_old_files(tiny: VideoCrafter2, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    run(tiny, target, replace(CONFIG, steps=2))
    before = {path: path.read_bytes() for path in (target, run_folder(target) / STATE)}

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
