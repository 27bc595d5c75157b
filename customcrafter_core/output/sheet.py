"""Contact sheets: rows of videos, columns of frames, labels a person can read."""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from ..files.writing import write_bytes
from .pixels import Frames, enlarge, to_bytes

COLUMNS = 8
CELL = 160  # pixels, the short side of a frame on the sheet
GAP = 6
FONT_SIZE, SMALL_FONT_SIZE = 20, 14
LABEL_LETTERS = 22  # per line
# The font that comes with Pillow is the same everywhere but knows ASCII only.
SPELT_OUT = str.maketrans(
    {
        "λ": "lambda",
        "α": "alpha",
        "→": "->",
        "×": "x",
        "–": "-",
        "—": "-",
        "…": "...",
        "≥": ">=",
        "≤": "<=",
        "“": '"',
        "”": '"',
        "’": "'",
    }
)
INK, FAINT, PAPER = (24, 24, 28), (120, 120, 128), (255, 255, 255)


@dataclass(frozen=True)
class SheetRow:
    """One video ``(t, h, w, 3)``, values 0 … 1, and what it is."""

    label: str
    frames: Frames
    unit: str = "frame"
    """What a column is called above it."""


def write_sheet(path: str | Path, rows: Sequence[SheetRow], *, title: str = "", columns: int = COLUMNS) -> Path:
    """Write a contact sheet as PNG; a failure leaves what was there before.

    Raises:
        InputError: no rows, or a video of another shape.
        OSError: the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    contact_sheet(rows, title=title, columns=columns).save(buffer, "PNG")
    return write_bytes(path, buffer.getvalue())


def contact_sheet(rows: Sequence[SheetRow], *, title: str = "", columns: int = COLUMNS) -> Image.Image:
    """Draw videos as rows of frames, evenly spaced in time.

    Args:
        rows: videos with their labels; a label may be empty.
        title: above the sheet; may be empty.
        columns: at most so many frames of each video.

    Returns:
        An RGB image.

    Raises:
        InputError: no rows, or a video of another shape.
    """
    if not rows or columns < 1:
        raise InputError(expected="at least one video and one column", found="none", remedy="Add a row.")
    strips = [_strip(row.frames, columns) for row in rows]
    font, small = ImageFont.load_default(size=FONT_SIZE), ImageFont.load_default(size=SMALL_FONT_SIZE)
    labels = [textwrap.fill(_plain(row.label), LABEL_LETTERS) for row in rows]
    left = GAP + max(_width(label, font) for label in labels) + (GAP if any(labels) else 0)
    right = left + max(sum(image.width + GAP for _, image in strip) for strip in strips)
    heading = textwrap.fill(_plain(title), max(right // (FONT_SIZE // 2), 20))
    top = GAP + (_height(heading, font) + 2 * GAP if heading else 0)
    line = SMALL_FONT_SIZE + GAP
    heights = [
        max(line + max(image.height for _, image in strip), _height(label, font)) + 2 * GAP
        for strip, label in zip(strips, labels, strict=True)
    ]
    sheet = Image.new("RGB", (max(right, GAP * 2 + _width(heading, font)), top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((GAP, GAP), heading, fill=INK, font=font)
    y = top
    for row, strip, label, height in zip(rows, strips, labels, heights, strict=True):
        x = left
        draw.multiline_text((GAP, y + line), label, fill=INK, font=font)
        for index, image in strip:
            draw.text((x, y), f"{row.unit} {index + 1}", fill=FAINT, font=small)
            sheet.paste(image, (x, y + line))
            x += image.width + GAP
        y += height
    return sheet


def _plain(text: str) -> str:
    """The text in letters that the font has: signs spelt out, accents dropped, a question mark for the rest."""
    text = text.replace("λs", "lambda_s").replace("λl", "lambda_l").translate(SPELT_OUT)
    parts = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in parts if not unicodedata.combining(letter)).encode("ascii", "replace").decode()


def _strip(frames: Frames, columns: int) -> list[tuple[int, Image.Image]]:
    """Evenly spaced frames with their indices, the first and the last among them."""
    pixels = to_bytes(frames)
    indices = np.unique(np.linspace(0, len(pixels) - 1, min(columns, len(pixels))).round().astype(int))
    return [(int(i), _cell(image)) for i, image in zip(indices, enlarge(pixels[indices], CELL), strict=True)]


def _cell(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(image)
    if min(picture.size) < 2 * CELL:  # pixel art: enlarged by a whole factor, left sharp
        return picture
    scale = CELL / min(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max((int(font.getlength(line)) for line in text.splitlines()), default=0)


def _height(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """The height that `multiline_text` takes, descenders included."""
    if not text:
        return 0
    box = ImageDraw.Draw(Image.new("1", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    return int(box[3]) + GAP
