"""The demo world: seeded, captioned clips of moving shapes, with the exact ground truth of each.

Lengths and positions are fractions of the frame side, x to the right and y downwards, so one scene can be drawn at any
resolution. Colours are RGB bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
}
PATTERNS: dict[str, _Inside] = {
    "plain": lambda u, v: np.zeros(np.broadcast(u, v).shape, bool),
    "halves": lambda u, v: np.broadcast_to(u > 0, np.broadcast(u, v).shape),
    "layers": lambda u, v: np.broadcast_to(v > 0.05, np.broadcast(u, v).shape),
    "stripes": lambda u, v: np.broadcast_to(np.abs(u) < 0.36, np.broadcast(u, v).shape),
    "spot": lambda u, v: np.hypot(u, v) < 0.52,
}
"""Where the second colour goes, in object coordinates."""
PATTERN_WORDS = {"halves": "split", "layers": "layered", "stripes": "striped", "spot": "spotted"}


@dataclass(frozen=True)
class Look:
    """What an object looks like. ``colours`` are names; the second one is used where the pattern says."""

    shape: str
    pattern: str
    colours: tuple[str, str]


THINGS: dict[str, Look] = {
    "brick": Look("square", "plain", ("red", "red")),
    "leaf": Look("diamond", "plain", ("green", "green")),
    "berry": Look("circle", "plain", ("blue", "blue")),
    "lemon": Look("circle", "plain", ("yellow", "yellow")),
}
"""What stands still beside the object in some clips. Each word means one look: an encoder that was never trained hardly
tells which of two nouns a colour belongs to."""
THING_RADIUS = 0.15


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
    thing: str = ""
    """Name of the second object, which stands still at ``thing_at``; empty: none."""
    thing_at: tuple[float, float] = (0.0, 0.0)


HELD_OUT: dict[str, Look] = {
    "star-red-yellow": Look("star", "halves", ("red", "yellow")),
    "heart-blue-pink": Look("heart", "layers", ("blue", "pink")),
    "diamond-yellow-purple": Look("diamond", "stripes", ("yellow", "purple")),
    "cross-red-cyan": Look("cross", "spot", ("red", "cyan")),
    "square-orange": Look("square", "plain", ("orange", "orange")),
}
"""Subjects never drawn in training; of those in two colours, their pairing of shape and pattern in no colours at all."""
_HELD_OUT_PAIRS = {(look.shape, look.pattern) for look in HELD_OUT.values() if look.pattern != "plain"}
CLASS_WORD = "toy"
PLAIN_TOYS = 0.3
"""Share of toys in one colour."""


def draw_object(
    look: Look, centre: tuple[float, float], radius: float, background: np.ndarray, side: int = SIDE
) -> np.ndarray:
    """Draw one object, antialiased: float ``(side, side, 3)`` in 0 … 255.

    ``background`` is a colour ``(3,)`` or a picture ``(side, side, 3)``.
    """
    fine = side * SUPERSAMPLE
    axis = ((np.arange(fine) + 0.5) / fine).astype(np.float32)
    u, v = ((axis - centre[0]) / radius)[None, :], ((axis - centre[1]) / radius)[:, None]
    inside = TOY_SHAPES[look.shape](u, v)
    second = inside & PATTERNS[look.pattern](u, v)
    cells = (side, SUPERSAMPLE, side, SUPERSAMPLE)
    object_part, second_part = (m.reshape(cells).mean((1, 3), dtype=np.float32) for m in (inside, second))
    weights = np.stack([object_part - second_part, second_part], -1)
    colours = np.array([TOY_COLOURS[name] for name in look.colours], np.float32)
    return (1 - object_part)[..., None] * background.astype(np.float32) + weights @ colours


def render_scene(scene: Scene, frames: int = FRAMES, side: int = SIDE) -> np.ndarray:
    """Draw a scene: uint8 ``(frames, side, side, 3)``."""
    background = np.array(BACKGROUNDS[scene.background])
    if scene.thing:
        background = draw_object(THINGS[scene.thing], scene.thing_at, THING_RADIUS, background, side)
    moments = np.linspace(0, 1, frames) if frames > 1 and scene.motion != "still" else np.zeros(1)
    start, way = np.array(scene.start), np.array(scene.end) - np.array(scene.start)
    drawn = []
    for moment in moments:
        x, y = start + way * moment
        drawn.append(np.rint(draw_object(scene.look, (x, y), scene.radius, background, side)).astype(np.uint8))
    return np.stack(drawn if len(drawn) == frames else drawn * frames)


def caption_for(noun: str, motion: str, background: str, thing: str = "") -> str:
    """The one wording of the world, e.g. ``a red circle moving left on a white background beside a leaf``."""
    doing = "standing still" if motion == "still" else f"moving {motion}"
    article = "an" if noun[0] in "aeiou" else "a"
    return f"{article} {noun} {doing} on a {background} background" + (f" beside a {thing}" if thing else "")


def full_name(look: Look) -> str:
    """All that words say of a look, e.g. ``red and yellow striped heart``."""
    first, second = look.colours
    if look.pattern == "plain":
        return f"{first} {look.shape}"
    return f"{first} and {second} {PATTERN_WORDS[look.pattern]} {look.shape}"


def place(rng: np.random.Generator, motion: str, radius: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Start and end of a motion: nearly edge to edge along it, near the centre across it."""
    if motion == "still":
        spot = (float(rng.uniform(0.32, 0.68)), float(rng.uniform(0.32, 0.68)))
        return spot, spot
    return _along(rng, motion, radius, rng.uniform(0.43, 0.57))


