"""How far things travel in a video, without any learned weights.

Frame difference calls flicker motion, and cannot tell a shape that moves from one that changes its colour. Here blocks
of one frame are looked for in the next, and only a place that

- is found again clearly better where it went than where it was (`EXPLAINED`), whatever its brightness did,
- leads back to where it came from when the same is done from the next frame to this one (`RETURN`), which what is
  uncovered, covered, switched on or noise does not,
- goes on in the same way over the whole clip: a straight line is fitted through its path, so that trembling cancels out

counts as moving. Camera motion counts too.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..errors import InputError
from ..output.pixels import Frames

SIDE = 64  # pixels; larger frames are scaled down to this short side before blocks are matched
BLOCK = 9  # pixels, the side of a block
REACH = 1 / 8  # of the short side, the farthest step from frame to frame
EXPLAINED = 0.5
"""A match must leave at most this share of the difference that standing still leaves; noise leaves about 0.8."""
RETURN = 1.5
"""Pixels within which the way back must end."""
FASTEST = 0.05
"""The mean is over this share of the paths, the longest, as in VBench's dynamic degree: a small subject fills no more."""
FLAT = 1e-4
"""Variance within a block, values 0 … 1, below which there is nothing to find again."""


def motion_travel(frames: Frames) -> float:
    """Travel of what moves most, in short sides of the frame, from the first frame to the last.

    ``mean over the longest 5 % of paths of |b_i| · (f - 1) / short side``, where ``b_i`` is the slope of the straight
    line fitted by least squares through path ``i``. 0 for still videos, flicker, noise and colours that change.

    Args:
        frames: ``(f, h, w, c)``, values 0 … 1; any number of channels.

    Raises:
        InputError: another shape, or fewer than two frames.
    """
    return float(top_mean(path_travel(frames)))


def path_travel(frames: Frames) -> np.ndarray:
    """Fitted travel ``(h, w)`` of what starts at each place, in short sides, at the matching resolution."""
    steps = block_motion(prepared(frames))
    return fitted_travel(steps) / min(steps.shape[1:3])


def top_mean(values: np.ndarray, share: float = FASTEST) -> np.ndarray:
    """Mean of the largest ``share`` of all values, at least one."""
    count = max(int(values.size * share), 1)
    return np.asarray(np.sort(values, axis=None)[-count:].mean())


def prepared(frames: Frames) -> torch.Tensor:
    """Frames ``(f, c, h, w)`` at the resolution of matching."""
    video = torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32))
    if video.ndim != 4 or len(video) < 2:
        raise InputError(
            expected="a video (f, h, w, c) of at least two frames",
            found=f"an array {tuple(video.shape)}",
            remedy="Give one video, colour last.",
        )
    if min(video.shape[1:3]) <= 2 * BLOCK:
        raise InputError(
            expected=f"frames of more than {2 * BLOCK} pixels a side to match blocks in",
            found=f"{video.shape[2]}x{video.shape[1]}",
            remedy="Measure the video in pixels, not its latent.",
        )
    video = video.permute(0, 3, 1, 2)
    scale = SIDE / min(video.shape[2:])
    if scale >= 1:
        return video
    size = [round(side * scale) for side in video.shape[2:]]
    return functional.interpolate(video, size=size, mode="bilinear", antialias=True, align_corners=False)


def block_motion(video: torch.Tensor) -> np.ndarray:
    """Where each place goes: displacements ``(f - 1, h, w, 2)``, (x, y) in pixels, of a video ``(f, c, h, w)``."""
    steps = []
    for first, second in pairwise(video):
        there, back = _matches(first, second), _matches(second, first)
        at = _grid(there.shape[:2]) + there
        returned = np.hypot(*np.moveaxis(there + _sampled(back, at), -1, 0))
        steps.append(np.where((returned <= RETURN)[..., None], there, 0.0))
    return np.stack(steps)


