"""Photos of a subject: read from a folder, upright, opaque, cut to the video's aspect."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SMALLEST_SIDE = 16  # pixels; less holds nothing to learn
THUMBNAIL_SIDE = 128
LONGEST_SIDE = 1536  # pixels, three times the longer side of VideoCrafter2's video: at full size ten photos fill 1 GB


@dataclass(frozen=True)
class Photo:
    """One RGB picture; ``caption`` says what it shows, with ``{}`` for the subject, or is empty."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class Clip:
    """Successive RGB frames of one size; ``caption`` as of a `Photo`."""

    frames: tuple[Image.Image, ...]
    caption: str = ""


def load_photos(folder: str | Path) -> list[Photo]:
    """Read all photos of a folder in the order of their names.

    A text file beside a photo, ``cup.txt`` for ``cup.jpg``, is its caption: ``a {} on a kitchen counter``.

    Raises:
        InputError: no such folder, no photo in it, or a photo or caption that cannot be used; it is named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing"
        raise InputError(expected="a folder of photos", found=f"{found} at {folder}", remedy="Check the path.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InputError(
            expected="at least one photo",
            found=f"none in {folder}",
            remedy=f"Put images there: {', '.join(sorted(SUFFIXES))}.",
        )
    return [Photo(load_image(path), _caption_beside(path)) for path in paths]


def _caption_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return ""
    caption = text.read_text(encoding="utf-8", errors="replace").strip()
    if caption.count("{}") != 1:
        raise InputError(
            expected="a caption with one {} for the subject",
            found=f"{caption!r} in {text.name}",
            remedy="Write, for example: a {} on a kitchen counter.",
        )
    return caption


def load_image(path: Path) -> Image.Image:
    """Read one picture as upright, opaque RGB; of an animation the first frame.

    What is larger than `LONGEST_SIDE` is scaled down.

    Raises:
        InputError: the file is empty, no image, damaged, too small, or so large that it may be an attack.
    """
    if path.stat().st_size == 0:
        raise InputError(expected="a photo", found=f"{path.name}, an empty file", remedy="Remove or replace it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft(None, (LONGEST_SIDE, LONGEST_SIDE))  # a JPEG is read at a fraction of its size at once
                image.load()
                upright = ImageOps.exif_transpose(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            expected=f"a photo of at most {Image.MAX_IMAGE_PIXELS:,} pixels",
            found=f"a larger one, {path.name}",
            remedy="Scale it down; a few thousand pixels a side are plenty.",
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(
            expected="a photo", found=f"{path.name}, which cannot be read as an image", remedy="Remove or replace it."
        ) from error
    if min(upright.size) < SMALLEST_SIDE:
        raise InputError(
            expected=f"photos of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels",
            found=f"{path.name} with {upright.width}x{upright.height}",
            remedy="Remove or replace it.",
        )
    photo = opaque(upright)
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return photo


def opaque(image: Image.Image) -> Image.Image:
    """RGB on white: transparent places hold arbitrary colours that would be learned."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")


def images_to_tensor(images: Sequence[Image.Image], width: int, height: int) -> torch.Tensor:
    """Cut pictures centrally to the aspect and resize them; ``(n, 3, height, width)``, values -1 … 1."""
    arrays = [np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def thumbnail(image: Image.Image) -> bytes:
    """A small PNG of a picture."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
