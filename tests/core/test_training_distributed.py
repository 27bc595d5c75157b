"""Two processes that train together give what one with twice the batch gives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from PIL import Image

from customcrafter_core.cli.main import main
from customcrafter_core.subject.file import load_subject

ROOT = Path(__file__).parents[2]
SETTINGS = ["--steps", "3", "--lr", "0.001", "--frames", "2", "--views", "2", "--seed", "5", "--device", "cpu"]


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


@pytest.mark.parametrize("dropout", ["0", "0.5"])
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, dropout: str) -> None:
    base = tiny_models.write(tmp_path / "model.safetensors", tiny_models.state_dict())
    for folder in ("photos", "prior"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            turned = Image.linear_gradient("L").resize((80, 60)).rotate(40 * i)
            turned.convert("RGB").save(tmp_path / folder / f"{i}.png")
    arguments = ["train", str(tmp_path / "photos"), "--prior", str(tmp_path / "prior"), "--base", str(base)]
    arguments += ["--class-word", "dog", "--caption-dropout", dropout, *SETTINGS]
    assert main([*arguments, "--batch", "2", "--out", str(tmp_path / "one.safetensors")]) == 0

    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "customcrafter_core", *arguments, "--batch", "1"]
    processes = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / "two.safetensors")],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    output = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    one, two = (load_subject(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert torch.allclose(one.embedding, two.embedding, atol=1e-5)
    for name, pair in one.factors.items():
        assert torch.allclose(pair.up, two.factors[name].up, atol=1e-5)
        assert torch.allclose(pair.down, two.factors[name].down, atol=1e-5)
    assert pair.up.abs().max() > 1e-3
    assert sum("Call it in prompts" in text for text in output) == 1
