"""Numbers of the original VideoCrafter2 modules and of the paper's Algorithm 1, float32, one thread.

``CUSTOMCRAFTER_VECTORS`` names another folder of vectors of any salt and sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from customcrafter_core.base_model import video_layers
from customcrafter_core.base_model.config import VIDEOCRAFTER2
from customcrafter_core.base_model.conversion import match
from customcrafter_core.base_model.key_tables import unet_table
from customcrafter_core.base_model.model import SCALE_FACTOR, VideoCrafter2
from customcrafter_core.base_model.networks import build_networks
from customcrafter_core.base_model.text import PromptTokenizer, encode_ids
from customcrafter_core.diffusion.ddim import Prediction, ddim_levels, ddim_steps
from customcrafter_core.diffusion.guidance import GuidanceBatch, GuidedUNet
from customcrafter_core.diffusion.schedule import NoiseSchedule
from customcrafter_core.diffusion.strength import TwoPhase, strengths_of
from customcrafter_core.files.tensor_file import open_tensor_file
from customcrafter_core.subject.adapter import attached
from customcrafter_core.subject.formats import read_factors
from customcrafter_core.subject.subject import Subject
from customcrafter_core.subject.targets import lora_targets
from tests.core import vectors
from tests.core.vectors import relative_l2

Reference = tuple[dict[str, Any], dict[str, torch.Tensor]]
DESCRIPTION = vectors.load()[0]


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("positions", [None, 1, 12], ids=["as chosen", "shortest slices", "short slices"])
def test_unet(
    model: VideoCrafter2, reference: Reference, monkeypatch: pytest.MonkeyPatch, positions: int | None
) -> None:
    """Also in slices, as only large models on large videos are run by themselves."""
    _, t = reference
    if positions is not None:
        monkeypatch.setitem(video_layers.SLICE_BYTES, "cpu", 1)
        monkeypatch.setattr(video_layers, "SHORTEST_SLICE", positions)
    out = model.unet(t["unet.x"], t["unet.t"], t["unet.context"], timestep_cond=t["unet.fps"]).sample
    assert relative_l2(out, t["unet.out"]) < 1e-5


def test_text(model: VideoCrafter2, reference: Reference) -> None:
    description, t = reference
    ids = PromptTokenizer()(description["text"]["prompts"])
    assert torch.equal(ids, t["text.tokens"])
    assert relative_l2(encode_ids(model.text_encoder, ids), t["text.out"]) < 1e-5


def test_vae(model: VideoCrafter2, reference: Reference) -> None:
    _, t = reference
    mean, std = model.encode_moments(t["vae.image"])
    assert relative_l2(mean / SCALE_FACTOR, t["vae.mean"]) < 1e-5
    assert relative_l2(std / SCALE_FACTOR, t["vae.std"]) < 1e-5
    assert relative_l2(model.vae.decode(t["vae.mean"]).sample, t["vae.decoded"]) < 1e-5


@pytest.mark.parametrize("steps", [50, 25])
@pytest.mark.parametrize("eta", [0, 1])
def test_ddim(reference: Reference, eta: int, steps: int) -> None:
    description, t = reference
    schedule, noise, cfg = NoiseSchedule.videocrafter2(), t["ddim.noise"], description["ddim"]["cfg"]
    batch = noise[0].shape if noise[0].ndim == 5 else (1, *noise[0].shape)
    draws = iter(noise.reshape(-1, *batch))

    def toy(x: torch.Tensor, timestep: int, c: float) -> torch.Tensor:
        return torch.tanh(x * (0.7 + 0.2 * c) + 0.3 * torch.sin(torch.tensor(float(timestep)))) + 0.1 * c

    timesteps = schedule.ddim_timesteps(steps)

    def predict(x: torch.Tensor, step: int) -> Prediction:
        cond, uncond = toy(x, timesteps[step], 1), toy(x, timesteps[step], 0)
        return Prediction(uncond + cfg * (cond - uncond), cond, uncond)

    levels = ddim_levels(schedule, timesteps, exact_tail=False)
    *_, last = ddim_steps(predict, next(draws), levels, noise=lambda _: next(draws), eta=eta)
    assert relative_l2(last.following, t[f"ddim.eta{eta}.steps{steps}"]) < 1e-5
    assert relative_l2(last.x0, t[f"ddim.eta{eta}.steps{steps}.x0_last"]) < 1e-5


@pytest.mark.parametrize("batch", [GuidanceBatch.TOGETHER, GuidanceBatch.ONE_BY_ONE])
@pytest.mark.parametrize("run", range(len(DESCRIPTION["algorithm1"]["runs"])))
def test_algorithm1(model: VideoCrafter2, reference: Reference, tmp_path: Path, run: int, batch: GuidanceBatch) -> None:
    description, t = reference
    algorithm = description["algorithm1"]
    settings = algorithm["runs"][run]
    path = tmp_path / "authors.safetensors"
    save_file(vectors.weights(algorithm["lora_keys"], description["recipe"]["salt"]), path)
    with open_tensor_file(path) as file:
        factors = read_factors(file, lora_targets(model.unet), unet_table(model.config.unet))
    assert len(factors) * 2 == len(algorithm["lora_keys"])
    subject = Subject(factors, torch.zeros(1, model.config.text.hidden_size))

    noise = iter(t["algorithm1.noise"].split(1))
    timesteps = model.schedule.ddim_timesteps(algorithm["steps"])
    strengths = strengths_of(TwoPhase(settings["lambda_s"], settings["lambda_l"], settings["K"]), len(timesteps))
    cond, uncond = t["algorithm1.cond"], t["algorithm1.uncond"]
    unet = GuidedUNet(model.unet, cond, uncond, cfg=algorithm["cfg"], fps=algorithm["fps"], batch=batch)
    with attached(model.unet, [subject]) as attachment:

        def predict(x: torch.Tensor, step: int) -> Prediction:
            attachment.set_strengths([strengths[step]])
            return unet(x, timesteps[step])

        levels = ddim_levels(model.schedule, timesteps, exact_tail=False)
        *_, last = ddim_steps(predict, next(noise), levels, noise=lambda _: next(noise), eta=settings["eta"])
    assert relative_l2(last.following, t[f"algorithm1.{run}.out"]) < 1e-4


def test_full_size_key_list_converts_strictly() -> None:
    """All 2 026 names of the real checkpoint, on the meta device: nothing is left over on either side."""
    listed = json.loads((vectors.FOLDER / "videocrafter2_keys.json").read_text())
    shapes = {name: tuple(shape) for name, shape in listed.items()}
    with torch.device("meta"):
        networks = build_networks(VIDEOCRAFTER2)
    sources = match(shapes, networks, VIDEOCRAFTER2)
    parameters = sum(len(module.state_dict()) for module in (networks.unet, networks.text_encoder, networks.vae))
    assert len(sources) == parameters
    assert len(lora_targets(networks.unet)) == 96
    assert sum(p.numel() for p in networks.unet.parameters()) == 1_413_284_420
