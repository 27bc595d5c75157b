"""Frames as bytes, and enlarging that keeps pixel art sharp."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    import torch

Frames: TypeAlias = "np.ndarray | torch.Tensor"
"""A video ``(t, h, w, 3)``, floating point, values 0 … 1."""


def to_bytes(frames: Frames) -> np.ndarray:
    """Frames as ``(t, h, w, 3)`` bytes 0 … 255, rounded; values outside 0 … 1 are cut off.

    Raises:
        InputError: another shape, no frames, or NaN.
    """
    values = np.asarray(frames, dtype=np.float32)
    if values.ndim != 4 or values.shape[3] != 3 or 0 in values.shape:
        raise InputError(
            expected="frames (t, h, w, 3)", found=f"an array {values.shape}", remedy="Give one video, colour last."
        )
    if not np.isfinite(values).all():
        raise InputError(
            expected="finite pixels",
            found="NaN or infinity",
            remedy="The sampling went wrong: try float32 or bfloat16, or a lower strength.",
        )
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def enlarge(pixels: np.ndarray, shortest_side: int) -> np.ndarray:
    """Repeat pixels ``(t, h, w, 3)`` by the smallest whole factor that brings the short side to ``shortest_side``."""
    factor = -(-shortest_side // min(pixels.shape[1:3]))
    return pixels if factor <= 1 else pixels.repeat(factor, axis=1).repeat(factor, axis=2)
