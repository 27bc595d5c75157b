"""The demo world: seeded, captioned clips of moving shapes, with the exact ground truth of each.

Lengths and positions are fractions of the frame side, x to the right and y downwards, so one scene can be drawn at any
resolution. Colours are RGB bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

FRAMES = 8
SIDE = 32
FPS = 8
SUPERSAMPLE = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 165, 70),
    "blue": (40, 80, 215),
    "yellow": (245, 205, 45),
}
"""The colours of plain shapes."""
TOY_COLOURS: dict[str, tuple[int, int, int]] = COLOURS | {
    "orange": (240, 130, 30),
    "purple": (130, 50, 170),
    "pink": (240, 130, 180),
    "cyan": (60, 190, 210),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (238, 238, 234),
    "gray": (128, 128, 132),
    "black": (22, 22, 26),
}
MOTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Name of a motion and its direction (x, y)."""

_Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _polygon(sides: int, turn: float, inner: float) -> _Inside:
    """A regular polygon whose sides lie at distance ``inner`` from the centre."""
    angles = turn + 2 * np.pi * np.arange(sides) / sides

    def inside(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.max([u * np.cos(a) + v * np.sin(a) for a in angles], axis=0) <= inner

    return inside


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    sector = np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector)
    radius = np.hypot(u, v)
    tip, notch = 1.15, 0.55
    # the edge from the tip (angle 0) to the notch (angle = sector), as a half plane
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    nx, ny = notch * np.sin(sector), tip - notch * np.cos(sector)
    return x * nx + y * ny <= tip * nx


SHAPES: dict[str, _Inside] = {
    "circle": lambda u, v: np.hypot(u, v) <= 1.0,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.88,
    "triangle": lambda u, v: np.maximum(v - 0.75, (np.abs(u) * 2 - v - 1.05) / 1.2) <= 0,
}
"""Plain shapes: a test of "inside" in object coordinates, where the object's radius is 1."""
TOY_SHAPES: dict[str, _Inside] = SHAPES | {
    "diamond": lambda u, v: np.abs(u) * 1.15 + np.abs(v) <= 1.15,
    "star": _star,
    "heart": lambda u, v: (u**2 + (v * -1.1 + 0.05 - 0.62 * np.sqrt(np.abs(u))) ** 2) <= 0.78,
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) <= 0.36) & (np.maximum(np.abs(u), np.abs(v)) <= 1.0),
    "hexagon": _polygon(6, np.pi / 6, 0.9),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) <= 0.3,
    "crescent": lambda u, v: (np.hypot(u, v) <= 1.0) & (np.hypot(u - 0.55, v) > 0.75),
    "dome": lambda u, v: (np.hypot(u, v - 0.5) <= 1.05) & (v <= 0.5),
    "pill": lambda u, v: np.hypot(np.maximum(np.abs(u) - 0.5, 0), v) <= 0.58,
}
PATTERNS: dict[str, _Inside] = {
    "plain": lambda u, v: np.zeros(np.broadcast(u, v).shape, bool),
    "halves": lambda u, v: np.broadcast_to(u > 0, np.broadcast(u, v).shape),
    "layers": lambda u, v: np.broadcast_to(v > 0.05, np.broadcast(u, v).shape),
    "stripes": lambda u, v: np.broadcast_to(np.abs(u) < 0.36, np.broadcast(u, v).shape),
    "spot": lambda u, v: np.hypot(u, v) < 0.52,
    "quarters": lambda u, v: (u > 0) != (v > 0),
    "slope": lambda u, v: u + v > 0,
}
"""Where the second colour goes, in object coordinates."""


@dataclass(frozen=True)
class Look:
    """What an object looks like. ``colours`` are names; the second one is used where the pattern says."""

    shape: str
    pattern: str
    colours: tuple[str, str]


@dataclass(frozen=True)
class Scene:
    """The exact ground truth of a clip: the object moves evenly from ``start`` to ``end`` (x, y)."""

    look: Look
    background: str
    motion: str
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]
    caption: str


HELD_OUT: dict[str, Look] = {
    "star-red-yellow": Look("star", "halves", ("red", "yellow")),
    "heart-pink-blue": Look("heart", "layers", ("pink", "blue")),
    "hexagon-green-orange": Look("hexagon", "quarters", ("green", "orange")),
    "diamond-purple-yellow": Look("diamond", "stripes", ("purple", "yellow")),
    "circle-blue-yellow": Look("circle", "slope", ("blue", "yellow")),
    "cross-red-cyan": Look("cross", "spot", ("red", "cyan")),
}
"""Subjects whose pairing of shape and pattern is never drawn in training, in any colours."""
_HELD_OUT_PAIRS = {(look.shape, look.pattern) for look in HELD_OUT.values()}
CLASS_WORD = "toy"


def draw_object(
    look: Look, centre: tuple[float, float], radius: float, background: np.ndarray, side: int = SIDE
) -> np.ndarray:
    """Draw one object on a plain background colour ``(3,)``, antialiased: float ``(side, side, 3)`` in 0 … 255."""
    fine = side * SUPERSAMPLE
    axis = ((np.arange(fine) + 0.5) / fine).astype(np.float32)
    u, v = ((axis - centre[0]) / radius)[None, :], ((axis - centre[1]) / radius)[:, None]
    inside = TOY_SHAPES[look.shape](u, v)
    second = inside & PATTERNS[look.pattern](u, v)
    cells = (side, SUPERSAMPLE, side, SUPERSAMPLE)
    object_part, second_part = (m.reshape(cells).mean((1, 3), dtype=np.float32) for m in (inside, second))
    weights = np.stack([1 - object_part, object_part - second_part, second_part], -1)
    colours = np.array([background, *(TOY_COLOURS[name] for name in look.colours)], np.float32)
    return weights @ colours


