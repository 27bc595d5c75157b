"""All charts: lines over steps, and bars with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from ..intervals import Interval

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 48
PAPER, INK, GRID, DOTS, MARK = "#ffffff", "#18181c", "#d8d8de", "#cdd8ec", "#c2410c"
COLOURS = ("#1d4ed8", "#15803d", "#9333ea", "#b45309")
FONT_SIZE = 15
TICKS = 5


Held = float | Sequence[float] | None
"""What holds for a step: a value, several after one another, or nothing."""


def line_chart(
    lines: Mapping[str, Sequence[Held]],
    *,
    title: str,
    below: str,
    span: tuple[float, float] = (0.0, 1.0),
    tick: str = "{:.0%}",
    first_step: int = 1,
    held: bool = False,
    dots: Sequence[float] = (),
    mark: int | None = None,
    mark_name: str = "",
) -> Image.Image:
    """Draw values over successive steps.

    Args:
        lines: name -> one value for each step, or None for a gap; several only where they are held.
        title: above.
        below: what a step is, under the axis.
        span: values at the lower and upper end; what lies outside is drawn at the end.
        tick: how a value is written at the axis.
        first_step: the number of the first step.
        held: a value holds for the whole step, as a strength does, instead of being a point of a curve.
        dots: single values behind the lines.
        mark: a step to mark by an upright line.
        mark_name: written at it.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    count, (low, high) = max([1, len(dots), *map(len, lines.values())]), span
    places = max(count if held else count - 1, 1)

    def place(index: float, value: float) -> tuple[float, float]:
        share = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
        return LEFT + index / places * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    for i in range(TICKS):
        value = low + (high - low) * i / (TICKS - 1)
        x, y = place(0, value)
        draw.line([(x, y), (WIDTH - RIGHT, y)], fill=GRID)
        draw.text((LEFT - 8, y), tick.format(value), fill=INK, font=font, anchor="rm")

    def each(parts: Sequence[float]) -> list[tuple[int, float]]:
        """A value at each end of its part of a step, or at the step's point."""
        return [(i + end, v) for i, v in enumerate(parts) for end in ((0, 1) if held else (0,))]

    every = max(count // TICKS, 1)
    for step in range(first_step, first_step + count):
        if step == first_step or step % every == 0:
            across = place(step - first_step + (0.5 if held else 0), low)[0]
            draw.text((across, HEIGHT - BOTTOM + 6), str(step), fill=INK, font=font, anchor="ma")
    for i, value in enumerate(dots):
        x, y = place(i, value)
        draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=DOTS)
    if mark is not None:
        x, y = place(mark - first_step, low)
        draw.line([(x, y), place(mark - first_step, high)], fill=MARK, width=2)
        draw.text((x + 6, y - 8), mark_name, fill=MARK, font=font, anchor="ls")
    for i, (name, values) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        ends = [
            [place(n + at / len(parts), v) for at, v in each(parts)]
            for n, parts in enumerate(() if v is None else (v,) if isinstance(v, (int, float)) else v for v in values)
        ]
        for points in ends if held else ():
            draw.line(points, fill=colour, width=3)
        for before, after in pairwise(ends):
            if before and after:
                draw.line([before[-1], after[0]], fill=colour, width=3, joint="curve")
        draw.text((WIDTH - RIGHT - 4, HEIGHT - BOTTOM - 34 - 20 * i), name, fill=colour, font=font, anchor="rs")
    draw.text((LEFT, 12), title, fill=INK, font=font)
    draw.text((WIDTH - RIGHT, HEIGHT - 8), below, fill=INK, font=font, anchor="rs")
    return image


def strength_chart(lines: Sequence[Sequence[Held]]) -> Image.Image:
    """Draw lines of strengths, one value for each step, several for a step that ran at several, or None for a gap."""
    steps_of_all = [value for line in lines for value in line if value is not None]
    strengths = [one for value in steps_of_all for one in ([value] if isinstance(value, (int, float)) else value)]
    steps = max((len(line) for line in lines), default=0)
    title = f"strength at each of {steps} steps" if lines else "nothing connected whose strength follows the steps"
    named = {" " * i: line for i, line in enumerate(lines)}  # nothing names them
    span = (min([0.0, *strengths]), max([1.0, *strengths]))
    return line_chart(named, title=title, below="step", span=span, tick="{:.2f}", held=True)


def bar_chart(bars: Mapping[str, Interval], *, title: str) -> Image.Image:
    """Draw means as bars from 0 to 1, or to the largest, with their intervals as whiskers."""
    line, left = 40, 150
    height = TOP + line * len(bars) + 16
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    largest = max([1.0, *(bar.mean if bar.high is None else bar.high for bar in bars.values())])

    def across(value: float) -> float:
        return left + max(value, 0.0) / largest * (WIDTH - left - 150)

    draw.text((16, 12), title, fill=INK, font=font)
    for i, (name, bar) in enumerate(bars.items()):
        y = TOP + line * i
        draw.text((left - 8, y + line / 2), name, fill=INK, font=font, anchor="rm")
        draw.rectangle([(left, y + 8), (across(bar.mean), y + line - 8)], fill=COLOURS[i % len(COLOURS)])
        end = across(bar.mean)
        if bar.low is not None and bar.high is not None:
            end = across(bar.high)
            draw.line([(across(bar.low), y + line / 2), (end, y + line / 2)], fill=INK, width=2)
        draw.text((max(end, left) + 8, y + line / 2), str(bar), fill=INK, font=font, anchor="lm")
    return image
