"""Runs of nodes that sample one video and then look at it: from a prompt, or from CONDITIONING."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

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
    check_one_video(given["model"], given["latent_image"], "Set batch_size to 1 and frames to 2 or more.")
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


def run_with(**given: Any) -> Run:
    """A run of any model with the host's sampler, as its KSampler makes it.

    Args:
        given: the inputs of that node.

    Raises:
        InputError: a latent that is not one video of two frames or more.
    """
    check_one_video(
        given["model"], given["latent_image"], "Set its batch size to 1 and its length to more than one frame."
    )
    return Run(eta=0.0, schedule=Constant(0.0), own_sampler=False, **given)


def check_one_video(model: ModelPatcher, latent: dict[str, Any], remedy: str) -> None:
    """Refuse what is no single video: ``(1, c, t, h, w)``, or ``(t, c, h, w)`` of a model whose frames are a batch.

    Raises:
        InputError: it is none.
    """
    samples = latent["samples"]
    shapes = [tuple(part.shape) for part in samples.unbind()] if samples.is_nested else [tuple(samples.shape)]
    shape = tuple(as_video(model, samples).shape) if len(shapes) == 1 else ()
    frames = {5: shape[2], 4: shape[0]}.get(len(shape), 0) if len(shape) > 3 else 0
    if frames < 2 or (len(shape) == 5 and shape[0] != 1):
        raise InputError(
            expected="the latent of one video of two frames or more",
            found=f"one of shape {' and '.join(map(str, shapes))}",
            remedy=remedy,
        )


def settings_of(run: Run, prompt: str, negative: str, frames: torch.Tensor) -> VideoSettings:
    """What the core calls the settings of a run whose video ``(t, h, w, 3)`` is done; prompts that are not known are empty."""
    length, height, width = frames.shape[:3]
    return VideoSettings(
        prompt, negative, width, height, length, seed=run.seed, steps=run.steps, cfg=run.cfg, eta=run.eta
    )


def decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """The video ``(t, h, w, 3)``, 0 … 1, of a latent ``(1, c, t, h, w)``, on the CPU."""
    frames: torch.Tensor = vae.decode(latent).cpu()  # with --gpu-only the host leaves them on the GPU
    return frames.reshape(-1, *frames.shape[-3:]).float()
