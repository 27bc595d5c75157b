"""Fixtures of the host's tests: every host found, one after the other, with models and subjects to load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_subjects
import torch
from bench import Bench
from host_models import write_model
from running_host import NO_HOST, RunningHost, found_hosts

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.subject.file import save_subject
from customcrafter_core.subject.subject import Subject

torch.set_num_threads(1)
HOSTS = found_hosts()


@pytest.fixture(scope="session")
def reference_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint in VideoCrafter2's format."""
    return write_model(tmp_path_factory.mktemp("reference") / "reference.safetensors")


@pytest.fixture(scope="session")
def model(reference_file: Path) -> VideoCrafter2:
    """The same model in the core."""
    return load_videocrafter2(reference_file)


@pytest.fixture(scope="session")
def subjects(model: VideoCrafter2) -> dict[str, Subject]:
    """Two subjects of the model."""
    return {
        "first": small_subjects.random_subject(model, seed=1),
        "second": small_subjects.random_subject(model, seed=5, placeholder="<new2>", vectors=2),
    }


@pytest.fixture(scope="session", params=HOSTS or [None], ids=lambda folder: folder.name if folder else "no host")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    """A running host."""
    if request.param is None:
        pytest.skip(f"{NO_HOST}: set COMFYUI_PATH to its folder")
    running = RunningHost(request.param, tmp_path_factory.mktemp("host"))
    provide(running, request)
    try:
        yield running.start()
    finally:
        running.stop()


def provide(running: RunningHost, request: pytest.FixtureRequest) -> None:
    """Put models and subjects into the host's folders before it starts."""
    models = running.base / "models"
    (models / "checkpoints").mkdir(parents=True)
    (models / "checkpoints" / "reference.safetensors").symlink_to(request.getfixturevalue("reference_file"))
    subjects: dict[str, Any] = request.getfixturevalue("subjects")
    for name, subject in subjects.items():
        save_subject(subject, models / "loras" / f"{name}.safetensors")


@pytest.fixture
def bench(host: RunningHost) -> Bench:
    """Short ways to build and run graphs on the host."""
    return Bench(host)
