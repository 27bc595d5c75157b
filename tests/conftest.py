"""What all tests share: the hosts found, each started once; which tests run beside which; what could not be tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.subject.file import save_subject
from customcrafter_core.subject.subject import Subject
from tests.core import small_subjects
from tests.host.host_models import write_model
from tests.host.running_host import NO_HOST, RunningHost, found_hosts, host_version
from tests.host.telling import not_tested

torch.set_num_threads(1)  # sums come out the same every time
HOSTS = found_hosts()
ALONE = {"test_memory_of_many_queues", "test_killed_in_the_middle_of_everything"}
"""Tests that start hosts of their own."""
INSTALLED = {"test_archive.py", "test_paths.py"}
"""Files that ask each host the same, which a process does once."""


def host_of(test: str) -> Path | None:
    """The folder of the running host that a test needs, from the test's id; None if it needs none."""
    file, _, name = test.partition("::")
    names = [folder for folder in HOSTS if f"[{folder.name}-" in name or f"[{folder.name}]" in name]
    is_run_on_one = Path(file).parent.name in ("host", "browser")
    return max(names, key=lambda folder: len(folder.name), default=None) if is_run_on_one else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on another host than the newest, which everyday runs leave out."""
    newest = max(HOSTS, key=host_version, default=None)
    for item in items:
        if host_of(item.nodeid) not in (None, newest):
            item.add_marker(pytest.mark.older_host)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes run tests: those that share a running host stay together, else those of a file.

    The page's tests have a host of their own, and those that start hosts themselves stand alone.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByHost(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, name = nodeid.partition("::")
            host = host_of(nodeid)
            if Path(file).name in INSTALLED:
                return "installed"
            return file if host is None or name.partition("[")[0] in ALONE else f"{Path(file).parent.name} {host}"

    return ByHost(config, log)


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


@pytest.fixture(scope="session")
def run_host(
    tmp_path_factory: pytest.TempPathFactory, reference_file: Path, subjects: dict[str, Subject]
) -> Callable[[Path | None], AbstractContextManager[RunningHost]]:
    """Runs a host with the model and the subjects in its folders, as long as a ``with`` lasts."""

    @contextmanager
    def running(folder: Path | None) -> Iterator[RunningHost]:
        if folder is None:
            pytest.skip(f"{NO_HOST}: set COMFYUI_PATH to its folder")
        host = RunningHost(folder, tmp_path_factory.mktemp("host"))
        models = host.base / "models"
        for name in ("checkpoints", "loras"):
            (models / name).mkdir(parents=True)
        (models / "checkpoints" / "reference.safetensors").symlink_to(reference_file)
        for name, subject in subjects.items():
            save_subject(subject, models / "loras" / f"{name}.safetensors")
        try:
            yield host.start()
        finally:
            host.stop()

    return running


@pytest.fixture(scope="session", params=HOSTS or [None], ids=lambda folder: folder.name if folder else "no host")
def host(request: pytest.FixtureRequest, run_host: Any) -> Iterator[RunningHost]:
    """A running host with the model and the subjects in its folders; the page's tests have another."""
    with run_host(request.param) as running:
        yield running


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what was not tested for want of a host or a browser."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    reports = [report for kind in ("passed", "failed", "error") for report in terminalreporter.stats.get(kind, [])]
    told = not_tested(skipped, HOSTS if any(host_of(report.nodeid) for report in reports) else [])
    if told:
        terminalreporter.write_sep("!", "NOT TESTED", red=True, bold=True)
        for line in told:
            terminalreporter.write_line(line, red=True, bold=True)
