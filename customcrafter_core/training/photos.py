"""Photos of a subject: read from a folder, upright, flatten_alpha, cut to the video's aspect."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError, some_names

log = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read, whatever a file is called: Pillow also knows formats for which it starts other programs."""
SMALLEST_SIDE = 16  # pixels; less holds nothing to learn
THUMBNAIL_SIDE = 128
MAX_SIDE = 1536  # pixels, three times the longer side of VideoCrafter2's video: at full size ten photos fill 1 GB
MAX_BYTES = 10**9  # of all photos together; many are kept smaller, five hundred at 816 pixels, enough for any resizing


Picture = TypeVar("Picture")


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


def load_photos(folder: str | Path, *, skip_broken: bool = False) -> list[Photo]:
    """Read all photos of a folder in the order of their names.

    A text file beside a photo, ``cup.txt`` for ``cup.jpg``, is its caption: ``a {} on a kitchen counter``.

    Args:
        folder: where they are.
        skip_broken: leave out photos that cannot be used, with a warning that names them, as long as any is left.

    Raises:
        InputError: no such folder, no photo in it, or a photo or caption that cannot be used; it is named.
    """
    paths = list_pictures(folder)
    if not paths:
        raise InputError(
            expected="at least one photo",
            found=f"none in {folder}",
            remedy=f"Put images there: {', '.join(sorted(SUFFIXES))}.",
        )
    longest = max_side(len(paths))
    return usable(
        paths, lambda path: Photo(load_image(path, longest), read_caption(path)), "photo", skip_broken=skip_broken
    )


def usable(paths: Sequence[Path], load: Callable[[Path], Picture], kind: str, *, skip_broken: bool) -> list[Picture]:
    """Read files in turn.

    Args:
        paths: at least one.
        load: reads one of them; raises `InputError`.
        kind: what messages call one.
        skip_broken: leave out those that cannot be used, with a warning that names them, as long as any is left.

    Raises:
        InputError: a file cannot be used, or none can.
    """
    pictures, broken = [], []
    for path in paths:
        try:
            pictures.append(load(path))
        except InputError as error:
            if not skip_broken:
                raise
            log.warning("%s left out. %s", kind.capitalize(), error)
            broken.append(path.name)
    if broken and not pictures:
        raise InputError(
            expected=f"at least one {kind} that can be used",
            found=f"none in {paths[0].parent}; broken: {some_names(broken)}",
            remedy="Replace them.",
        )
    return pictures


def list_pictures(folder: str | Path) -> list[Path]:
    """The pictures of a folder by their names' endings, in the order of their names; hidden files are left out.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing"
        raise InputError(expected="a folder of pictures", found=f"{found} at {folder}", remedy="Check the path.")
    paths = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in paths if not path.name.startswith("."))


def read_caption(path: Path) -> str:
    """The caption of a picture, or nothing.

    Raises:
        InputError: it does not have exactly one place for the subject.
    """
    text = path.with_suffix(".txt")
    if not text.is_file():
        return ""
    return check_caption(text.read_text(encoding="utf-8", errors="replace").strip(), text.name)


def check_caption(caption: str, where: str) -> str:
    """A caption, as it is.

    Raises:
        InputError: it does not have exactly one place for the subject.
    """
    if caption.count("{}") != 1:
        raise InputError(
            expected="a caption with one {} for the subject",
            found=f"{caption!r} in {where}",
            remedy="Write, for example: a {} on a kitchen counter.",
        )
    return caption


def max_side(count: int) -> int:
    """To how many pixels photos are scaled down if there are ``count`` of them."""
    return min(MAX_SIDE, math.isqrt(MAX_BYTES // (3 * count)))


def load_image(path: Path, longest: int = MAX_SIDE) -> Image.Image:
    """Read one picture as upright, flatten_alpha RGB; of an animation the first frame.

    What is larger than ``longest`` pixels is scaled down.

    Raises:
        InputError: the file is empty, no image, damaged, too small, or so large that it may be an attack.
    """
    if path.stat().st_size == 0:
        raise InputError(expected="a photo", found=f"{path.name}, an empty file", remedy="Remove or replace it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.draft(None, (longest, longest))  # a JPEG is read at a fraction of its size at once
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
    return prepared(upright, path.name, longest)


def prepared(image: Image.Image, name: str, longest: int) -> Image.Image:
    """An upright picture as flatten_alpha RGB; what is larger than ``longest`` pixels is scaled down.

    Raises:
        InputError: it is too small.
    """
    if min(image.size) < SMALLEST_SIDE:
        raise InputError(
            expected=f"photos of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels",
            found=f"{name} with {image.width}x{image.height}",
            remedy="Remove or replace it.",
        )
    photo = flatten_alpha(image)
    photo.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return photo


def flatten_alpha(image: Image.Image) -> Image.Image:
    """RGB on white: transparent places hold arbitrary colours that would be learned."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(background, rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")


def cut_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture cut centrally to the aspect of a width and height, and resized to them."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def images_to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size as ``(n, 3, h, w)``, values -1 … 1."""
    arrays = [np.asarray(image) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def cropped_share(photo: tuple[int, int], size: tuple[int, int]) -> float:
    """Share of a photo's area that is lost when it is cut to the aspect of ``size``; both are width and height."""
    aspects = sorted((photo[0] / photo[1], size[0] / size[1]))
    return 1 - aspects[0] / aspects[1]


def thumbnail(image: Image.Image) -> bytes:
    """A small PNG of a picture."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
