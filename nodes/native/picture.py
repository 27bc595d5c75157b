"""A small picture of the strength applied at each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 512, 224, 44
PAPER, INK, GRID, LINE = "#1b1d22", "#c8ccd4", "#3a3f4a", "#6cb6ff"


def strength_picture(strengths: Sequence[float]) -> torch.Tensor:
    """Draw strengths, one for each step, as ``(1, h, w, 3)``, 0 … 1."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    low, high = min(0.0, *strengths), max(1.0, *strengths)

    def height(value: float) -> float:
        return HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    for value in sorted({low, 0.0, high, *([] if len(set(strengths)) > 4 else strengths)}):
        draw.line([(MARGIN, height(value)), (WIDTH - 8, height(value))], fill=GRID)
        draw.text((4, height(value) - 9), f"{value:.2f}", fill=INK, font=font)
    step = (WIDTH - 8 - MARGIN) / max(len(strengths), 1)
    points = []
    for i, value in enumerate(strengths):
        points += [(MARGIN + i * step, height(value)), (MARGIN + (i + 1) * step, height(value))]
    if points:
        draw.line(points, fill=LINE, width=3)
    draw.text((MARGIN, 10), f"strength at each of {len(strengths)} steps", fill=INK, font=font)
    draw.text((MARGIN, HEIGHT - 28), "step 1", fill=INK, font=font)
    last = f"step {len(strengths)}"
    draw.text((WIDTH - 8 - draw.textlength(last, font=font), HEIGHT - 28), last, fill=INK, font=font)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).unsqueeze(0)
