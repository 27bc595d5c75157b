"""Photos of a subject: read from a folder, upright, in sRGB, opaque, each with its caption and mask."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ..errors import InputError, some_names
from .augmentation import cropped_share
from .captions import is_caption_of, read_caption

log = logging.getLogger(__name__)

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".bmp": "BMP",
    ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""What is read everywhere: ending -> Pillow's format. Pillow also knows formats for which it starts other programs."""
PHONE_FORMATS = (".avif", ".heic", ".heif")
"""What is read where Pillow can: AVIF from 11.3 on, HEIF with pillow-heif."""
REMEDY = "Install pillow-heif (pip install pillow-heif), or save them as JPEG."
IGNORED = {"thumbs.db", "desktop.ini", "prior.json"}
MASK = ".mask"
MASK_TOLERANCE = 0.02
"""Share of the area by which the shapes of mask and photo may differ, as rounding makes them."""
MIN_SIDE = 16  # pixels; less holds nothing to learn
THUMBNAIL_SIDE = 128
MAX_SIDE = 1536  # pixels, three times the longer side of VideoCrafter2's video: at full size ten photos fill 1 GB
MAX_BYTES = 10**9  # of all photos together; many are kept smaller, five hundred at 816 pixels, enough for any resizing


Picture = TypeVar("Picture")


@dataclass(frozen=True)
class Photo:
    """One RGB picture; ``caption`` says what it shows, see `captions.with_subject`, or is empty."""

    image: Image.Image
    caption: str = ""
    mask: Image.Image | None = None
    """``L``, of the photo's size: white where the subject is, on which the loss counts; None: everywhere."""


@dataclass(frozen=True)
class Clip:
    """Successive RGB frames of one size; ``caption`` as of a `Photo`."""

    frames: tuple[Image.Image, ...]
    caption: str = ""


@cache
def readable_formats() -> dict[str, str]:
    """Endings of pictures that can be read here -> Pillow's format."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    known = Image.registered_extensions()
    return FORMATS | {ending: known[ending] for ending in PHONE_FORMATS if ending in known}


def load_photos(folder: str | Path, *, skip_broken: bool = False) -> list[Photo]:
    """Read all photos of a folder in the order of their names; files that are left out are named in a warning.

    A text file beside a photo, ``cup.txt`` for ``cup.jpg``, is its caption, see `captions`.

    Args:
        folder: where they are.
        skip_broken: leave out photos that cannot be used, with a warning that names them, as long as any is left.

    Raises:
        InputError: no such folder, no photo in it, or a photo or caption that cannot be used; it is named.
    """
    paths = list_pictures(folder)
    others = left_out(folder, paths)
    if not paths:
        raise InputError(
            expected="at least one photo",
            found=f"none in {folder}{f', but {some_names(others)}' if others else ''}",
            remedy=REMEDY if _phone_photos(others) else f"Put images there: {', '.join(sorted(readable_formats()))}.",
        )
    if others:
        log.warning(
            f"Not used in {folder}: {len(others)} file{'s' * (len(others) != 1)} beside {len(paths)} "
            f"photo{'s' * (len(paths) != 1)}: {some_names(others)}.{f' {REMEDY}' if _phone_photos(others) else ''}"
        )
    longest = max_side(len(paths))
    return usable(paths, lambda path: _load_photo(path, longest), "photo", skip_broken=skip_broken)


def _load_photo(path: Path, longest: int) -> Photo:
    """A photo with its caption and mask: the file ``cup.mask.png`` beside it, else what is opaque of it."""
    image, alpha = _open_upright(path, longest)
    photo = prepared(image, path.name, longest)
    beside = [one for one in list_files(path.parent) if one.stem == path.stem + MASK]
    if beside:
        alpha = load_image(beside[0], longest).convert("L")
    return Photo(photo, read_caption(path), checked_mask(alpha, photo, f"the mask of {path.name}"))


def checked_mask(mask: Image.Image | None, photo: Image.Image, name: str) -> Image.Image | None:
    """A mask in the size of its photo; None if it leaves nothing out.

    Raises:
        InputError: it has another shape, or is black all over.
    """
    if mask is None:
        return None
    if cropped_share(mask.size, photo.size) > MASK_TOLERANCE:
        raise InputError(
            expected=f"{name} in the photo's shape, {photo.width}x{photo.height}",
            found=f"{mask.width}x{mask.height}",
            remedy="Save it in the size of the photo.",
        )
    low, high = mask.getextrema()
    if high == 0:
        raise InputError(
            expected=f"{name} to be white where the subject is",
            found="black all over",
            remedy="Paint it, or remove it.",
        )
    return None if low == 255 else mask.resize(photo.size, Image.Resampling.BILINEAR)


def left_out(folder: str | Path, pictures: Sequence[Path]) -> list[str]:
    """Names of what lies in a folder besides pictures, their captions and masks, and what systems put there."""
    used = set(pictures)
    return sorted(
        path.name
        for path in Path(folder).iterdir()
        if not (path in used or path.name.startswith(".") or path.name.lower() in IGNORED)
        and not any(is_caption_of(path, picture) or path.stem == picture.stem + MASK for picture in pictures)
    )


def _phone_photos(names: Sequence[str]) -> bool:
    return any(name.lower().endswith(PHONE_FORMATS) for name in names)


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
    return [path for path in list_files(folder) if not path.stem.endswith(MASK)]


def list_files(folder: Path) -> list[Path]:
    """Pictures and masks of a folder."""
    endings = readable_formats()
    paths = (path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())
    return sorted(path for path in paths if not path.name.startswith("."))


def max_side(count: int) -> int:
    """To how many pixels photos are scaled down if there are ``count`` of them."""
    return min(MAX_SIDE, math.isqrt(MAX_BYTES // (3 * count)))


def load_image(path: Path, longest: int = MAX_SIDE) -> Image.Image:
    """Read one picture as upright, opaque RGB; of an animation the first frame.

    What is larger than ``longest`` pixels is scaled down.

    Raises:
        InputError: as `_open_upright`, or it is too small.
    """
    return prepared(_open_upright(path, longest)[0], path.name, longest)


def _open_upright(path: Path, longest: int) -> tuple[Image.Image, Image.Image | None]:
    """Read one picture upright, in its own mode, and what is opaque of it if not all is.

    Raises:
        InputError: the file is empty, no image, damaged, or so large that it may be an attack.
    """
    if path.stat().st_size == 0:
        raise InputError(expected="a photo", found=f"{path.name}, an empty file", remedy="Remove or replace it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=tuple(readable_formats().values())) as image:
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
        is_phone_photo = _is_phone_photo(path)
        what = "which is HEIC or AVIF inside" if is_phone_photo else "which cannot be read as an image"
        raise InputError(
            expected="a photo",
            found=f"{path.name}, {what}",
            remedy=REMEDY if is_phone_photo else "Remove or replace it.",
        ) from error
    return upright, alpha_of(upright)


def _is_phone_photo(path: Path) -> bool:
    """Whether a file's first bytes say HEIC or AVIF, whatever it is called."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif", b"msf", b"avi")