def render_scene(scene: Scene, frames: int = FRAMES, side: int = SIDE) -> np.ndarray:
    """Draw a scene: uint8 ``(frames, side, side, 3)``."""
    background = np.array(BACKGROUNDS[scene.background])
    moments = np.linspace(0, 1, frames) if frames > 1 and scene.motion != "still" else np.zeros(1)
    start, way = np.array(scene.start), np.array(scene.end) - np.array(scene.start)
    drawn = []
    for moment in moments:
        x, y = start + way * moment
        drawn.append(np.rint(draw_object(scene.look, (x, y), scene.radius, background, side)).astype(np.uint8))
    return np.stack(drawn if len(drawn) == frames else drawn * frames)


def caption_for(noun: str, motion: str, background: str) -> str:
    """The one wording of the world, e.g. ``a red circle moving left on a white background``."""
    doing = "standing still" if motion == "still" else f"moving {motion}"
    article = "an" if noun[0] in "aeiou" else "a"
    return f"{article} {noun} {doing} on a {background} background"


def place(rng: np.random.Generator, motion: str, radius: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Start and end of a motion: nearly edge to edge along it, near the centre across it."""
    if motion == "still":
        spot = (float(rng.uniform(0.32, 0.68)), float(rng.uniform(0.32, 0.68)))
        return spot, spot
    margin = radius + 0.03
    near, far = margin + rng.uniform(0, 0.05), 1 - margin - rng.uniform(0, 0.05)
    across = rng.uniform(0.43, 0.57)
    dx, dy = MOTIONS[motion]
    along = (float(near), float(far)) if dx + dy > 0 else (float(far), float(near))
    if dx:
        return (along[0], float(across)), (along[1], float(across))
    return (float(across), along[0]), (float(across), along[1])


def sample_look(rng: np.random.Generator) -> Look:
    """A toy's look: any shape, pattern and two colours but the held-out pairings."""
    while True:
        shape, pattern = str(rng.choice(list(TOY_SHAPES))), str(rng.choice(list(PATTERNS)))
        if (shape, pattern) not in _HELD_OUT_PAIRS:
            first, second = (str(name) for name in rng.choice(list(TOY_COLOURS), 2, replace=False))
            return Look(shape, pattern, (first, second))


def sample_scene(
    rng: np.random.Generator, *, toy_share: float = 0.3, motion_weights: Mapping[str, float] | None = None
) -> Scene:
    """Draw one training scene.

    Args:
        rng: source of all randomness.
        toy_share: share of clips that show a toy rather than a plain shape.
        motion_weights: relative frequency of each motion; equal when not given.
    """
    if rng.random() < toy_share:
        look = sample_look(rng)
        first, second = look.colours
        words = [CLASS_WORD, f"{first} {CLASS_WORD}"]
        words.append(words[1] if look.pattern == "plain" else f"{first} and {second} {CLASS_WORD}")
        noun = str(rng.choice(words, p=[0.5, 0.25, 0.25]))
    else:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(list(SHAPES)))
        look, noun = Look(shape, "plain", (colour, colour)), f"{colour} {shape}"
    weights = np.array([1.0 if motion_weights is None else motion_weights.get(name, 0.0) for name in MOTIONS])
    motion = str(rng.choice(list(MOTIONS), p=weights / weights.sum()))
    background = str(rng.choice(list(BACKGROUNDS)))
    radius = float(rng.uniform(0.18, 0.23))
    start, end = place(rng, motion, radius)
    return Scene(look, background, motion, radius, start, end, caption_for(noun, motion, background))


def subject_scenes(look: Look, count: int = 5, seed: int = 0) -> list[Scene]:
    """Still scenes of one subject at different places, sizes and backgrounds: what its photos show."""
    rng = np.random.default_rng([seed, *"".join((look.shape, look.pattern)).encode()])
    backgrounds = [list(BACKGROUNDS)[i % len(BACKGROUNDS)] for i in rng.permutation(count)]
    scenes = []
    for background in backgrounds:
        radius = float(rng.uniform(0.19, 0.28))
        spot, _ = place(rng, "still", radius)
        scenes.append(
            Scene(look, background, "still", radius, spot, spot, caption_for(CLASS_WORD, "still", background))
        )
    return scenes


def subject_photos(name: str, count: int = 5, seed: int = 0, side: int = SIDE) -> list[np.ndarray]:
    """Photos of a held-out subject: ``count`` pictures, uint8 ``(side, side, 3)``."""
    return [render_scene(scene, 1, side)[0] for scene in subject_scenes(HELD_OUT[name], count, seed)]


def with_motion(scene: Scene, motion: str, seed: int = 0) -> Scene:
    """The same object and background with another motion (caption not changed)."""
    start, end = place(np.random.default_rng([seed, 11]), motion, scene.radius)
    return replace(scene, motion=motion, start=start, end=end)


def gate_prompts() -> list[tuple[str, Scene]]:
    """Every plain prompt (colour x shape x background x motion) with a scene that is a right answer to it."""
    rng = np.random.default_rng(5)
    answers = []
    for colour in COLOURS:
        for shape in SHAPES:
            for background in BACKGROUNDS:
                for motion in MOTIONS:
                    start, end = place(rng, motion, 0.205)
                    caption = caption_for(f"{colour} {shape}", motion, background)
                    look = Look(shape, "plain", (colour, colour))
                    answers.append((caption, Scene(look, background, motion, 0.205, start, end, caption)))
    return answers


def captions_of(scenes: Sequence[Scene]) -> list[str]:
    """The captions of scenes, in order."""
    return [scene.caption for scene in scenes]
