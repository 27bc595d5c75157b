"""The demo world: seeded, captioned clips of one large creature on a flat background, with the exact ground truth of each.

A clip is a mosaic: every cell of :data:`CELL` x :data:`CELL` pixels has one colour, and a creature moves by exactly one
cell a frame. What a creature *is* (crab, robot, ghost) shows in its outline and colour and has a word. *Which one* it is
shows only in its marks: a mirrored grid of cells that are a little lighter or darker than the colour of its class. So an
identity is many small decisions, as it is in a real subject, and no words say it.

Lengths and places are in cells, x to the right and y downwards; colours are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

FRAMES = 8
FPS = 8
CELL = 4
"""Pixels of a cell's side; one position of the latent."""
CELLS = 16
SIDE = CELLS * CELL
GRID = 7
"""Cells of a creature's side."""
HALF = (GRID, (GRID + 1) // 2)
"""Shape of the left half of a grid, the middle column included: what can be chosen freely of a mirrored one."""
CONTRAST = 0.3
"""How much lighter or darker than the class's colour a mark is."""
ALONG, ACROSS = CELLS - GRID - FRAMES + 2, CELLS - GRID + 1
"""Number of places at which a motion can start, along it and across it."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Kind:
    """A class of creatures: outline (``#`` is inside) and colour."""

    outline: tuple[str, ...]
    colour: Colour

    @property
    def inside(self) -> np.ndarray:
        """Cells that belong to the creature: bool ``(GRID, GRID)``."""
        return np.array([[cell == "#" for cell in row] for row in self.outline])


KINDS: dict[str, Kind] = {
    "crab": Kind(
        (
            "##...##",
            "##.#.##",
            "#######",
            "#######",
            ".#####.",
            ".#####.",
            "##.#.##",
        ),
        (0.5, -0.5, -0.5),
    ),
    "robot": Kind(
        (
            "..###..",
            "#######",
            "#######",
            "#######",
            "#######",
            "#######",
            "##...##",
        ),
        (-0.45, -0.2, 0.55),
    ),
    "ghost": Kind(
        (
            "..###..",
            ".#####.",
            "#######",
            "#######",
            "#######",
            "#######",
            "#.#.#.#",
        ),
        (-0.4, 0.35, -0.3),
    ),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (0.88, 0.88, 0.88),
    "black": (-0.88, -0.88, -0.88),
    "yellow": (0.9, 0.7, -0.3),
}
MOTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Name of a motion and its direction (x, y)."""
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True)
class Look:
    """What a creature looks like: the class's name, and its marks as one bit a free cell, row by row (1 is light)."""

    kind: str
    marks: int

    @property
    def signs(self) -> np.ndarray:
        """The marks in the whole mirrored grid, +1 light and -1 dark: float32 ``(GRID, GRID)``."""
        bits = (self.marks >> np.arange(HALF[0] * HALF[1])) & 1
        half = (2.0 * bits - 1).reshape(HALF).astype(np.float32)
        return np.concatenate([half, half[:, -2::-1]], 1)


def likeness(one: Look, other: Look) -> float:
    """Correlation of two creatures' marks within the first one's outline, -1 … 1; classes do not matter."""
    inside = KINDS[one.kind].inside
    a, b = one.signs[inside], other.signs[inside]
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def sample_marks(rng: np.random.Generator) -> int:
    """Random marks, as many light as dark ones among the free cells."""
    count = HALF[0] * HALF[1]
    light = rng.permutation(count)[: count // 2]
    return int(sum(1 << int(bit) for bit in light))


NAMES = ("tiger", "panda", "zebra", "fox", "owl", "wolf", "bear", "frog", "lion", "mouse", "eagle", "shark")
"""Words for marks that occur again and again, in every class: "a tiger crab". Each means one set of marks."""
SUBJECTS = ("crab-1", "robot-1", "ghost-1", "crab-2", "robot-2", "ghost-2")
ALIKE = 0.5
"""Named marks and subjects are less alike than this, one with another."""
_SEED = 20


@cache
def _apart() -> tuple[dict[str, int], dict[str, Look]]:
    """Named marks and held-out subjects, drawn until no two of them are alike in any class."""
    rng = np.random.default_rng(_SEED)
    chosen: list[int] = []
    while len(chosen) < len(NAMES) + len(SUBJECTS):
        marks = sample_marks(rng)
        if all(abs(likeness(Look(kind, marks), Look(kind, other))) < ALIKE for kind in KINDS for other in chosen):
            chosen.append(marks)
    held_out = [Look(name.split("-")[0], marks) for name, marks in zip(SUBJECTS, chosen[len(NAMES) :], strict=True)]
    return dict(zip(NAMES, chosen, strict=False)), dict(zip(SUBJECTS, held_out, strict=True))


def named_marks() -> dict[str, int]:
    """Marks of every name."""
    return dict(_apart()[0])


def held_out() -> dict[str, Look]:
    """Subjects that no word of the world means."""
    return dict(_apart()[1])


@dataclass(frozen=True)
class Scene:
    """The exact ground truth of a clip. ``start``: the creature's upper left cell (x, y) in the first frame."""

    look: Look
    background: str
    motion: str
    start: tuple[int, int]
    name: str = ""
    """The word for the marks, if there is one."""

    @property
    def noun(self) -> str:
        """Words for the creature, such as ``tiger crab``."""
        return f"{self.name} {self.look.kind}".strip()

    @property
    def caption(self) -> str:
        """All that words say of the clip."""
        return caption_for(self.noun, self.motion, self.background)

    def places(self, frames: int = FRAMES) -> list[tuple[int, int]]:
        """The creature's upper left cell in each frame."""
        dx, dy = MOTIONS[self.motion]
        return [(self.start[0] + dx * i, self.start[1] + dy * i) for i in range(frames)]


def caption_for(noun: str, motion: str = "", background: str = "") -> str:
    """The one wording of the world, e.g. ``a tiger crab moving left on a white background``; empty parts are left out."""
    doing = {"": "", "still": " standing still"}.get(motion, f" moving {motion}")
    article = "an" if noun[0] in "aeiou" else "a"
    return f"{article} {noun}{doing}" + (f" on a {background} background" if background else "")


@cache
def _coloured(look: Look) -> np.ndarray:
    return np.array(KINDS[look.kind].colour, np.float32) + CONTRAST * look.signs[..., None]


def render_cells(scene: Scene, frames: int = FRAMES) -> np.ndarray:
    """The colour of every cell: float32 ``(frames, CELLS, CELLS, 3)`` in [-1, 1]."""
    clip = np.empty((frames, CELLS, CELLS, 3), np.float32)
    clip[:] = BACKGROUNDS[scene.background]
    inside, colours = KINDS[scene.look.kind].inside, _coloured(scene.look)
    for frame, (x, y) in zip(clip, scene.places(frames), strict=True):
        frame[y : y + GRID, x : x + GRID][inside] = colours[inside]
    return clip


def to_pixels(cells: np.ndarray) -> np.ndarray:
    """Colours of cells ``(…, h, w, 3)`` as a picture, uint8 ``(…, CELL h, CELL w, 3)``."""
    pixels = np.rint((cells.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return pixels.repeat(CELL, -3).repeat(CELL, -2)


def render_scene(scene: Scene, frames: int = FRAMES) -> np.ndarray:
    """Draw a scene: uint8 ``(frames, SIDE, SIDE, 3)``."""
    return to_pixels(render_cells(scene, frames))


def place(rng: np.random.Generator, motion: str, *, spread: float = 1.0) -> tuple[int, int]:
    """Where a motion can start so that the creature stays in the frame.

    Args:
        rng: source of all randomness.
        motion: name of the motion.
        spread: share of the places used, those nearest to the middle.
    """
    dx, dy = MOTIONS[motion]

    def pick(count: int) -> int:
        used = max(1, round(count * spread))
        return (count - used) // 2 + int(rng.integers(used))

    if not dx and not dy:
        return pick(ACROSS), pick(ACROSS)
    along, across = pick(ALONG), pick(ACROSS)
    if dx + dy < 0:
        along = CELLS - GRID - along
    return (along, across) if dx else (across, along)


def sample_scene(
    rng: np.random.Generator,
    *,
    named_share: float = 0.4,
    motion_weights: Mapping[str, float] | None = None,
    spread: float = 1.0,
) -> Scene:
    """Draw one scene.

    Args:
        rng: source of all randomness.
        named_share: share of creatures whose marks have a name; the others' are new each time, and no word says them.
        motion_weights: relative frequency of each motion; equal when not given.
        spread: see :func:`place`.
    """
    kind, background = str(rng.choice(list(KINDS))), str(rng.choice(list(BACKGROUNDS)))
    weights = np.array([1.0 if motion_weights is None else motion_weights.get(name, 0.0) for name in MOTIONS])
    motion = str(rng.choice(list(MOTIONS), p=weights / weights.sum()))
    name = str(rng.choice(NAMES)) if rng.random() < named_share else ""
    marks = _apart()[0][name] if name else sample_marks(rng)
    return Scene(Look(kind, marks), background, motion, place(rng, motion, spread=spread), name)


@dataclass(frozen=True)
class CaptionNoise:
    """Shares of captions that leave a part out, say a wrong motion, or say nothing.

    Captions that always tell the truth teach a network to trust the word against a motion that it plainly sees.
    """

    no_motion: float = 0.4
    wrong_motion: float = 0.1
    no_background: float = 0.05
    no_name: float = 0.15
    empty: float = 0.1


TRUE_CAPTIONS = CaptionNoise(0.0, 0.0, 0.0, 0.0, 0.1)
"""Nothing wrong and nothing left out; empty ones are what guidance needs."""


def noisy_caption(rng: np.random.Generator, scene: Scene, noise: CaptionNoise) -> str:
    """A caption of the scene as a careless person would write it."""
    empty, no_background, no_name = rng.random(3) < (noise.empty, noise.no_background, noise.no_name)
    fate, other = rng.random(), str(rng.choice([name for name in MOTIONS if name != scene.motion]))
    if empty:
        return ""
    motion = scene.motion
    if fate < noise.no_motion:
        motion = ""
    elif fate < noise.no_motion + noise.wrong_motion:
        motion = other
    return caption_for(scene.look.kind if no_name else scene.noun, motion, "" if no_background else scene.background)


def subject_scenes(look: Look, count: int = 5, seed: int = 0, backgrounds: int = 2) -> list[Scene]:
    """Scenes that a subject's photos show: it stands still, at different places, on the first few backgrounds."""
    rng = np.random.default_rng([seed, look.marks])
    names = [list(BACKGROUNDS)[i % backgrounds] for i in range(count)]
    return [Scene(look, name, "still", place(rng, "still")) for name in names]