def _matches(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    """Best displacements ``(h, w, 2)`` of blocks of one frame in another; 0 where standing still explains as much.

    A block's cost is the variance of the difference, so that brightness which changes evenly costs nothing:
    ``var(a - b) = var(a) + var(b) - 2 cov(a, b)`` within the block, mean over the channels. Blocks lie within the frame.
    """
    height, width = first.shape[1:]
    reach = math.ceil(min(height, width) * REACH)
    padded = functional.pad(second[None], [reach] * 4, mode="replicate")[0]
    first_mean, second_mean = _block_mean(first), _block_mean(padded)
    first_variance = (_block_mean(first**2) - first_mean**2).mean(0)
    second_variance = (_block_mean(padded**2) - second_mean**2).mean(0)
    places = [(x, y) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    costs = []
    for place in places:
        part = _window(reach, place, (height, width))
        product = _block_mean((first * padded[part]).mean(0, keepdim=True))[0]
        covariance = product - (first_mean * second_mean[part]).mean(0)
        costs.append(first_variance + second_variance[part] - 2 * covariance)
    inside = functional.pad(torch.ones(height - BLOCK + 1, width - BLOCK + 1), [BLOCK // 2 + reach] * 4)
    allowed = torch.stack([inside[_window(reach, place, (height, width))] for place in places]) > 0
    volume = torch.where(allowed, torch.stack(costs).clamp(min=0), math.inf)
    best, index = volume.min(0)
    still = places.index((0, 0))
    moves = allowed[still] & (best < EXPLAINED * volume[still]) & (first_variance > FLAT)
    steps = torch.tensor(places, dtype=torch.float32)[index] + _between_pixels(volume, index)
    return np.where(moves[..., None].numpy(), steps.numpy(), 0.0)


def _window(reach: int, place: tuple[int, int], size: tuple[int, int]) -> Any:
    """The part of a padded frame that lies ``place`` (x, y) away from the frame."""
    x, y = place
    return ..., slice(reach + y, reach + y + size[0]), slice(reach + x, reach + x + size[1])


def _block_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean of the block around each place, of ``(c, h, w)``."""
    margin = BLOCK // 2
    padded = functional.pad(values[None], [margin] * 4, mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(padded, (BLOCK, 1), 1), (1, BLOCK), 1)[0]


def _between_pixels(costs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Offsets ``(h, w, 2)`` of the least cost from the best whole pixel, by a parabola through it and its neighbours."""
    across = math.isqrt(len(costs))
    volume = costs.reshape(across, across, *index.shape)
    y, x = index // across, index % across
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in index.shape), indexing="ij")

    def cost(at_y: torch.Tensor, at_x: torch.Tensor) -> torch.Tensor:
        return volume[at_y.clamp(0, across - 1), at_x.clamp(0, across - 1), rows, columns]

    centre, offsets = cost(y, x), []
    for one_y, one_x, inside in ((0, 1, (x > 0) & (x < across - 1)), (1, 0, (y > 0) & (y < across - 1))):
        before, after = cost(y - one_y, x - one_x), cost(y + one_y, x + one_x)
        bend = before - 2 * centre + after
        fits = inside & bend.isfinite() & (bend > 1e-9)
        offset = (before - after) / (2 * torch.where(fits, bend, 1.0))
        offsets.append(torch.where(fits, offset.clamp(-0.5, 0.5), 0.0))
    return torch.stack(offsets, -1)


def fitted_travel(steps: np.ndarray) -> np.ndarray:
    """Length of the travel ``(h, w)``, in pixels, of a straight line fitted through the path from each place.

    Args:
        steps: displacements ``(f - 1, h, w, 2)``; a path follows them from frame to frame.
    """
    at = _grid(steps.shape[1:3])
    path = [at]
    for step in steps:
        at = at + _sampled(step, at)
        path.append(at)
    time = np.arange(len(path)) - (len(path) - 1) / 2
    slope = np.tensordot(time, np.stack(path), 1) / (time @ time)
    return np.asarray(np.hypot(slope[..., 0], slope[..., 1]) * (len(path) - 1))


def _grid(size: tuple[int, ...]) -> np.ndarray:
    """Every place's own position ``(h, w, 2)``, (x, y)."""
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(np.float64)


def _sampled(field: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values ``(h, w, 2)`` of a field at the nearest places to positions."""
    x = np.clip(np.rint(at[..., 0]), 0, field.shape[1] - 1).astype(int)
    y = np.clip(np.rint(at[..., 1]), 0, field.shape[0] - 1).astype(int)
    return np.asarray(field[y, x])
