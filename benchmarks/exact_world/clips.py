"""What there is to see: an object that stands still or moves, and the parts that its look consists of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SIDE, OBJECT = 16, 7
"""Width and height of a frame and of the object, in latent pixels: the object is a good 40 % of the frame."""
COLOUR = (-0.4, -1.4, -1.4)
"""Of the object, relative to the background, before its look is added."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
STILL = "still"
STILL_PLACES = (3, 4, 5)
ACROSS = (3, 4, 5)
STARTS = (-1, 0, 1)
"""Of a path along its direction, relative to a path in the middle of the frame."""

_ROWS, _COLUMNS = np.mgrid[:OBJECT, :OBJECT] - OBJECT // 2
DISC = _ROWS**2 + _COLUMNS**2 <= 12.5
"""Which of the object's 7x7 pixels it covers: 37."""


@dataclass(frozen=True)
class Identity:
    """What makes the subject the subject: a kind of parts, each brighter or darker by ``contrast``."""

    kind: str
    contrast: float

    def __str__(self) -> str:
        return f"{self.kind} ±{self.contrast:g}"


def parts_of(kind: str) -> np.ndarray:
    """Where each part of a look is, ``(parts, 7, 7, 3)`` of 0 and 1; parts do not overlap.

    Raises:
        KeyError: there is no such kind.
    """
    areas, by_channel = KINDS[kind]
    masks = [area & DISC for area in areas()]
    channels = np.eye(3) if by_channel else np.ones((1, 3))
    parts = [mask[..., None] * channel for mask in masks if mask.any() for channel in channels]
    return np.stack(parts).astype(np.float32)


def _mirrored(*cells: tuple[int, int]) -> list[np.ndarray]:
    masks = []
    for row, column in cells:
        mask = np.zeros_like(DISC)
        mask[row, column] = mask[row, OBJECT - 1 - column] = True
        masks.append(mask)
    return masks


def _halves() -> list[np.ndarray]:
    return [_COLUMNS <= 0, _COLUMNS > 0]


def _rim() -> list[np.ndarray]:
    """The outline in eight pieces: pixels that have a neighbour outside of the disc, by angle."""
    padded = np.pad(DISC, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    piece = np.floor((np.arctan2(_ROWS, _COLUMNS) + math.pi / 8) / (math.pi / 4)).astype(int) % 8
    return [DISC & ~inner & (piece == i) for i in range(8)]


KINDS: dict[str, tuple[Callable[[], list[np.ndarray]], bool]] = {
    "solid colour": (lambda: [DISC], True),
    "two halves": (_halves, True),
    "four quarters": (lambda: [h & v for h in (_ROWS <= 0, _ROWS > 0) for v in _halves()], True),
    "stripes": (lambda: [row == _ROWS for row in range(-3, 4)], False),
    "rim": (_rim, False),
    "eyes": (lambda: _mirrored((1, 2), (2, 1), (3, 2), (4, 1), (4, 2), (5, 2)), False),
    "marks": (lambda: _mirrored(*np.ndindex(OBJECT, 4)), False),
    "texture": (lambda: [np.arange(DISC.size).reshape(DISC.shape) == i for i in range(DISC.size)], False),
}
"""Kind -> its areas in the object, and whether each is three parts, one a colour channel, or one, its brightness."""


def paths(motion: str, frames: int, travel: int) -> np.ndarray:
    """Every way to make a motion: the object's upper left corner ``(paths, frames, 2)`` as x, y.

    Args:
        motion: ``still`` or a direction.
        frames: of the clip.
        travel: pixels from the first frame to the last.
    """
    if motion == STILL:
        corners = [(x, y) for x in STILL_PLACES for y in STILL_PLACES]
        return np.repeat(np.array(corners)[:, None], frames, 1)
    dx, dy = DIRECTIONS[motion]
    room = SIDE - OBJECT
    middle = (room - travel) // 2
    if not all(0 <= middle + start <= room - travel for start in STARTS):
        raise ValueError(f"a travel of {travel} does not fit into {SIDE} pixels from every start")
    along = np.rint(np.linspace(0, travel, frames)).astype(int)
    found = []
    for start in STARTS:
        for across in ACROSS:
            forth = middle + start + along
            moving = forth if dx + dy > 0 else room - forth
            fixed = np.full(frames, across)
            found.append(np.stack([moving, fixed] if dx else [fixed, moving], 1))
    return np.stack(found)
