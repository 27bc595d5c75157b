"""Views of a photo: cut to the video's shape or whole, shown smaller or larger, with words that say so.

Sizes: the paper's supplement, 0.4 to 1.4 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

PASTED_BELOW = 0.6  # authors' code: smaller photos are pasted on black, those from here to 1 are left as they are
CLOSE_FROM = 1.2  # authors' code: the smallest enlargement that the words call close
SMALL_PHRASES = ("very small", "far away")  # supplement
LARGE_PHRASES = ("zoomed in", "close up")  # supplement
ARTICLES = ("a", "an", "the")

CUT, WHOLE, AUTO = "cut", "whole", "auto"
FITS = (AUTO, CUT, WHOLE)
MAX_CUT = 0.1
"""Share of a photo's area that `AUTO` cuts off; where more would be lost it keeps the photo whole."""
ANCHORS = {
    "center": (0.5, 0.5), "top": (0.5, 0.0), "bottom": (0.5, 1.0), "left": (0.0, 0.5), "right": (1.0, 0.5),
}  # fmt: skip
"""What is kept of a photo that is cut -> where it lies, across and down."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """One way to see a photo."""

    image: Image.Image
    """RGB, of the video's size."""
    mask: torch.Tensor
    """``(h, w)`` of the latent, float32, how much the loss counts: 0 where the photo is not."""
    phrase: str
    """What the caption has to say about the size, or empty."""


@dataclass(frozen=True)
class Framing:
    """How photos are brought to the video's shape."""

    size: tuple[int, int]
    """Width and height of the video in pixels, divisible by ``unit``."""
    unit: int
    """Pixels behind one latent position, `ModelConfig.pixels_per_latent`. What does not fill the video lies on this grid, so
    that no latent position is partly photo and partly black."""
    fit: str = CUT
    anchor: str = "center"

    def is_whole(self, photo: tuple[int, int]) -> bool:
        """Whether a photo of this width and height is shown whole, on black where it does not fill the video."""
        return self.fit == WHOLE or (self.fit == AUTO and cropped_share(photo, self.size) > MAX_CUT)


def draw_view(
    image: Image.Image,
    framing: Framing,
    *,
    resize: tuple[float, float],
    flip: bool,
    rng: np.random.Generator,
    mask: Image.Image | None = None,
    background: float = 0.0,
) -> View:
    """Draw how large a photo is shown, and where.

    It always takes the same number of draws, so that a change of one setting does not move the others' draws.

    Args:
        image: RGB, of any size.
        framing: how it is brought to the video's shape.
        resize: the smallest and the largest factor; ``(1, 1)`` always gives the plain photo.
        flip: mirror every second photo.
        rng: of the draws.
        mask: of the photo, ``L``, of its size: white where the subject is; None: everywhere.
        background: how much the loss counts in the photo where the mask is black.
    """
    scale, across, down, choice, mirrored = rng.random(5).tolist()
    factor = resize[0] + (resize[1] - resize[0]) * scale
    whole = framing.is_whole(image.size)
    source, target = _boxes(image.size, framing, factor, (across, down), whole=whole)
    view = _render(image, source, target, framing.size, "RGB")
    grid = (framing.size[0] // framing.unit, framing.size[1] // framing.unit)
    counts = torch.zeros(grid[::-1])
    left, top, right, bottom = (side // framing.unit for side in target)
    counts[top:bottom, left:right] = 1
    if mask is not None:
        shown = _render(mask, source, target, framing.size, "L").resize(grid, Image.Resampling.BOX)
        counts *= background + (1 - background) * torch.from_numpy(np.asarray(shown, dtype=np.float32) / 255)
    if flip and mirrored < 0.5:
        view, counts = ImageOps.mirror(view), counts.flip(1)
    return View(view, counts, _phrase(factor, choice))


def _phrase(factor: float, choice: float) -> str:
    """Words for a factor; ``choice`` in 0 … 1 picks one of two."""
    if factor < PASTED_BELOW:
        return SMALL_PHRASES[choice < 0.5]
    return LARGE_PHRASES[choice < 0.5] if factor >= CLOSE_FROM else ""


def _boxes(
    photo: tuple[int, int], framing: Framing, factor: float, place: tuple[float, float], *, whole: bool
) -> tuple[Box, tuple[int, int, int, int]]:
    """The part of the photo that is shown, in its pixels, and where in the video, in multiples of the unit.

    Args:
        photo: its width and height.
        framing: how it is brought to the video's shape.
        factor: how large it is shown.
        place: 0 … 1 across and down: where a small one is pasted, and which part is shown of a large one.
        whole: whether all of the photo is shown at factor 1.
    """
    size, unit = framing.size, framing.unit
    if factor > 1:  # straight from the photo's own pixels
        window = _cut_box(photo, size, ANCHORS[framing.anchor])
        spans = [(0.0, float(side)) for side in photo] if whole else [(window[0], window[2]), (window[1], window[3])]
        cuts = ((window[2] - window[0]) / factor, (window[3] - window[1]) / factor)
        corner = [low + share * (high - low - cut) for (low, high), cut, share in zip(spans, cuts, place, strict=True)]
        left, top = (max(side, 0.0) for side in corner)
        right, bottom = min(left + cuts[0], photo[0]), min(top + cuts[1], photo[1])
        return (left, top, right, bottom), (0, 0, *size)
    shown = factor if factor < PASTED_BELOW else 1.0
    inside = min(size[0] / photo[0], size[1] / photo[1])
    full = [side * inside for side in photo] if whole else size
    width, height = (
        min(max(round(side * shown / unit), 1), most // unit) * unit for side, most in zip(full, size, strict=True)
    )
    room = [(most - part) // unit for most, part in zip(size, (width, height), strict=True)]
    if factor < PASTED_BELOW:
        left, top = (int(share * (steps + 1)) * unit for share, steps in zip(place, room, strict=True))
    else:
        left, top = (steps // 2 * unit for steps in room)
    source = _cut_box(photo, (width, height), ANCHORS[framing.anchor])
    return source, (left, top, left + width, top + height)


def _cut_box(photo: tuple[int, int], size: tuple[int, int], anchor: tuple[float, float]) -> Box:
    """The largest part of a photo with the aspect of ``size``; as `PIL.ImageOps.fit` cuts."""
    aspect = size[0] / size[1]
    width, height = (photo[1] * aspect, photo[1]) if photo[0] / photo[1] >= aspect else (photo[0], photo[0] / aspect)
    left, top = (photo[0] - width) * anchor[0], (photo[1] - height) * anchor[1]
    return left, top, min(left + width, photo[0]), min(top + height, photo[1])


def _render(image: Image.Image, source: Box, target: Sequence[int], size: tuple[int, int], mode: str) -> Image.Image:
    """The part ``source`` of a picture at ``target`` in one of a width and height, black around it."""
    part = image.resize((target[2] - target[0], target[3] - target[1]), Image.Resampling.LANCZOS, box=source)
    if part.size == size:
        return part
    canvas = Image.new(mode, size)
    canvas.paste(part, (int(target[0]), int(target[1])))
    return canvas


def cut_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture cut centrally to the aspect of a width and height, and resized to them."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def cropped_share(photo: tuple[int, int], size: tuple[int, int]) -> float:
    """Share of a photo's area that is lost when it is cut to the aspect of ``size``; both are width and height."""
    aspects = sorted((photo[0] / photo[1], size[0] / size[1]))
    return 1 - aspects[0] / aspects[1]


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
