"""Pictures of a run: the loss over its steps, and the sample videos one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ..output.chart import line_chart
from ..output.sheet import PAPER, SheetRow, contact_sheet

if TYPE_CHECKING:
    from .callbacks import Sample
    from .trainer import TrainStep

SMOOTHING = 0.02  # weight of a step: about the last fifty count
SAMPLE_COLUMNS = 8


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential mean of losses, of which the first few are weighted evenly."""
    means: list[float] = []
    for i, loss in enumerate(losses):
        means.append(next_mean(means[-1] if means else 0.0, loss, i + 1))
    return means


def next_mean(mean: float, loss: float, count: int) -> float:
    """The mean of `smooth` after the ``count``-th loss, from the one before."""
    return mean + (loss - mean) * max(SMOOTHING, 1 / count)


def draw_loss(steps: Sequence[TrainStep]) -> Image.Image:
    """Successive steps of a run, all or some: each loss as a dot, smooth losses of subject and prior as lines; RGB."""
    losses = [step.loss for step in steps if not step.is_skipped]
    prior = [step.prior_loss for step in steps if not step.is_skipped]
    lines = {"subject": smooth(losses)} | ({"prior": smooth(prior)} if any(prior) else {})
    ordered = sorted(losses)
    # the highest percent may be far above all others
    high = max([0.0, *ordered[: int(0.99 * (len(losses) - 1)) + 1], *(v for line in lines.values() for v in line)])
    first, last, of = (steps[0].step + 1, steps[-1].step + 1, steps[-1].steps) if steps else (1, 0, 0)
    return line_chart(
        lines, title="loss", below=f"step {first} to {last} of {of}" if steps else "no steps yet",
        span=(0.0, high or 1.0), tick="{:.4f}", first_step=first, dots=losses,
    )  # fmt: skip


def draw_sample_row(sample: Sample) -> Image.Image:
    """One sample video as a labelled row of frames."""
    return contact_sheet([SheetRow(f"step {sample.step:>6}", sample.frames)], columns=SAMPLE_COLUMNS)


def stack_images(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet
