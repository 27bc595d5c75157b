"""Analytic measures of demo clips: where the object goes, its colour and shape, the background, and whose it is.

Frames are uint8 ``(f, h, w, 3)``. Lengths are fractions of the frame side. The thresholds were set on clips drawn by
the world itself (and on these passed through the autoencoder), before any result of a method was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from customcrafter_core.demo import world
from customcrafter_core.demo.world import Look, Scene

STILL_TRAVEL = 0.10
"""Less travel than this is standing still; drawn moving clips travel at least 0.38, drawn still ones 0."""
STRAIGHT = 2.0
"""A direction counts when its axis has this many times the other's travel."""
COLOUR_DISTANCE = 75.0
"""A colour counts as named when it is at most this far away (RGB, bytes); the palette's nearest pair is 100 apart."""
SMALLEST_OBJECT = 0.02
"""A frame with less than this share of object pixels has no object; the smallest drawn one has 0.05."""

STAYS = 0.75
"""Share of the frames in which a pixel must have the second object's colour to be part of it."""
SMALLEST_THING = 0.02
"""The second object covers at least this share of the frame; drawn ones 0.045 to 0.08."""
CELLS = 6
"""Cells per side of the grid on which an object's colour layout is compared from frame to frame."""

SIZE_GAINS = (0.9, 0.95, 1.0)
"""Sizes tried when a look is fitted: soft edges count as object, so the size by area is a little too large."""


def background_colour(frames: np.ndarray) -> np.ndarray:
    """The clip's background, RGB ``(3,)``: the median pixel, as objects cover less than half of a frame."""
    return np.median(frames.reshape(-1, 3), axis=0)


def object_share(frames: np.ndarray) -> np.ndarray:
    """How much each pixel belongs to an object, ``(f, h, w)`` in 0 … 1, by its difference from the background."""
    difference = np.abs(frames.astype(np.float32) - background_colour(frames)).max(-1)
    return np.clip((difference - 25) / 40, 0, 1)


