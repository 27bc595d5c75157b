"""The gate a base model must pass to be shipped: clips made from fresh prompts and noise, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..base_model.model import VideoCrafter2
from ..base_model.text import PromptTokenizer, encode_ids
from ..diffusion.ddim import ETA, STEPS, ddim_sample
from ..diffusion.guidance import GuidedUNet

CLIPS_AT_ONCE = 10


def clip_generator(
    model: VideoCrafter2, *, steps: int = STEPS, eta: float = ETA
) -> Callable[[Sequence[str], int], np.ndarray]:
    """A function from captions and a seed to clips, uint8 ``(n, f, h, w, 3)``, as `measures.evaluate_gate` wants it."""
    timesteps = model.schedule.ddim_timesteps(steps)
    defaults = model.defaults

    @torch.no_grad()
    def sample(captions: Sequence[str], seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        shape = model.latent_shape(defaults.width, defaults.height, defaults.frames, len(captions))

        def noise(step: int = 0) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(model.device)

        text = encode_ids(model.text_encoder, PromptTokenizer()([*captions, *[""] * len(captions)]))
        guided = GuidedUNet(
            model.unet, text[: len(captions)], text[len(captions) :], cfg=defaults.cfg, fps=defaults.fps
        )
        latent = ddim_sample(
            lambda x, t, step: guided(x, t), noise(), model.schedule, timesteps, noise=noise, eta=eta, exact_tail=True
        )
        return (model.decode(latent) * 255).round().byte().numpy()

    def generate(captions: Sequence[str], seed: int) -> np.ndarray:
        parts = range(0, len(captions), CLIPS_AT_ONCE)
        return np.concatenate([sample(captions[i : i + CLIPS_AT_ONCE], seed * 1000 + i) for i in parts])

    return generate


def write_sheet(path: Path, clips: Sequence[np.ndarray], scale: int = 4) -> None:
    """Write clips ``(f, h, w, 3)`` as a picture, a row each, enlarged without smoothing."""
    rows = np.concatenate([np.concatenate(list(clip), axis=1) for clip in clips])
    Image.fromarray(rows.repeat(scale, 0).repeat(scale, 1)).save(path)
