"""The Subject Trainer on a real host: end to end, like the command line, stopped and continued, and gone afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, Scene, distance
from PIL import Image
from running_host import ROOT, PromptFailed, RunningHost, host_python

from customcrafter_core.base_model.tensor_file import open_tensor_file
from customcrafter_core.subject.file import load_subject

COUNT, WIDTH, HEIGHT = 3, 64, 48
SETTINGS = {"steps": 6, "lr": 1e-3, "seed": 4, "frames": 2, "views": 2}
OBJECTS = ("Trainer", "Learner", "Examples", "VideoCrafter2", "_Run", "Watch")
LINES = "a {} at rest\n\na small {}"


def photos(count: int = COUNT, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Noise that stands in for photos, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def as_values(pixels: np.ndarray) -> dict[str, Any]:
    """An IMAGE for the node that takes a tensor from the test."""
    return {"__value__": (pixels.astype(np.float32) / 255).tolist()}


class Course(Scene):
    """A graph that trains."""

    def __init__(self, host: RunningHost, *, fresh: bool = False) -> None:
        super().__init__(host, "float32", "a bear", None)
        self.loaded = {"model": self.model, "clip": self.clip, "vae": self.vae}
        if fresh:
            self.loaded["model"] = self.fresh().model
        self.images = self.add("ProbeTensor", values=as_values(photos()))[0]

    def trainer(self, **changes: Any) -> Any:
        """The Subject Trainer."""
        inputs: dict[str, Any] = {
            **self.loaded, "images": self.images, "class_word": "bear", "token": "<new1>", "name": "trained",
            "preset": "paper", "start": "continue", "captions": LINES, **SETTINGS,
        }  # fmt: skip
        return self.add("CustomCrafterSubjectTrainer", **(inputs | changes))

    def refused(self, **changes: Any) -> str:
        """What is said about inputs that cannot be used; nothing is written."""
        self.trainer(**changes)
        loras = self.host.base / "models" / "loras"
        before = sorted(loras.rglob("*"))
        with pytest.raises(PromptFailed) as failed:
            self.run()
        assert failed.value.kind.endswith("InputError"), failed.value
        assert sorted(loras.rglob("*")) == before
        return failed.value.message


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file."""
    with open_tensor_file(path) as file:
        return {name: file.read(name) for name in file.tensors}


def subject_file(host: RunningHost, name: str) -> Path:
    """Where the trainer writes."""
    return host.base / "models" / "loras" / f"{name}.safetensors"


def test_learns_as_the_command_line_does(bench: Bench, reference_file: Path, tmp_path: Path) -> None:
    for number, pixels in enumerate(photos()):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    for number, caption in enumerate(LINES.splitlines()):
        if caption:
            (tmp_path / f"{number}.txt").write_text(caption)
    course = Course(bench.host)
    course.trainer(name="here")
    course.run()
    options = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
    out = tmp_path / "there.safetensors"
    subprocess.run(
        [host_python(bench.host.folder), "-m", "customcrafter_core", "train", str(tmp_path), "--base",
         str(reference_file), "--class-word", "bear", "--preset", "paper", "--out", str(out), "--device", "cpu",
         *options],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    here, there = tensors_of(subject_file(bench.host, "here")), tensors_of(out)
    assert here.keys() == there.keys()
    assert max(distance(here[name], there[name]) for name in here) < 1e-5
    one, other = load_subject(subject_file(bench.host, "here")), load_subject(out)
    assert one.training == other.training and one.trigger == other.trigger and one.steps == other.steps
