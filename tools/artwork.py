"""The README's picture, and icon and banner of the Comfy registry, from real videos of the demo subject.

Run: ``python -m tools.artwork``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from customcrafter_core.cli.demo import write_demo_sheet
from customcrafter_core.demo import demo_subject
from customcrafter_core.demo.run import DYNAMIC, demo_photos, load_demo_base, make_demo_videos
from customcrafter_core.output.pixels import to_bytes
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject

DOCS = Path(__file__).resolve().parents[1] / "docs"
ICON_SIDE, BAND = 400, 165
BANNER_SIZE = (1680, 720)  # 21:9
MARGIN, GAP, COLUMNS = 60, 12, 5
TEXT_WIDTH = 500
PAPER, INK, FAINT, ACCENT = "#1b1d22", "#f4f4f6", "#a0a3ad", "#f0841e"


def main() -> None:
    """Make the videos and draw all three."""
    videos = make_demo_videos(load_demo_base(), load_subject(demo_subject()))
    pictures = [photo.image for photo in demo_photos()]
    write_demo_sheet(DOCS / "demo.png", pictures, videos)
    _, constant, dynamic = videos
    photos = np.stack([np.asarray(picture) for picture in pictures])
    icon(to_bytes(dynamic.frames)).save(DOCS / "icon.png", optimize=True)
    banner(photos, to_bytes(constant.frames), to_bytes(dynamic.frames)).save(DOCS / "banner.png", optimize=True)


def icon(frames: np.ndarray) -> Image.Image:
    """The first and the last frame ``(t, h, w, 3)`` bytes, cut to the subject; between them the strength."""
    square = Image.new("RGB", (ICON_SIDE, ICON_SIDE), PAPER)
    for frame, top in ((frames[0], 0), (frames[-1], ICON_SIDE - BAND)):
        side = frame.shape[1]
        image = Image.fromarray(frame).crop((0, (side - side * BAND // ICON_SIDE) // 2, side, side))
        image = image.resize((ICON_SIDE, image.height * ICON_SIDE // side), Image.Resampling.NEAREST)
        square.paste(image.crop((0, 0, ICON_SIDE, BAND)), (0, top))
    draw_strength(ImageDraw.Draw(square), (30, BAND + 20, ICON_SIDE - 30, ICON_SIDE - BAND - 20), width=10)
    return square


def banner(photos: np.ndarray, constant: np.ndarray, dynamic: np.ndarray) -> Image.Image:
    """Name and what it does; photos, and the same noise at constant and at dynamic strength, ``(t, h, w, 3)`` bytes."""
    sheet = Image.new("RGB", BANNER_SIZE, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 60), "CustomCrafter", fill=INK, font=ImageFont.load_default(66))
    lines = "Your subject, from a few photos,\nin videos that still move."
    draw.multiline_text((MARGIN, 160), lines, fill=FAINT, font=ImageFont.load_default(30), spacing=10)
    left = MARGIN + TEXT_WIDTH
    cell = (BANNER_SIZE[0] - MARGIN - left - (COLUMNS - 1) * GAP) // COLUMNS
    top = (BANNER_SIZE[1] - 3 * cell - 2 * GAP) // 2
    rows = {"learned from": photos, "constant strength": constant, "dynamic weights": dynamic}
    for number, (label, frames) in enumerate(rows.items()):
        y = top + number * (cell + GAP)
        for column, frame in enumerate(frames[np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)]):
            image = Image.fromarray(frame).resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(image, (left + column * (cell + GAP), y))
        if number:
            draw.text((MARGIN, y + 30), label, fill=INK, font=ImageFont.load_default(34))
            place = (MARGIN, y + 100, left - 90, y + 160)
            draw_strength(draw, place, width=8) if label.startswith("dynamic") else draw.line(
                [(place[0], place[1]), (place[2], place[1])], fill=ACCENT, width=8
            )
    return sheet


def draw_strength(draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int], width: int) -> None:
    """The strength at each step of the demo's sampling: low while motion is decided, then high."""
    left, top, right, bottom = place
    steps = VideoSettings(prompt="").steps
    heights = [DYNAMIC(step, steps) / DYNAMIC.lambda_l for step in range(steps)]
    points = [(left + (right - left) * i / (steps - 1), bottom - (bottom - top) * h) for i, h in enumerate(heights)]
    draw.line(points, fill=ACCENT, width=width, joint="curve")


if __name__ == "__main__":
    main()
