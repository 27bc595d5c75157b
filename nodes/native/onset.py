"""Motion Onset of a run that the host samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.utils
import torch

from ...customcrafter_core.errors import InputError
from ...customcrafter_core.experiments.motion_onset import MotionOnset, fixed_shares
from .ksampler import Run, as_video, run, run_sigmas
from .prompted import decoded, settings_of

SAME_SIGMA = 1e-4  # relative; sigmas of neighbouring steps differ by more


def measure(settings: Run, vae: Any, prompt: str = "", negative: str = "") -> MotionOnset:
    """Sample, and measure after each step what the latent holds by itself, which the step behind it predicts.

    The latents are decoded when the video is done: decoding in between could push the model out of the GPU.

    Raises:
        InputError: the sampler goes its own way over the noise levels, so that steps cannot be told apart.
    """
    model, seen = settings.model.clone(), Unprompted(settings.sampler_name, run_sigmas(settings).tolist())
    # a function, because older hosts copy what is in a model's options, and with a method its object
    model.set_model_sampler_post_cfg_function(lambda call: seen.note(call), disable_cfg1_optimization=True)
    sampled = run(replace(settings, model=model))
    frames = decoded(vae, as_video(model, sampled.latent["samples"]))
    held_after = seen.in_order()
    bar = comfy.utils.ProgressBar(len(held_after) + 1)

    def held() -> Iterator[torch.Tensor]:
        for latent in held_after:
            yield decoded(vae, model.model.process_latent_out(latent))
            bar.update(1)
        yield frames
        bar.update(1)

    motion, detail = fixed_shares(held(), frames)
    return MotionOnset(motion, detail, frames, settings_of(settings, prompt, negative, frames))


class Unprompted:
    """The clean latents that a model predicts without the prompt at the noise levels of a sampler's steps.

    A sampler may call the model several times in a step, and at a step's noise level already in the one before, from a
    latent that is only tried. The last call at a level is the one of the latent that goes on from there.
    """

    def __init__(self, sampler: str, sigmas: list[float]) -> None:
        """Args:
        sampler: its name, for messages.
        sigmas: of its steps, one more than steps.
        """
        self._sampler, self._sigmas = sampler, sigmas[:-1]
        self._found: dict[int, torch.Tensor] = {}

    def note(self, call: dict[str, Any]) -> torch.Tensor:
        """The host's look at each prediction: ``uncond_denoised`` is the clean latent without the prompt."""
        sigma = float(call["sigma"].max())
        at = [step for step, level in enumerate(self._sigmas) if abs(level - sigma) <= SAME_SIGMA * level]
        self._found.update(dict.fromkeys(at, call["uncond_denoised"].cpu()))
        self._check(sum(level > sigma for level in self._sigmas))
        denoised: torch.Tensor = call["denoised"]
        return denoised

    def in_order(self) -> list[torch.Tensor]:
        """What the latent held after the first step, after the second, …, but for the last.

        Raises:
            InputError: steps are missing.
        """
        self._check(len(self._sigmas))
        return [self._found[step] for step in range(1, len(self._sigmas))]

    def _check(self, steps: int) -> None:
        """At the first level nothing is needed: there it is predicted from noise, after no step at all."""
        if not self._found.keys() >= set(range(1, steps)):
            raise InputError(
                expected="a sampler that calls the model at the noise level of each step",
                found=self._sampler,
                remedy="Choose another one, such as euler.",
            )
