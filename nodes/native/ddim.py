"""VideoCrafter2's own DDIM as a SAMPLER for the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import comfy.samplers
import torch
from einops import rearrange

from ...customcrafter_core.diffusion.ddim import CLEAN, Level, Predict, Prediction, StepNoise, ddim_steps
from ...customcrafter_core.errors import InputError
from ...customcrafter_core.sampling.noise import SeededNoise
from .sampling_space import VideoCrafter2Sampling

Callback = Callable[[dict[str, Any]], None]
"""The host's, called after each step."""


def make_sampler(eta: float, exact_tail: bool, videos: Sequence[int] | None = None) -> comfy.samplers.KSAMPLER:
    """The sampler; `customcrafter_core.sampling.generation.generate` gives the same latent for the same seed.

    Args:
        eta: 0 is deterministic, 1 as noisy as the DDPM.
        exact_tail: end at the clean latent instead of VideoCrafter2's timestep 0.
        videos: number of each video of the batch, which chooses its noise; by default 0, 1, ...
    """
    return comfy.samplers.KSAMPLER(partial(sample, eta=eta, exact_tail=exact_tail, videos=videos))


@torch.no_grad()
def sample(
    model: Any,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    eta: float,
    exact_tail: bool,
    videos: Sequence[int] | None = None,
) -> torch.Tensor:
    """Sample in the host's way of calling: ``x`` is ``x_t / signal``, and so is what is returned before sigma 0.

    Raises:
        InputError: the model is not VideoCrafter2.
    """
    arguments = extra_args or {}
    levels = levels_of(model, sigmas)
    ends = float(sigmas[-1]) == 0
    if ends and exact_tail:
        levels[-1] = CLEAN
    noise = step_noise(x, arguments.get("seed") or 0, videos)
    x = x * levels[0].signal
    for step in ddim_steps(predictor(model, levels, sigmas, arguments, callback), x, levels, noise=noise, eta=eta):
        x = step.following
    return x if ends else x / levels[-1].signal


def levels_of(model: Any, sigmas: torch.Tensor) -> list[Level]:
    """The noise levels of a sampler's sigmas ``(steps + 1,)``, for the model that it calls.

    Raises:
        InputError: the model is not VideoCrafter2.
    """
    space = model.inner_model.inner_model.model_sampling
    if not isinstance(space, VideoCrafter2Sampling):
        raise InputError(
            expected="VideoCrafter2 for its own DDIM sampler",
            found="another model",
            remedy="Choose another sampler, such as ddim.",
        )
    return [space.level(float(sigma)) for sigma in sigmas]


def predictor(
    model: Any, levels: Sequence[Level], sigmas: torch.Tensor, arguments: dict[str, Any], callback: Callback | None
) -> Predict:
    """The model that the host gives a sampler, as the core's DDIM calls it.

    Args:
        model: gives the clean latent of ``x_t / signal``.
        levels: as `levels_of`.
        sigmas: of the steps ``(steps + 1,)``.
        arguments: the host's, for the model.
        callback: the host's.
    """

    def predict(x: torch.Tensor, step: int) -> Prediction:
        scaled, sigma = x / levels[step].signal, sigmas[step]
        denoised = model(scaled, sigma * x.new_ones([x.shape[0]]), **arguments)
        if callback is not None:
            callback({"x": scaled, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        return Prediction((scaled - denoised) / sigma)

    return predict


def start_noise(latent: torch.Tensor, seed: int, videos: Sequence[int] | None = None) -> torch.Tensor:
    """``x_T`` for a latent ``(b, c, t, h, w)``: the first draw of the core's noise, on the CPU."""
    return SeededNoise(tuple(latent.shape), seed, torch.device("cpu"), videos)()


def step_noise(x: torch.Tensor, seed: int, videos: Sequence[int] | None = None) -> StepNoise:
    """Noise for the ends of steps in the shape of ``x``: the core's draws after the first one."""
    video = x if x.ndim == 5 else rearrange(x, "t c h w -> 1 c t h w")
    draws = SeededNoise(tuple(video.shape), seed, x.device, videos)
    draws()

    def draw(step: int) -> torch.Tensor:
        return draws() if x.ndim == 5 else rearrange(draws(), "1 c t h w -> t c h w")

    return draw
