"""Analytic measures of clips of the demo world: which creature, where it goes, on what, and whose marks it has.

Frames are uint8 ``(f, SIDE, SIDE, 3)``. Places and lengths are in cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from . import creatures as world
from .creatures import Look

TRAVEL = world.FRAMES - 1
"""How far a moving creature comes in a clip."""
MOVED, STOOD = 2 / 3 * TRAVEL, 1 / 3 * TRAVEL
"""A creature moves as asked if it comes this far at least; it stands still if less than this far."""
PRESENT = 0.5
"""Share of a drawn creature's contrast with its background that one must have to be seen."""
DECOYS = 80


def cells_of(frames: np.ndarray) -> np.ndarray:
    """Mean colour of every cell: float32 ``(f, CELLS, CELLS, 3)`` in [-1, 1]."""
    shape = (len(frames), world.CELLS, world.CELL, world.CELLS, world.CELL, 3)
    return frames.reshape(shape).astype(np.float32).mean((2, 4)) / 127.5 - 1


def background_of(frames: np.ndarray) -> str:
    """Name of the background nearest to the clip's median colour."""
    middle = np.median(cells_of(frames).reshape(-1, 3), axis=0)
    return min(world.BACKGROUNDS, key=lambda name: float(np.linalg.norm(middle - world.BACKGROUNDS[name])))


@dataclass(frozen=True)
class Sighting:
    """What is seen in a clip: the creature's class, its upper left cell ``(f, 2)`` as (x, y), and how surely.

    ``contrast``: for each frame the share of the expected contrast with the background, 1 in a drawn clip.
    """

    kind: str
    places: np.ndarray
    contrast: np.ndarray

    @property
    def present(self) -> bool:
        """It is there in every frame."""
        return bool((self.contrast > PRESENT).all())

    @property
    def travel(self) -> tuple[float, float]:
        """How far it comes from the first to the last frame, to the right and down: a straight line's, fitted."""
        time = np.arange(len(self.places)) - (len(self.places) - 1) / 2
        slope = time @ self.places / (time @ time)
        return float(slope[0] * (len(time) - 1)), float(slope[1] * (len(time) - 1))


def find_creature(frames: np.ndarray, background: str) -> Sighting:
    """Look for the class and the places that best explain a clip.

    A place's score is by how much the class's colour within its outline explains the frame better than the background.
    """
    cells, behind = cells_of(frames), np.array(world.BACKGROUNDS[background], np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(cells, (world.GRID, world.GRID), (1, 2))
    sightings = []
    for name, kind in world.KINDS.items():
        colour = np.array(kind.colour, np.float32)
        away = colour - behind
        # |cell - background|^2 - |cell - colour|^2, as a share of |colour - background|^2: 1 on the colour, -1 behind it
        gain = 2 * (np.moveaxis(windows, 3, -1) - (colour + behind) / 2) @ away / (away @ away)
        inside = kind.inside
        score = np.where(inside, gain, -gain).clip(-1, 1).mean((-2, -1))
        best = score.reshape(len(score), -1).argmax(1)
        rows, columns = np.unravel_index(best, score.shape[1:])
        sightings.append(Sighting(name, np.stack([columns, rows], 1), score.reshape(len(score), -1).max(1)))
    return max(sightings, key=lambda seen: float(seen.contrast.mean()))


def moves(seen: Sighting, motion: str) -> bool:
    """Whether a creature moves as asked, or stands still if so asked."""
    x, y = seen.travel
    dx, dy = world.MOTIONS[motion]
    if not dx and not dy:
        return max(abs(x), abs(y)) < STOOD
    return x * dx + y * dy >= MOVED and abs(x * dy) + abs(y * dx) < STOOD


def motion_share(seen: Sighting, motion: str) -> float:
    """Share of the asked way that a creature comes; 1 is all, negative the other way."""
    dx, dy = world.MOTIONS[motion]
    return (seen.travel[0] * dx + seen.travel[1] * dy) / TRAVEL


def seen_marks(frames: np.ndarray, seen: Sighting) -> np.ndarray:
    """Brightness within the outline at the creature's places, mean 0 in each frame: ``(f, cells inside)``."""
    inside, marks = world.KINDS[seen.kind].inside, []
    for frame, (x, y) in zip(cells_of(frames), seen.places, strict=True):
        brightness = frame[y : y + world.GRID, x : x + world.GRID].mean(-1)[inside]
        marks.append(brightness - brightness.mean())
    return np.stack(marks)


def likeness(frames: np.ndarray, seen: Sighting, looks: Sequence[Look]) -> np.ndarray:
    """Correlation of the marks seen with those of looks, mean over the frames: ``(looks,)``; 1 the same, 0 by chance.

    A creature without marks has 0: contrast that is fainter than a fifth of a drawn one's does not count in full.
    """
    inside, marks = world.KINDS[seen.kind].inside, seen_marks(frames, seen)
    wanted = np.stack([look.signs[inside] for look in looks])
    wanted = wanted - wanted.mean(1, keepdims=True)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    size = np.linalg.norm(marks, axis=1)
    least = 0.2 * world.CONTRAST * inside.sum() ** 0.5
    return (marks @ wanted.T / np.maximum(size, least)[:, None]).mean(0)


@cache
def decoys(kind: str, count: int = DECOYS) -> tuple[Look, ...]:
    """Other creatures of a class, with which the right one is compared."""
    rng = np.random.default_rng([count, list(world.KINDS).index(kind)])
    return tuple(Look(kind, world.sample_marks(rng)) for _ in range(count))


def recognised(frames: np.ndarray, seen: Sighting, look: Look) -> bool:
    """Whether a clip's marks are more like a look's than like any decoy's."""
    found = likeness(frames, seen, [look, *decoys(look.kind)])
    return bool(found[0] > found[1:].max())


def sameness(frames: np.ndarray, seen: Sighting) -> float:
    """Correlation of the marks between neighbouring frames, mean over the clip: 1 it keeps its marks, 0 they are new."""
    marks = seen_marks(frames, seen)
    size = np.maximum(np.linalg.norm(marks, axis=1), 1e-6)
    return float(((marks[1:] * marks[:-1]).sum(1) / (size[1:] * size[:-1])).mean())