def place_beside(
    rng: np.random.Generator, motion: str, radius: float
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Start and end of a motion in the left or upper part, and where the second object stands in the other part."""
    across, other = rng.uniform(radius + 0.06, radius + 0.12), 1 - THING_RADIUS - rng.uniform(0.02, 0.06)
    along = float(rng.uniform(THING_RADIUS + 0.03, 1 - THING_RADIUS - 0.03))
    if motion == "still":
        spot = (float(rng.uniform(0.32, 0.68)), float(across))
        return spot, spot, (along, float(other))
    start, end = _along(rng, motion, radius, across)
    return start, end, (along, float(other)) if MOTIONS[motion][0] else (float(other), along)


def _along(
    rng: np.random.Generator, motion: str, radius: float, across: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    margin = radius + 0.03
    near, far = margin + rng.uniform(0, 0.05), 1 - margin - rng.uniform(0, 0.05)
    dx, dy = MOTIONS[motion]
    along = (float(near), float(far)) if dx + dy > 0 else (float(far), float(near))
    if dx:
        return (along[0], float(across)), (along[1], float(across))
    return (float(across), along[0]), (float(across), along[1])


def sample_look(rng: np.random.Generator) -> Look:
    """A toy's look: any shape, pattern and one or two colours but the held-out ones.

    Of two colours the one that comes first in the palette comes first, so that a caption's words say which is where.
    """
    while True:
        shape = str(rng.choice(list(TOY_SHAPES)))
        pattern = "plain" if rng.random() < PLAIN_TOYS else str(rng.choice(list(PATTERN_WORDS)))
        first, second = (list(TOY_COLOURS)[i] for i in sorted(rng.choice(len(TOY_COLOURS), 2, replace=False)))
        if pattern == "plain":
            first = second = str(rng.choice([first, second]))
        look = Look(shape, pattern, (first, second))
        if (shape, pattern) not in _HELD_OUT_PAIRS and look not in HELD_OUT.values():
            return look


def sample_scene(
    rng: np.random.Generator,
    *,
    toy_share: float = 0.3,
    thing_share: float = 0.0,
    motion_weights: Mapping[str, float] | None = None,
) -> Scene:
    """Draw one training scene.

    Args:
        rng: source of all randomness.
        toy_share: share of clips that show a toy rather than a plain shape.
        thing_share: share of clips with a second object.
        motion_weights: relative frequency of each motion; equal when not given.
    """
    if rng.random() < toy_share:
        look = sample_look(rng)
        colours = " and ".join(dict.fromkeys(look.colours))
        noun = str(rng.choice([CLASS_WORD, f"{colours} {CLASS_WORD}", full_name(look)], p=[0.3, 0.15, 0.55]))
    else:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(list(SHAPES)))
        look, noun = Look(shape, "plain", (colour, colour)), f"{colour} {shape}"
    weights = np.array([1.0 if motion_weights is None else motion_weights.get(name, 0.0) for name in MOTIONS])
    motion = str(rng.choice(list(MOTIONS), p=weights / weights.sum()))
    background = str(rng.choice(list(BACKGROUNDS)))
    radius = float(rng.uniform(0.18, 0.23))
    if thing_share and rng.random() < thing_share:
        thing = str(rng.choice([name for name, other in THINGS.items() if other.colours[0] not in look.colours]))
        start, end, thing_at = place_beside(rng, motion, radius)
        caption = caption_for(noun, motion, background, thing)
        return Scene(look, background, motion, radius, start, end, caption, thing, thing_at)
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
