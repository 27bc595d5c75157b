"""Runs from a prompt, a MODEL, a CLIP and a VAE, for nodes that sample and then look at the videos."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch

from ...customcrafter_core.diffusion.strength import Constant
from ...customcrafter_core.errors import InputError
from ...customcrafter_core.sampling.settings import VideoSettings
from .ksampler import Run, as_video
from .model import require_base


def run_of(clip: comfy.sd.CLIP, *, prompt: str, negative: str, **given: Any) -> Run:
    """A run of VideoCrafter2's DDIM over the scheduler that gives its timesteps.

    Args:
        clip: knows the tokens of the prompt.
        prompt: what the video shall show.
        negative: what not.
        given: the other fields of `Run`.

    Raises:
        InputError: another model, or a latent that is not one video of two frames or more.
    """
    require_base(given["model"])
    shape = as_video(given["model"], given["latent_image"]["samples"]).shape
    if len(shape) != 5 or shape[0] != 1 or shape[2] < 2:
        raise InputError(
            expected="the latent of one video of two frames or more",
            found=f"one of shape {tuple(shape)}",
            remedy="Set batch_size to 1 and frames to 2 or more in Empty Video Latent.",
        )
    positive, rest = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, negative))
    return Run(
        positive=positive,
        negative=rest,
        sampler_name="ddim",
        scheduler="ddim_uniform",
        denoise=1.0,
        schedule=Constant(0.0),
        own_sampler=True,
        **given,
    )


def settings_of(run: Run, prompt: str, negative: str, frames: torch.Tensor) -> VideoSettings:
    """What the core calls the settings of a run whose video ``(t, h, w, 3)`` is done."""
    length, height, width = frames.shape[:3]
    return VideoSettings(
        prompt, negative, width, height, length, seed=run.seed, steps=run.steps, cfg=run.cfg, eta=run.eta
    )


def decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """The video ``(t, h, w, 3)``, 0 … 1, of a latent ``(1, c, t, h, w)``, on the CPU."""
    frames: torch.Tensor = vae.decode(latent).cpu()  # with --gpu-only the host leaves them on the GPU
    return frames.reshape(-1, *frames.shape[-3:]).float()
