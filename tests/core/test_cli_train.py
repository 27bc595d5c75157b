"""``train`` on the command line: settings from a file, going on after a stop, starting over, what lies beside the file."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from customcrafter_core.cli.main import main
from customcrafter_core.diffusion.strength import TwoPhase
from customcrafter_core.subject.file import load_subject
from customcrafter_core.training.checkpoints import LOSS_PICTURE, SAMPLE_STRIP, STATE, run_folder
from customcrafter_core.training.trainer import Trainer, TrainStep
from tests.core import tiny_models

FAST = {"steps": 4, "lr": 0.01, "frames": 2, "views": 2, "rank": 2, "class_word": "dog"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model, photos and a settings file that names them."""
    tiny_models.write(tmp_path / "model.safetensors", tiny_models.state_dict())
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.linear_gradient("L").resize((80, 60)).rotate(40 * i).convert("RGB").save(tmp_path / "photos" / f"{i}.png")
    paths = {"photos": "photos", "base": "model.safetensors", "out": "dog.safetensors"}
    (tmp_path / "dog.json").write_text(json.dumps({**paths, **FAST}))
    return tmp_path


def wrong(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_all_settings_from_a_file_and_some_from_the_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(folder / "dog.json"), "--token", "<dog>", "--sample-every", "2"]
    assert main([*arguments, "--sample-steps", "1", "--resize", "0.5", "1.2"]) == 0
    shown = capsys.readouterr().out
    assert "Training takes about" in shown and str(folder / "dog.safetensors") in shown
    subject = load_subject(folder / "dog.safetensors")
    assert (subject.trigger, subject.steps, subject.rank) == ("<dog> dog", 4, 2)
    assert subject.training["resize"] == [0.5, 1.2]
    assert "no prior pictures, so nothing keeps the class from being forgotten; the paper has 200" in shown
    assert (subject.training["photos"], subject.training["prior_pictures"]) == (2, 0)
    assert "2 shown whole: their shape is not that of 32x16" in shown
    for name in (STATE, LOSS_PICTURE, SAMPLE_STRIP):
        assert (run_folder(folder / "dog.safetensors") / name).is_file()


def test_device_and_dtype_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "dog.json").read_text())
    (folder / "half.json").write_text(json.dumps({**content, "device": "cpu", "dtype": "float16"}))
    arguments = ["train", "--config", str(folder / "half.json")]
    assert "float16" in wrong(arguments, capsys)
    assert main([*arguments, "--dtype", "float32", "--steps", "1"]) == 0


def test_toml_says_the_same(folder: Path) -> None:
    pytest.importorskip("tomllib")
    lines = [f"{name.replace('_', '-')} = {json.dumps(value)}" for name, value in FAST.items()]
    lines += ['photos = "photos"', 'base = "model.safetensors"', 'out = "toml.safetensors"', 'token = "<dog>"']
    (folder / "dog.toml").write_text("\n".join(lines))
    assert main(["train", "--config", str(folder / "dog.toml")]) == 0
    assert main(["train", "--config", str(folder / "dog.json"), "--token", "<dog>"]) == 0
    one, other = (load_subject(folder / f"{name}.safetensors") for name in ("toml", "dog"))
    assert torch.equal(one.embedding, other.embedding)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"class_word": "dog", "rate": 1}', "rate"),
        ('{"class_word": ', "JSON"),
        ("[1]", "names and values"),
        (
            '{"class_word": "dog", "steps": "many", "out": "x.safetensors", "photos": "photos"}',
            "steps as a whole number",
        ),
        ('{"class_word": "dog", "captions": [1], "out": "x.safetensors"}', "captions as text"),
        ('{"class_word": "dog", "resize": ["a", 1], "out": "x.safetensors"}', "resize as a number"),
        ('{"class_word": "dog", "timestep_range": [0.5, 10], "out": "x.safetensors"}', "timestep_range as a whole"),
        ('{"class_word": "dog", "checkpoint_every": "often"}', "checkpoint_every as a whole number"),
        ('{"class_word": "dog", "photos": 5}', "photos as text"),
        ('{"class_word": "dog", "make_prior": "many"}', "make_prior as a whole number"),
        ('{"class_word": "dog", "skip_broken": "no"}', "skip_broken as true or false"),
        ('{"class_word": "dog", "preset": "fast", "out": "x.safetensors", "photos": "photos"}', "a preset"),
        ('{"class_word": "dog", "device": 1}', "device as text"),
        ('{"class_word": "dog", "out": "x.safetensors", "photos": "photos", "device": "tpu"}', "a device of"),
        ('{"class_word": "dog", "out": "x.safetensors", "photos": "photos", "dtype": "int8"}', "dtype: auto"),
        ('{"class_word": "dog"}', "--out FILE"),
        ('{"out": "x.safetensors", "photos": "photos"}', "--class-word"),
        ('{"class_word": "dog", "out": "x.safetensors"}', "a folder of photos"),
    ],
)
def test_a_wrong_file_is_refused(folder: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wrong.json").write_text(content)
    assert words in wrong(["train", "--config", str(folder / "wrong.json")], capsys)
    assert "settings file" in wrong(["train", "--config", str(folder / "absent.json")], capsys)


def interrupt_after_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C in the third step would."""
    step = Trainer.step

    def interrupted(self: Trainer) -> TrainStep:
        if self.done == 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)


def test_an_interrupted_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Trainer.step
    interrupt_after_two_steps(monkeypatch)
    arguments = ["train", "--config", str(folder / "dog.json")]
    assert main(arguments) == 130
    assert load_subject(folder / "dog.safetensors").steps == 2
    assert "Saved at step 2 of 4; run the same command again to go on." in capsys.readouterr().err
    monkeypatch.undo()
    made: list[int] = []
    monkeypatch.setattr(Trainer, "step", lambda self: made.append(self.done) or step(self))
    assert main(arguments) == 0
    assert made == [2, 3]
    assert "Goes on from step 2 of 4." in capsys.readouterr().out
    assert main(arguments) == 0 and made == [2, 3]
    assert "All 4 steps were made before" in capsys.readouterr().out
    assert main([*arguments, "--out", str(folder / "whole.safetensors")]) == 0
    one, whole = (load_subject(folder / f"{name}.safetensors") for name in ("dog", "whole"))
    assert torch.equal(one.embedding, whole.embedding)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(
    folder: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An update that broke off could not be kept: what was learned since the last checkpoint would be lost."""
    before, update = signal.getsignal(number), torch.optim.AdamW.step

    def disturbed(self: torch.optim.AdamW) -> None:
        signal.raise_signal(number)
        update(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", disturbed)
    assert main(["train", "--config", str(folder / "dog.json")]) == 130
    told = capsys.readouterr().err
    assert "Saved at step 1 of 4" in told and "Traceback" not in told
    assert load_subject(folder / "dog.safetensors").steps == 1
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(self: Trainer) -> TrainStep:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still there")

    monkeypatch.setattr(Trainer, "step", stuck)
    assert main(["train", "--config", str(folder / "dog.json")]) == 130


def test_force_begins_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(folder / "dog.json")]
    assert main(arguments) == 0
    assert "start over" in wrong([*arguments, "--seed", "7"], capsys)
    kept = (run_folder(folder / "dog.safetensors") / STATE).read_bytes()
    assert "divisible" in wrong([*arguments, "--width", "33", "--force"], capsys)
    assert (run_folder(folder / "dog.safetensors") / STATE).read_bytes() == kept  # nothing lost before the new run runs
    assert main([*arguments, "--seed", "7", "--force"]) == 0
    assert load_subject(folder / "dog.safetensors").training["seed"] == 7


def test_a_run_begun_anew_goes_on_without_force(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--config", str(folder / "dog.json")]
    assert main([*arguments, "--steps", "1"]) == 0
    interrupt_after_two_steps(monkeypatch)
    assert main([*arguments, "--seed", "7", "--force"]) == 130
    assert "run the same command without --force to go on" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*arguments, "--seed", "7"]) == 0
    assert "Goes on from step 2 of 4." in capsys.readouterr().out


