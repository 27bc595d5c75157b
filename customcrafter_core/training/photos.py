"""Photos of a subject: read from a folder, upright, opaque, cut to the video's aspect."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SMALLEST_SIDE = 16  # pixels; less holds nothing to learn
THUMBNAIL_SIDE = 128


def load_photos(folder: str | Path) -> list[Image.Image]:
    """Read all photos of a folder in the order of their names.

    Raises:
        InputError: no such folder, no photo in it, or a photo that cannot be used; it is named.
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
    return [load_photo(path) for path in paths]


def load_photo(path: Path) -> Image.Image:
    """Read one photo as upright, opaque RGB; of an animation the first frame.

    Raises:
        InputError: the file is empty, no image, damaged, too small, or so large that it may be an attack.
    """
    if path.stat().st_size == 0:
        raise InputError(expected="a photo", found=f"{path.name}, an empty file", remedy="Remove or replace it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
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
    return opaque(upright)


def opaque(image: Image.Image) -> Image.Image:
    """RGB on white: transparent places hold arbitrary colours that would be learned."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")


def photos_to_tensor(photos: Sequence[Image.Image], width: int, height: int) -> torch.Tensor:
    """Cut photos centrally to the aspect and resize them; ``(n, 3, height, width)``, values -1 … 1."""
    arrays = [np.asarray(ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS)) for photo in photos]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def thumbnail(photo: Image.Image) -> bytes:
    """A small PNG of a photo."""
    small = photo.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
