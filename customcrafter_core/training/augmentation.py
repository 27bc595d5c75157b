"""Resize augmentation: a photo shown smaller or larger, and words that say so (paper's supplement: 0.4-1.4x)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from .photos import cut_to

PASTED_BELOW = 0.6  # authors' code: smaller photos are pasted on black, those from here to 1 are left as they are
CLOSE_FROM = 1.2  # authors' code: the smallest enlargement that the words call close
SMALL_PHRASES = ("very small", "far away")  # supplement
LARGE_PHRASES = ("zoomed in", "close up")  # supplement
ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class View:
    """One way to see a photo."""

    image: Image.Image
    """RGB, of the video's size."""
    mask: torch.Tensor
    """``(h, w)`` of the latent, float32, 1 where the photo is and the loss counts, else 0."""
    phrase: str
    """What the caption has to say about the size, or empty."""


def draw_view(
    image: Image.Image,
    size: tuple[int, int],
    *,
    resize: tuple[float, float],
    flip: bool,
    unit: int,
    rng: np.random.Generator,
) -> View:
    """Draw how large a photo is shown, and where.

    It always takes the same number of draws, so that a change of one setting does not move the others' draws.

    Args:
        image: RGB, of any size; cut centrally to the aspect of what it fills.
        size: width and height of the video in pixels, divisible by ``unit``.
        resize: the smallest and the largest factor; ``(1, 1)`` always gives the plain photo.
        flip: mirror every second photo.
        unit: pixels behind one latent position, `ModelConfig.pixels_per_latent`. Small photos are pasted on this grid, so
            that no latent position is partly photo and partly black.
        rng: of the draws.
    """
    scale, across, down, choice, mirrored = rng.random(5).tolist()
    factor = resize[0] + (resize[1] - resize[0]) * scale
    mask = torch.ones(size[1] // unit, size[0] // unit)
    if factor < PASTED_BELOW:
        view, box = _pasted(image, size, factor, (across, down), unit)
        mask = torch.zeros_like(mask)
        left, top, right, bottom = (side // unit for side in box)
        mask[top:bottom, left:right] = 1
    elif factor > 1:
        view = _cropped(image, size, factor, (across, down))
    else:
        view = cut_to(image, size)
    if flip and mirrored < 0.5:
        view, mask = ImageOps.mirror(view), mask.flip(1)
    return View(view, mask, _phrase(factor, choice))


def _phrase(factor: float, choice: float) -> str:
    """Words for a factor; ``choice`` in 0 … 1 picks one of two."""
    if factor < PASTED_BELOW:
        return SMALL_PHRASES[choice < 0.5]
    return LARGE_PHRASES[choice < 0.5] if factor >= CLOSE_FROM else ""


def _pasted(
    image: Image.Image, size: tuple[int, int], factor: float, place: tuple[float, float], unit: int
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """The photo on black, and its box ``(left, top, right, bottom)``: multiples of ``unit``."""
    width, height = (max(round(side * factor / unit), 1) * unit for side in size)
    left, top = (
        int(share * ((whole - part) // unit + 1)) * unit
        for share, whole, part in zip(place, size, (width, height), strict=True)
    )
    canvas = Image.new("RGB", size)
    canvas.paste(cut_to(image, (width, height)), (left, top))
    return canvas, (left, top, left + width, top + height)


def _cropped(image: Image.Image, size: tuple[int, int], factor: float, place: tuple[float, float]) -> Image.Image:
    """A part of the photo, enlarged ``factor`` times against the whole, straight from the photo's own pixels."""
    fitting = max(size[0] / image.width, size[1] / image.height)
    whole = [side / fitting for side in size]  # of the photo's pixels, the central cut of the video's aspect
    corner = [
        (own - cut) / 2 + share * (cut - cut / factor) for own, cut, share in zip(image.size, whole, place, strict=True)
    ]
    left, top = (max(side, 0.0) for side in corner)
    right, bottom = min(left + whole[0] / factor, image.width), min(top + whole[1] / factor, image.height)
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, right, bottom))


def with_phrase(caption: str, phrase: str) -> str:
    """A caption that also says how large the subject is.

    ``video of a {}`` becomes ``zoomed in video of a {}``; behind a leading article it is ``a very small {}``.
    """
    if not phrase:
        return caption
    first, space, rest = caption.partition(" ")
    if not space or first.lower() not in ARTICLES:
        return f"{phrase} {caption}"
    article = "a" if first.lower() == "an" else first  # no phrase begins with a vowel
    return f"{article} {phrase} {rest}"