def _nearest(colour: np.ndarray, palette: Mapping[str, tuple[int, int, int]]) -> str | None:
    distances = {name: float(np.linalg.norm(colour - np.array(rgb))) for name, rgb in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= COLOUR_DISTANCE else None


def background_name(frames: np.ndarray) -> str | None:
    """The background's name, None when it is none of the world's."""
    return _nearest(background_colour(frames), world.BACKGROUNDS)


def object_colour(frames: np.ndarray, palette: Mapping[str, tuple[int, int, int]] = world.COLOURS) -> str | None:
    """The name of the object's main colour in a palette, None without an object or a clear colour."""
    inner = object_share(frames) >= 1
    if inner.mean() < SMALLEST_OBJECT / 2:
        return None
    return _nearest(np.median(frames[inner], axis=0), palette)


def centroids(frames: np.ndarray) -> np.ndarray:
    """Centre (x, y) of the object per frame ``(f, 2)``; NaN where there is none."""
    share = object_share(frames)
    mass = share.sum((1, 2))
    side = frames.shape[1]
    axis = (np.arange(side) + 0.5) / side
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.stack([share.sum(1) @ axis, share.sum(2) @ axis], -1) / mass[:, None]
    centre[mass / side**2 < SMALLEST_OBJECT] = np.nan
    return centre


def travel(frames: np.ndarray) -> np.ndarray:
    """Fitted travel (x, y) from first to last frame: a straight line through the centres; NaN without object."""
    centre = centroids(frames)
    seen = np.isfinite(centre[:, 0])
    if seen.sum() < 0.75 * len(frames):
        return np.full(2, np.nan)
    time = np.linspace(-0.5, 0.5, len(frames))[seen]
    time = time - time.mean()
    return (time @ centre[seen]) / (time @ time)


def direction(frames: np.ndarray) -> str | None:
    """``left``, ``right``, ``up``, ``down`` or ``still``; None without an object or on a slant."""
    x, y = travel(frames)
    if not np.isfinite(x):
        return None
    if np.hypot(x, y) < STILL_TRAVEL:
        wandering = np.nanstd(centroids(frames), axis=0).max()
        return "still" if wandering < STILL_TRAVEL / 2 else None
    if max(abs(x), abs(y)) < STRAIGHT * min(abs(x), abs(y)):
        return None
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def thing_mask(frames: np.ndarray, thing: str) -> np.ndarray:
    """Where a second object stands ``(h, w)``: pixels of its colour in most frames; all False when there is none.

    A moving object of the same colour leaves no such pixels, a still one would: prompts do not ask for that.
    """
    colour = np.array(world.TOY_COLOURS[world.THINGS[thing].colours[0]])
    near = np.linalg.norm(frames.astype(np.float32) - colour, axis=-1) <= COLOUR_DISTANCE
    mask: np.ndarray = near.mean(0) >= STAYS
    return mask if mask.mean() >= SMALLEST_THING else np.zeros_like(mask)


def without_thing(frames: np.ndarray, thing: str) -> np.ndarray:
    """The clip with the second object and its soft rim painted over by the background, to measure the first one."""
    mask = thing_mask(frames, thing)
    for axis in (0, 1):  # two pixels of rim
        mask = mask | np.roll(mask, 1, axis) | np.roll(mask, -1, axis)
        mask = mask | np.roll(mask, 1, axis) | np.roll(mask, -1, axis)
    return np.where(mask[None, ..., None], background_colour(frames).astype(np.uint8), frames)


def flicker(frames: np.ndarray) -> float:
    """How much an object's look changes from frame to frame: spread over time of its colour layout, in bytes of RGB.

    Each frame is cut out around the object's centre and averaged over a grid; NaN without object. Drawn clips of the
    training looks give at most 22 (soft edges on the pixel grid); a clip whose every frame shows another look 60 to 110.
    """
    shares, centre = object_share(frames), centroids(frames)
    seen = np.isfinite(centre[:, 0])
    if seen.sum() < 0.75 * len(frames):
        return float("nan")
    side = frames.shape[1]
    half = 1.1 * float(np.sqrt(np.median(shares[seen].mean((1, 2))) / np.pi))
    fine = (np.arange(CELLS * 4) + 0.5) / (CELLS * 4) * 2 - 1
    layouts = []
    for frame, (x, y) in zip(frames[seen], centre[seen], strict=True):
        cut = _bilinear(frame.astype(np.float32), (x + half * fine) * side - 0.5, (y + half * fine) * side - 0.5)
        layouts.append(cut.reshape(CELLS, 4, CELLS, 4, 3).mean((1, 3)))
    spread = np.stack(layouts) - np.mean(layouts, axis=0)
    return float(np.sqrt((spread**2).sum(-1).mean()))


def _bilinear(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A picture ``(h, w, 3)`` at the grid of positions ``x`` by ``y``, in pixels; the border goes on outside."""
    limit = picture.shape[0] - 1
    x, y = np.clip(x, 0, limit), np.clip(y, 0, limit)
    x0, y0 = np.minimum(x.astype(int), limit - 1), np.minimum(y.astype(int), limit - 1)
    fx, fy = (x - x0)[None, :, None], (y - y0)[:, None, None]
    upper = picture[y0][:, x0] * (1 - fx) + picture[y0][:, x0 + 1] * fx
    lower = picture[y0 + 1][:, x0] * (1 - fx) + picture[y0 + 1][:, x0 + 1] * fx
    drawn: np.ndarray = upper * (1 - fy) + lower * fy
    return drawn


@lru_cache(maxsize=256)
def _extent(shape: str) -> tuple[float, float, float]:
    """Of a shape of radius 1: its area, and its centroid (x, y)."""
    axis = np.linspace(-1.4, 1.4, 281)
    inside = world.TOY_SHAPES[shape](axis[None, :], axis[:, None]).astype(np.float64)
    mass = inside.sum()
    return (
        float(mass * (axis[1] - axis[0]) ** 2),
        float((inside.sum(0) @ axis) / mass),
        float((inside.sum(1) @ axis) / mass),
    )


def _fit_error(frame: np.ndarray, share: np.ndarray, look: Look, background: np.ndarray) -> float:
    """Mean squared error, within the object's surroundings, of the look drawn at the object's place and size."""
    side = frame.shape[0]
    axis = (np.arange(side) + 0.5) / side
    mass = share.sum()
    area, off_x, off_y = _extent(look.shape)
    full = float(np.sqrt(mass / side**2 / area))
    x, y = float(share.sum(0) @ axis / mass), float(share.sum(1) @ axis / mass)
    near = np.hypot(axis[None, :] - x, axis[:, None] - y) < 1.5 * full
    errors = []
    for gain in SIZE_GAINS:
        radius = full * gain
        drawn = world.draw_object(look, (x - off_x * radius, y - off_y * radius), radius, background, side)
        errors.append(float(((frame.astype(np.float32) - drawn) ** 2)[near].mean()))
    return min(errors)


def decoys(look: Look) -> list[Look]:
    """What a subject must be told from: plain shapes in one of its colours, and plain shapes with its pattern.

    A plain subject: other shapes in its colour, its shape in other colours.
    """
    if look.pattern == "plain":
        shapes = [replace(look, shape=shape) for shape in world.TOY_SHAPES if shape != look.shape]
        return shapes + [replace(look, colours=(c, c)) for c in world.TOY_COLOURS if c != look.colours[0]]
    plain = [
        Look(shape, "plain", (colour, colour))
        for shape in dict.fromkeys([*world.SHAPES, look.shape])
        for colour in look.colours
    ]
    return plain + [replace(look, shape=shape) for shape in world.SHAPES if shape != look.shape]


def subject_similarity(frames: np.ndarray, look: Look) -> float:
    """How much more an object looks like a subject than like its nearest decoy, -1 … 1; mean over frames.

    Subject and decoys are drawn at the object's place and size; with ``e`` their mean squared errors the score of a
    frame is ``(e_decoy - e_subject) / (e_decoy + e_subject)``. 0: as near to a decoy. A frame without object gives -1.

    Ceiling on drawn clips of the held-out subjects: 0.85 to 0.95, hexagon 0.65; after the autoencoder 0.76 to 0.88,
    hexagon 0.28 (its corners are smaller than a pixel). The highest score of any drawn decoy: -0.37.
    """
    background, shares = background_colour(frames), object_share(frames)
    scores = []
    for frame, share in zip(frames, shares, strict=True):
        if share.mean() < SMALLEST_OBJECT:
            scores.append(-1.0)
            continue
        own = _fit_error(frame, share, look, background)
        other = min(_fit_error(frame, share, decoy, background) for decoy in decoys(look))
        scores.append((other - own) / max(other + own, 1e-6))
    return float(np.mean(scores))


def plain_shape(frames: np.ndarray) -> str | None:
    """Which plain shape (circle, square, triangle) fits best, by majority over frames, in the object's colour."""
    colour = object_colour(frames)
    if colour is None:
        return None
    background, votes = background_colour(frames), []
    for frame, share in zip(frames, object_share(frames), strict=True):
        if share.mean() >= SMALLEST_OBJECT:
            looks = {shape: Look(shape, "plain", (colour, colour)) for shape in world.SHAPES}
            votes.append(min(looks, key=lambda s: _fit_error(frame, share, looks[s], background)))
    return max(sorted(set(votes)), key=votes.count) if votes else None


@dataclass(frozen=True)
class Verdict:
    """What is right about one clip, against the scene it was asked for."""

    colour: bool
    background: bool
    motion: bool
    shape: bool
    thing: bool = True
    """The second object is there; true where none was asked for."""


def judge(frames: np.ndarray, scene: Scene) -> Verdict:
    """Compare a clip with the scene that its prompt describes."""
    has_thing = not scene.thing or bool(thing_mask(frames, scene.thing).any())
    first = without_thing(frames, scene.thing) if scene.thing else frames
    return Verdict(
        colour=object_colour(first) == scene.look.colours[0],
        background=background_name(frames) == scene.background,
        motion=direction(first) == scene.motion,
        shape=plain_shape(first) == scene.look.shape,
        thing=has_thing,
    )
