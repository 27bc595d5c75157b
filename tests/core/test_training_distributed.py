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


@pytest.mark.parametrize(("dropout", "launched"), [("0", True), ("0.5", False)])
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, dropout: str, launched: bool) -> None:
    base = tiny_models.write(tmp_path / "model.safetensors", tiny_models.state_dict())
    for folder in ("photos", "prior"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            turned = Image.linear_gradient("L").resize((80, 60)).rotate(40 * i)
            turned.convert("RGB").save(tmp_path / folder / f"{i}.png")
    arguments = ["train", str(tmp_path / "photos"), "--prior", str(tmp_path / "prior"), "--base", str(base)]
    arguments += ["--class-word", "dog", "--caption-dropout", dropout, *SETTINGS]
    assert main([*arguments, "--batch", "2", "--out", str(tmp_path / "one.safetensors")]) == 0

    output = in_two_processes(
        [*arguments, "--batch", "1", "--out", str(tmp_path / "two.safetensors")], launched=launched
    )
    one, two = (load_subject(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert torch.allclose(one.embedding, two.embedding, atol=1e-5)
    for name, pair in one.factors.items():
        assert torch.allclose(pair.up, two.factors[name].up, atol=1e-5)
        assert torch.allclose(pair.down, two.factors[name].down, atol=1e-5)
    assert pair.up.abs().max() > 1e-3
    assert output.count("Call it in prompts") == 1
    assert (one.training["processes"], one.training["batch"]) == (1, 2)
    assert (two.training["processes"], two.training["batch"]) == (2, 1)


def in_two_processes(arguments: list[str], *, launched: bool) -> str:
    """Run a command by torch's launcher, or in the environment that it makes; returns what all have printed.

    ``accelerate launch`` calls that launcher for GPUs; for CPUs it starts a single process unless there is MPI.
    """
    program, port = ["-m", "customcrafter_core", *arguments], free_port()
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    by_hand = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    by_hand |= {"LOCAL_WORLD_SIZE": "2"}
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    commands = [(program, {**by_hand, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**shared, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, own in ([([*launch, *program], {})] if launched else commands)
    ]
    output = [process.communicate(timeout=600)[0] for process in processes]
    assert not any(process.returncode for process in processes), output
    return "".join(output)
