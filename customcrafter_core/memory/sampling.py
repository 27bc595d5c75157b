"""How much memory making a video takes, and how guidance runs so that it fits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from ..base_model.config import PROMPT_LENGTH
from ..base_model.model import VideoCrafter2, frames_at_once
from ..diffusion.guidance import GuidanceBatch, GuidedUNet
from ..subject.adapter import attached
from ..subject.subject import Subject
from .counting import DryRun, allocator_reserve, tensors_of
from .free import gigabytes

log = logging.getLogger(__name__)

PLENTY = 256  # widest activations: a prediction takes 14 to 90 of them, and counting takes seconds at full size
_PEAKS: dict[tuple[Any, ...], int] = {}


def choose_guidance(
    model: VideoCrafter2, shape: tuple[int, ...], subjects: Sequence[Subject], *, cfg: float, free: int
) -> GuidanceBatch:
    """Whether both predictions of guidance run together, by the memory that is free.

    Args:
        model: the base model, loaded.
        shape: of the latent ``(b, c, t, h, w)``.
        subjects: that are applied.
        cfg: guidance scale.
        free: bytes that the video may take.

    Returns:
        `GuidanceBatch.AUTO`, together, or `GuidanceBatch.ONE_BY_ONE` with a warning where that would not fit.
    """
    b, _, t, h, w = shape
    widest = 2 * b * t * h * w * model.config.unet.block_out_channels[0] * model.dtype.itemsize
    if cfg == 1.0 or PLENTY * widest <= free:
        return GuidanceBatch.AUTO
    if widest > free:  # it will fail, and may be too large even to be counted
        return GuidanceBatch.ONE_BY_ONE

    def needed(guidance: GuidanceBatch) -> int:
        return round(allocator_reserve(model.device) * prediction_memory(model, shape, subjects, guidance, cfg=cfg))

    if (together := needed(GuidanceBatch.TOGETHER)) <= free:
        return GuidanceBatch.AUTO
    each = needed(GuidanceBatch.ONE_BY_ONE)
    log.warning(
        f"Both predictions of guidance together would take {gigabytes(together)} GB, {gigabytes(free)} GB are free: they "
        f"are made one by one, which takes {gigabytes(each)} GB{'' if each <= free else ' and may not fit either'}."
    )
    return GuidanceBatch.ONE_BY_ONE


def prediction_memory(
    model: VideoCrafter2, shape: tuple[int, ...], subjects: Sequence[Subject], guidance: GuidanceBatch, *, cfg: float
) -> int:
    """Bytes at the peak of predicting the noise once, besides the weights; counted, nothing is allocated.

    Args:
        model: the base model, loaded.
        shape: of the latent ``(b, c, t, h, w)``.
        subjects: that are applied.
        guidance: whether the two predictions of guidance are made together.
        cfg: guidance scale; with 1 there is one prediction only.
    """
    together = guidance is not GuidanceBatch.ONE_BY_ONE and cfg != 1.0
    changes = tuple((frozenset((n, pair.rank) for n, pair in s.factors.items()), len(s.adapters)) for s in subjects)
    key = (model.config, model.dtype, model.device.type, shape, changes, together)
    if key not in _PEAKS:
        dry = DryRun()
        unet, device = dry.copy(model.unet), model.device
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(dry.fake)
            stack.enter_context(attached(unet, subjects)).set_strengths([1.0] * len(subjects))
            stack.enter_context(dry.counted(tensors_of(unet)))
            latent = torch.empty(shape, device=device)
            text = torch.empty(shape[0], PROMPT_LENGTH, model.config.text.hidden_size, device=device)
            GuidedUNet(unet, text, text, cfg=cfg, fps=model.defaults.fps, batch=guidance)(latent, 0)
        _PEAKS[key] = dry.peak
    return _PEAKS[key]


def decoding_memory(model: VideoCrafter2, shape: tuple[int, ...]) -> int:
    """Bytes at the peak of decoding a latent ``(b, c, t, h, w)``, besides the weights and the video; counted."""
    b, c, t, h, w = shape
    frames = min(b * t, frames_at_once(h, w))
    key = (model.config, model.vae.dtype, frames, h, w)
    if key not in _PEAKS:
        dry = DryRun()
        vae = dry.copy(model.vae)
        with torch.no_grad(), dry.counted(tensors_of(vae)):
            vae.decode(torch.empty(frames, c, h, w, dtype=vae.dtype, device=vae.device))
        _PEAKS[key] = dry.peak
    return _PEAKS[key]
