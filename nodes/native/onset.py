"""Motion Onset of a run that the host samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.utils
import torch

from ...customcrafter_core.experiments.motion_onset import MotionOnset, fixed_shares
from .ksampler import Run, as_video, run
from .prompted import decoded, settings_of


def measure(settings: Run, vae: Any, prompt: str, negative: str) -> MotionOnset:
    """Sample, and measure after each step what the latent holds by itself, which the step behind it predicts.

    The latents are decoded when the video is done: decoding in between could push the model out of the GPU.
    """
    model, alone = settings.model.clone(), []

    def keep(step: dict[str, Any]) -> torch.Tensor:
        """The host's look at each step: ``uncond_denoised`` is the clean latent without the prompt."""
        alone.append(step["uncond_denoised"].cpu())
        result: torch.Tensor = step["denoised"]
        return result

    model.set_model_sampler_post_cfg_function(keep, disable_cfg1_optimization=True)
    sampled = run(replace(settings, model=model))
    frames = decoded(vae, as_video(model, sampled.latent["samples"]))
    bar = comfy.utils.ProgressBar(len(alone))

    def held() -> Iterator[torch.Tensor]:
        for latent in alone[1:]:  # the first is predicted from noise, after no step at all
            yield decoded(vae, model.model.process_latent_out(latent))
            bar.update(1)
        yield frames
        bar.update(1)

    motion, detail = fixed_shares(held(), frames)
    return MotionOnset(motion, detail, frames, settings_of(settings, prompt, negative, frames))
