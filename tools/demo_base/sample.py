"""Clips of a training run in progress, made with its averaged weights: a quick look, without the pack's own pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet3DConditionModel

from customcrafter_core.demo import creatures as world
from customcrafter_core.demo.mosaic import latents_to_cells
from customcrafter_core.diffusion.schedule import NoiseSchedule

from .data import Captions
from .network import TrainedUNet, build_training_unet


def averaged_unet(state_path: Path) -> UNet3DConditionModel:
    """The averaged network of a training state, whole again: with the layers that training leaves out."""
    state = torch.load(state_path, weights_only=True)
    unet = build_training_unet()
    weights = {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}
    unet.load_state_dict(unet.state_dict() | weights)
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def sample(
    unet: TrainedUNet,
    captions: Captions,
    prompts: list[str],
    *,
    later: list[str] | None = None,
    switch: int = 0,
    cfg: float = 3.0,
    steps: int = 50,
    seed: int = 0,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Make clips by DDIM.

    Args:
        unet: the network.
        captions: text embeddings.
        prompts: one for each clip.
        later: prompts from step ``switch`` on; the same when not given.
        switch: number of steps with the first prompts.
        cfg: guidance scale.
        steps: DDIM steps.
        seed: of the noise.

    Returns:
        Cells ``(b, f, h, w, 3)``, and the prediction of them at every step.
    """
    schedule = NoiseSchedule.videocrafter2()
    timesteps = schedule.ddim_timesteps(steps)
    count = len(prompts)
    shape = (count, 4, world.FRAMES, world.CELLS, world.CELLS)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    empty = captions.text[captions.find([""] * count)]
    first = captions.text[captions.find(prompts)]
    second = captions.text[captions.find(later or prompts)]
    predictions = []
    for i, t in enumerate(timesteps):
        text = first if i < switch or not later else second
        times = torch.full((2 * count,), t)
        both = unet(torch.cat([x, x]), times, torch.cat([text, empty]), torch.full_like(times, world.FPS))
        told, untold = both.chunk(2)
        eps = untold + cfg * (told - untold)
        signal, sigma = float(schedule.signal[t]), float(schedule.noise[t])
        clean = (x - sigma * eps) / signal
        predictions.append(latents_to_cells(clean))
        if i + 1 < len(timesteps):
            after = timesteps[i + 1]
            x = float(schedule.signal[after]) * clean + float(schedule.noise[after]) * eps
    return predictions[-1], predictions
