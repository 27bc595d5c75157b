"""A small picture of the strength applied at each step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 512, 224, 44
PAPER, INK, GRID = "#1b1d22", "#c8ccd4", "#3a3f4a"
LINES = ["#6cb6ff", "#ffb35c", "#7ddc8f", "#e58cff"]


def strength_picture(lines: Sequence[Sequence[float | None]]) -> torch.Tensor:
    """Draw lines of strengths, one for each step or None for a gap, as ``(1, h, w, 3)``, 0 … 1."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    strengths = {value for line in lines for value in line if value is not None}
    low, high = min({0.0, *strengths}), max({1.0, *strengths})
    steps = max((len(line) for line in lines), default=0)

    def height(value: float) -> float:
        return HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    for value in sorted({low, 0.0, high, *([] if len(strengths) > 4 else strengths)}):
        draw.line([(MARGIN, height(value)), (WIDTH - 8, height(value))], fill=GRID)
        draw.text((4, height(value) - 9), f"{value:.2f}", fill=INK, font=font)
    if not lines:
        draw.text((MARGIN, 10), "nothing connected whose strength follows the steps", fill=INK, font=font)
        return as_image(image)
    step = (WIDTH - 8 - MARGIN) / max(steps, 1)
    for line, color in zip(lines, itertools.cycle(LINES)):
        before = None
        for i, value in enumerate(line):
            if value is not None:
                start = [] if before is None else [(MARGIN + i * step, height(before))]
                ends = [(MARGIN + i * step, height(value)), (MARGIN + (i + 1) * step, height(value))]
                draw.line([*start, *ends], fill=color, width=3)
            before = value
    draw.text((MARGIN, 10), f"strength at each of {steps} steps", fill=INK, font=font)
    draw.text((MARGIN, HEIGHT - 28), "step 1", fill=INK, font=font)
    last = f"step {steps}"
    draw.text((WIDTH - 8 - draw.textlength(last, font=font), HEIGHT - 28), last, fill=INK, font=font)
    return as_image(image)


def as_image(image: Image.Image) -> torch.Tensor:
    """A picture in RGB as an IMAGE ``(1, h, w, 3)``, 0 … 1."""
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).unsqueeze(0)