def prepared(image: Image.Image, name: str, longest: int) -> Image.Image:
    """An upright picture as opaque RGB; what is larger than ``longest`` pixels is scaled down.

    Raises:
        InputError: it is too small.
    """
    if min(image.size) < MIN_SIDE:
        raise InputError(
            expected=f"photos of at least {MIN_SIDE}x{MIN_SIDE} pixels",
            found=f"{name} with {image.width}x{image.height}",
            remedy="Remove or replace it.",
        )
    photo = flatten_alpha(to_srgb(image, name))
    photo.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return photo


def to_srgb(image: Image.Image, name: str) -> Image.Image:
    """A picture with a colour profile, such as Display P3 of phones, in the colours of sRGB; alpha is kept."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        opaque = image.convert("RGB") if image.mode == "RGBA" else image
        done = ImageCms.profileToProfile(opaque, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError) as error:
        log.warning(f"The colour profile of {name} cannot be used, so its colours are read as sRGB: {error}")
        return image
    assert done is not None  # it is with inPlace only
    if image.mode == "RGBA":
        done.putalpha(image.getchannel("A"))
    return done


def alpha_of(image: Image.Image) -> Image.Image | None:
    """What is opaque of a picture, ``L``; None if it has no transparency."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A")
    return None


def flatten_alpha(image: Image.Image) -> Image.Image:
    """RGB on white: transparent places hold arbitrary colours that would be learned."""
    if alpha_of(image) is not None:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(background, rgba).convert("RGB")
    if image.mode == "F":  # 32 bits, 0 … 1 or 0 … 255
        pixels = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((pixels * (255 if pixels.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")


def images_to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size as ``(n, 3, h, w)``, values -1 … 1."""
    arrays = [np.asarray(image) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def thumbnail(image: Image.Image) -> bytes:
    """A small PNG of a picture."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
