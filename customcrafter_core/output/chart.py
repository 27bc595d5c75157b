"""Small charts: lines over steps with one place marked, and bars with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from ..intervals import Interval

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 44, 48
PAPER, INK, GRID, MARK = "#ffffff", "#18181c", "#d8d8de", "#c2410c"
COLOURS = ("#1d4ed8", "#15803d", "#9333ea", "#b45309")
FONT_SIZE = 15


def line_chart(
    lines: Mapping[str, Sequence[float]], *, title: str, below: str, mark: int | None = None, mark_name: str = ""
) -> Image.Image:
    """Draw shares 0 … 1 over steps 1, 2, ….

    Args:
        lines: name -> one value for each step.
        title: above.
        below: what a step is, under the axis.
        mark: a step to mark by an upright line, counted from 1.
        mark_name: written at it.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    steps = max(len(values) for values in lines.values())

    def place(step: float, value: float) -> tuple[float, float]:
        across = (step - 1) / max(steps - 1, 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM)

    for percent in range(0, 101, 25):
        x, y = place(1, percent / 100)
        draw.line([(x, y), (WIDTH - RIGHT, y)], fill=GRID)
        draw.text((LEFT - 8, y), f"{percent} %", fill=INK, font=font, anchor="rm")
    for step in sorted({1, *range(steps // 5, steps + 1, max(steps // 5, 1))}):
        if step:
            draw.text((place(step, 0)[0], HEIGHT - BOTTOM + 6), str(step), fill=INK, font=font, anchor="ma")
    if mark is not None:
        x, y = place(mark, 0)
        draw.line([(x, y), place(mark, 1)], fill=MARK, width=2)
        draw.text((x + 6, y - 8), mark_name, fill=MARK, font=font, anchor="ls")
    for i, (name, values) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = [place(step + 1, min(max(value, 0.0), 1.0)) for step, value in enumerate(values)]
        draw.line(points, fill=colour, width=3, joint="curve")
        draw.text((WIDTH - RIGHT - 4, HEIGHT - BOTTOM - 34 - 20 * i), name, fill=colour, font=font, anchor="rs")
    draw.text((LEFT, 12), title, fill=INK, font=font)
    draw.text((WIDTH - RIGHT, HEIGHT - 8), below, fill=INK, font=font, anchor="rs")
    return image


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
