"""Pictures of a run: the loss over its steps, and the sample videos one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from ..output.sheet import FAINT, INK, PAPER, SheetRow, contact_sheet

if TYPE_CHECKING:
    from .trainer import TrainStep
    from .watcher import Sample

SMOOTHING = 0.02  # weight of a step: about the last fifty count
SIZE, LEFT, MARGIN, FONT_SIZE = (768, 384), 72, 32, 15
SUBJECT_LINE, PRIOR_LINE, DOTS = (30, 100, 220), (230, 130, 30), (205, 216, 236)
SAMPLE_COLUMNS = 8


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential mean of losses, of which the first few are weighted evenly."""
    means: list[float] = []
    for i, loss in enumerate(losses):
        means.append(next_mean(means[-1] if means else 0.0, loss, i + 1))
    return means


def next_mean(mean: float, loss: float, count: int) -> float:
    """The mean of `smoothed` after the ``count``-th loss, from the one before."""
    return mean + (loss - mean) * max(SMOOTHING, 1 / count)


def loss_picture(steps: Sequence[TrainStep]) -> Image.Image:
    """Successive steps of a run, all or some: each loss as a dot, smoothed losses of subject and prior as lines; RGB."""
    image = Image.new("RGB", SIZE, PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    draw.text((LEFT, 8), "loss of the subject", fill=SUBJECT_LINE, font=font)
    if not steps:
        return image
    losses, prior = [step.loss for step in steps], [step.prior_loss for step in steps]
    lines = [(smoothed(losses), SUBJECT_LINE)]
    if any(prior):
        lines.append((smoothed(prior), PRIOR_LINE))
        draw.text((LEFT + 180, 8), "of the prior", fill=PRIOR_LINE, font=font)
    ordered = sorted(losses)
    # the highest percent may be far above all others
    high = max([ordered[int(0.99 * (len(ordered) - 1))], *(max(line) for line, _ in lines)]) or 1.0
    right, bottom = SIZE[0] - MARGIN, SIZE[1] - MARGIN

    def place(i: int, loss: float) -> tuple[float, float]:
        x = LEFT + (right - LEFT) * i / max(len(steps) - 1, 1)
        return x, max(bottom - (bottom - MARGIN) * loss / high, MARGIN)

    for share in (0.0, 0.5, 1.0):
        _, y = place(0, share * high)
        draw.line([(LEFT, y), (right, y)], fill=(225, 225, 230))
        draw.text((4, y - 9), f"{share * high:.4f}", fill=FAINT, font=font)
    for i, loss in enumerate(losses):
        x, y = place(i, loss)
        draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=DOTS)
    for line, colour in lines:
        draw.line([place(i, value) for i, value in enumerate(line)], fill=colour, width=2)
    first, last = steps[0].step + 1, steps[-1].step + 1
    draw.text((LEFT, bottom + 8), f"step {first} to {last} of {steps[-1].steps}", fill=INK, font=font)
    return image


def sample_row(sample: Sample) -> Image.Image:
    """One sample video as a labelled row of frames."""
    return contact_sheet([SheetRow(f"step {sample.step:>6}", sample.frames)], columns=SAMPLE_COLUMNS)


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet
