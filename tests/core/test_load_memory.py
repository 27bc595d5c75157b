"""Loading never holds a second copy of the weights: measured in a process of its own, on a model of 300 MB.

The bound is the project's own: at its peak 1.1 times the weights in the dtype wanted, plus the largest tensor as the
file stores it, plus what safetensors maps at once, however large the file; counted are the process's pages above what
its imports took, those mapped from the file included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from customcrafter_core.base_model.config import (
    Defaults,
    ModelConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
    config_metadata,
)
from customcrafter_core.base_model.networks import build_networks
from customcrafter_core.base_model.writing import original_state_dict
from tests.core import tiny_models

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc, which only Linux has"
)

MB = 2**20
MAPPED_AT_ONCE = 64 * MB
CONFIG = ModelConfig(
    UNetConfig(
        (64, 128, 256, 256),
        layers_per_block=2,
        attends=(True, True, True, False),
        cross_attention_dim=256,
        attention_head_dim=32,
        norm_num_groups=32,
    ),
    TextConfig(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4),
    VAEConfig((32, 64, 64), layers_per_block=1, norm_num_groups=32),
)

CASES = [(kind, dtype) for kind in ("safetensors", "ckpt") for dtype in ("float32", "float16")]
MEASURE = """
import json, os, sys, torch
torch.set_num_threads(1)
from customcrafter_core.base_model.config import read_config
from customcrafter_core.base_model.loading import load_videocrafter2

def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

tiny, metadata, cases = json.loads(sys.argv[1])
load_videocrafter2(tiny)  # everything that is imported on the way
for path, dtype in cases:
    if os.fork():
        assert os.wait()[1] == 0
        continue
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
    before = memory("VmRSS")
    assert memory("VmHWM") < before + 2**22, "the peak was not reset"
    model = load_videocrafter2(path, dtype=getattr(torch, dtype), config=read_config(metadata)[0])
    parts = (model.unet, model.text_encoder, model.vae)
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    print(json.dumps([memory("VmHWM") - before, weights]), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights under VideoCrafter2's names, with a schedule buffer and the unused last block as in the original."""
    with torch.device("meta"):
        shapes = original_state_dict(build_networks(CONFIG), CONFIG)
    state = {name: torch.empty(value.shape).uniform_(-0.1, 0.1) for name, value in shapes.items()}
    assert 250 * MB < sum(value.nbytes for value in state.values()) < 350 * MB
    return state


@pytest.fixture(scope="module")
def measured(
    state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[int, int]]:
    """Peak and weights in bytes of each case; each in a process that has done nothing but the imports."""
    folder = tmp_path_factory.mktemp("large")
    tiny = tiny_models.write(folder / "tiny.safetensors", tiny_models.state_dict())
    metadata = config_metadata(CONFIG, Defaults())
    save_file(state, folder / "model.safetensors", metadata=metadata)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(40 * MB // 4)}}}  # not to be read at all
    torch.save({"optimizer_states": [optimizer], "state_dict": state}, folder / "model.ckpt")
    arguments = [str(tiny), metadata, [(str(folder / f"model.{kind}"), dtype) for kind, dtype in CASES]]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(arguments)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for file in folder.iterdir():
        file.unlink()
    return {case: tuple(json.loads(line)) for case, line in zip(CASES, result.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_peak_memory_of_loading(
    measured: dict[tuple[str, str], tuple[int, int]], state: dict[str, torch.Tensor], case: tuple[str, str]
) -> None:
    peak, weights = measured[case]
    largest = max(value.nbytes for value in state.values())
    message = f"peak {peak / MB:.0f} MB, weights {weights / MB:.0f} MB, largest tensor {largest / MB:.0f} MB"
    assert peak < 1.1 * weights + largest + MAPPED_AT_ONCE, message
    assert peak > 0.9 * weights, message  # else nothing was measured
    print(message)
