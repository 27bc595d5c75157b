"""Many clips of different prompts at once, of the demo's base model alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import PromptTokenizer, encode_ids
from customcrafter_core.diffusion.ddim import ETA, Prediction, ddim_levels, ddim_steps
from customcrafter_core.diffusion.guidance import GuidedUNet
from customcrafter_core.diffusion.schedule import STEPS

CLIPS_AT_ONCE = 10

ClipGenerator = Callable[[Sequence[str], int], np.ndarray]
"""Makes clips ``(n, f, h, w, 3)``, uint8, of n captions from a seed."""


@torch.no_grad()
def sample_switched(
    model: VideoCrafter2,
    captions: Sequence[str],
    later: Sequence[str],
    switch: int,
    *,
    seed: int,
    steps: int = STEPS,
    eta: float = ETA,
) -> np.ndarray:
    """Sample clips whose prompts change on the way.

    Args:
        model: the base model.
        captions: a prompt for each clip.
        later: the prompts from step ``switch`` on.
        switch: how many steps the first prompts have.
        seed: of all noise.
        steps: sampling steps.
        eta: 1 is as noisy as the DDPM.

    Returns:
        Clips ``(n, f, h, w, 3)``, uint8.
    """
    generator, defaults = torch.Generator().manual_seed(seed), model.defaults
    shape = model.latent_shape(defaults.width, defaults.height, defaults.frames, len(captions))

    def noise() -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(model.device)

    prompts = [*captions, *later, *[""] * len(captions)]
    first, second, empty = encode_ids(model.text_encoder, PromptTokenizer()(prompts)).chunk(3)
    before, after = (
        GuidedUNet(model.unet, text, empty, cfg=defaults.cfg, fps=defaults.fps) for text in (first, second)
    )
    levels = ddim_levels(model.schedule, timesteps := model.schedule.ddim_timesteps(steps), exact_tail=True)

    def predict(x: torch.Tensor, step: int) -> Prediction:
        return (before if step < switch else after)(x, timesteps[step])

    latent = noise()
    for step in ddim_steps(predict, latent, levels, noise=lambda _: noise(), eta=eta):
        latent = step.following
    return (model.decode(latent) * 255).round().byte().numpy()


def clip_generator(model: VideoCrafter2, *, steps: int = STEPS, eta: float = ETA) -> ClipGenerator:
    """A function from captions and a seed to the model's clips."""

    def generate(captions: Sequence[str], seed: int) -> np.ndarray:
        parts = [(i, captions[i : i + CLIPS_AT_ONCE]) for i in range(0, len(captions), CLIPS_AT_ONCE)]
        return np.concatenate(
            [sample_switched(model, part, part, 0, seed=seed * 1000 + i, steps=steps, eta=eta) for i, part in parts]
        )

    return generate
