"""A whole guided sampling run against its bare forward passes: nothing can be faster with this network.

- *bare*: ``unet(x)`` with the prompt and without it in one batch, once for each step, and nothing else;
- *product*: one large matrix product with about a tenth of its operations: the speed that the device can reach;
- *base*: `generate` without a subject: text, noise, guidance, DDIM;
- *constant*, *dynamic*: the same with a subject of rank 4 on all targets, at one strength and at two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.diffusion.guidance import GuidanceBatch
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings, resolve
from customcrafter_core.subject.prompts import encode_prompts
from customcrafter_core.subject.subject import LoRAFactors, Subject
from customcrafter_core.subject.targets import lora_targets

from .results import Row, Section, at_most
from .setup import Setup, random_model
from .timing import time_in_turns
from .unet import counted_operations

RANK, STEPS = 4, 4
MOST_OF_BARE = 1.02
SECONDS_A_VIDEO = 3.2  # 50 steps with guidance, 16 frames of 512x320, bf16, on an H200: half of its peak


def measure(setup: Setup) -> Section:
    """Time of whole runs over that of their forward passes."""
    model = random_model(setup)
    on_gpu = setup.device.type == "cuda"
    steps = setup.steps(50 if on_gpu else STEPS)
    settings = resolve(model, VideoSettings("a <new1> cup", steps=steps, guidance=GuidanceBatch.TOGETHER))
    operations = 2 * len(model.schedule.ddim_timesteps(steps)) * counted_operations(setup)["all"]
    product, share = large_product(setup, operations / 10)
    timings = time_in_turns({**ways_to_sample(model, settings), "product": product}, setup.rounds, model.device)
    how = f"Whole runs of {steps} steps over the bare forward passes of both sides of guidance ({setup.size})."
    labels = {"base": "base model", "constant": "with a subject, constant", "dynamic": "with a subject, dynamic"}
    rows = [
        at_most(label, timings.ratio(name, "bare"), MOST_OF_BARE, timings.both(name, "bare"))
        for name, label in labels.items()
    ]
    reached = timings.ratio("product", "bare") * operations / share
    rows.append(Row("bare: its operations a second over those of a large matrix product", f"{reached:.2f}"))
    if on_gpu:
        rows.append(Row("bare: TFLOP a second", f"{operations / timings.median('bare') / 1e12:.0f}"))
        row = at_most("seconds a video (wanted on an H200)", timings.median("dynamic"), SECONDS_A_VIDEO)
        rows.append(row if setup.on_h200 else replace(row, met=None))
    medians = ", ".join(f"{name} {timings.median(name):.3f} s" for name in timings)
    return Section("sampling", "Sampling in the core", how, rows, [f"Medians: {medians}."])


def large_product(setup: Setup, operations: float) -> tuple[Callable[[], object], float]:
    """Square matrix products with about so many operations, and how many they really have."""
    side = 512 if setup.scale == "quick" else 2048 if setup.device.type == "cpu" else 8192
    a, b = (torch.randn(side, side).to(setup.device, setup.dtype) for _ in range(2))
    times = max(round(operations / (2 * side**3)), 1)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(a, b)

    return multiply, times * 2.0 * side**3


def ways_to_sample(model: VideoCrafter2, settings: VideoSettings) -> dict[str, Callable[[], object]]:
    """The ways by name."""
    subject = random_subject(model)
    shape = model.latent_shape(settings.width, settings.height, settings.frames, 2)
    x = torch.randn(shape).to(model.device, model.dtype)
    text = encode_prompts(model, [settings.prompt, ""], [subject]).detach().to(model.device, model.dtype)
    timestep = torch.full((2,), 500, device=model.device)
    fps = torch.full((2,), settings.fps, device=model.device)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(len(model.schedule.ddim_timesteps(settings.steps))):
            model.unet(x, timestep, text, timestep_cond=fps)

    return {
        "bare": bare,
        "base": lambda: generate(model, settings),
        "constant": lambda: generate(model, settings, [AppliedSubject(subject, Constant(0.8))]),
        "dynamic": lambda: generate(
            model, settings, [AppliedSubject(subject, TwoPhase(k=max(settings.steps // 10, 1)))]
        ),
    }


def random_subject(model: VideoCrafter2, rank: int = RANK, placeholder: str = "<new1>") -> Subject:
    """A subject that changes all targets."""
    factors = {
        name: LoRAFactors(0.01 * torch.randn(rank, layer.in_features), 0.01 * torch.randn(layer.out_features, rank))
        for name, layer in lora_targets(model.unet).items()
    }
    embedding = torch.randn(1, model.config.text.hidden_size)
    return Subject(factors, embedding, placeholder, class_word="cup", base=model.fingerprint)
