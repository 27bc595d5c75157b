"""Two processes that train together give what one with twice the batch gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from customcrafter_core.cli.main import main
from customcrafter_core.subject.file import load_subject
from tests.core import tiny_models

ROOT = Path(__file__).parents[2]
SETTINGS = ["--steps", "3", "--lr", "0.001", "--frames", "2", "--views", "2", "--seed", "5", "--device", "cpu"]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    base = tiny_models.write(tmp_path / "model.safetensors", tiny_models.state_dict())
    for folder in ("photos", "prior"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            turned = Image.linear_gradient("L").resize((80, 60)).rotate(40 * i)
            turned.convert("RGB").save(tmp_path / folder / f"{i}.png")
    arguments = ["train", str(tmp_path / "photos"), "--prior", str(tmp_path / "prior"), "--base", str(base)]
    arguments += ["--class-word", "dog", "--caption-dropout", "0.5", *SETTINGS]
    assert main([*arguments, "--batch", "2", "--out", str(tmp_path / "one.safetensors")]) == 0

    output = in_two_processes([*arguments, "--batch", "1", "--out", str(tmp_path / "two.safetensors")])
    one, two = (load_subject(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert torch.allclose(one.embedding, two.embedding, atol=1e-5)
    for name, pair in one.factors.items():
        assert torch.allclose(pair.up, two.factors[name].up, atol=1e-5)
        assert torch.allclose(pair.down, two.factors[name].down, atol=1e-5)
    assert pair.up.abs().max() > 1e-3
    assert output.count("Call it in prompts") == 1
    assert (one.training["processes"], one.training["batch"]) == (1, 2)
    assert (two.training["processes"], two.training["batch"]) == (2, 1)


def in_two_processes(arguments: list[str]) -> str:
    """Run a command by torch's launcher; returns what all have printed.

    ``accelerate launch`` calls that launcher for GPUs; for CPUs it starts a single process unless there is MPI.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]  # standalone: the port is its own
    done = subprocess.run(
        [sys.executable, *launch, "-m", "customcrafter_core", *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    assert not done.returncode, done.stdout
    return done.stdout