def test_the_base_model_makes_missing_prior_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(folder / "dog.json"), "--prior", str(folder / "prior"), "--make-prior", "2"]
    assert main(arguments) == 0
    assert "2 photos, 2 prior pictures. 2 shown whole" in capsys.readouterr().out
    assert load_subject(folder / "dog.safetensors").training["prior_pictures"] == 2
    made = {path: path.read_bytes() for path in (folder / "prior").glob("*.png")}
    assert len(made) == 2
    assert main([*arguments, "--out", str(folder / "again.safetensors")]) == 0
    assert {path: path.read_bytes() for path in (folder / "prior").glob("*.png")} == made


def test_a_run_that_will_be_refused_makes_no_prior_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(folder / "dog.json"), "--prior", str(folder / "prior"), "--make-prior", "1"]
    assert main(arguments) == 0
    shutil.rmtree(folder / "prior")
    assert "rank 2 then, 3 now" in wrong([*arguments, "--rank", "3"], capsys)
    assert not (folder / "prior").exists()


def test_broken_photos_are_refused_or_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "broken.jpg").write_bytes(b"no image")
    shutil.copytree(folder / "photos", folder / "prior")
    (folder / "prior" / "broken.jpg").rename(folder / "prior" / "damaged.jpg")
    arguments = ["train", "--config", str(folder / "dog.json"), "--prior", str(folder / "prior")]
    assert "broken.jpg" in wrong(arguments, capsys)
    assert main([*arguments, "--skip-broken", "--steps", "1"]) == 0
    (folder / "photos" / "broken.jpg").unlink()
    assert "damaged.jpg" in wrong(arguments, capsys)


def test_without_its_state_a_finished_subject_is_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(folder / "dog.json")]
    assert main(arguments) == 0
    (run_folder(folder / "dog.safetensors") / STATE).unlink()
    before = (folder / "dog.safetensors").read_bytes()
    assert "--force" in wrong([*arguments, "--seed", "7"], capsys)
    assert (folder / "dog.safetensors").read_bytes() == before


def test_no_prior_images_are_made_for_nothing(folder: Path) -> None:
    arguments = ["train", "--config", str(folder / "dog.json"), "--prior", str(folder / "prior"), "--make-prior", "2"]
    assert main([*arguments, "--prior-weight", "0"]) == 0
    assert not (folder / "prior").exists()


def test_a_subject_of_the_demos_preset_recommends_what_the_demo_does(folder: Path) -> None:
    arguments = ["train", "--config", str(folder / "dog.json"), "--steps", "1"]
    for preset, k in (("paper", 5), ("demo", 10)):
        out = folder / f"{preset}.safetensors"
        assert main([*arguments, "--preset", preset, "--out", str(out)]) == 0
        assert load_subject(out).recommended == TwoPhase(0.4, 0.8, k)
