"""How time and memory grow with frames, size, rank, subjects and steps; a table, and ``growth.png``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageDraw, ImageFont

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.diffusion.strength import TwoPhase
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings

from .results import Row, Section
from .sampling import random_subject
from .setup import Setup, model_for, random_unet
from .timing import peak_bytes, time_in_turns
from .unet import counted_operations, inputs_for, ours_with

FRAMES = (8, 16, 32, 64)
AREAS = ((8, 16), (16, 16), (16, 32), (32, 32))  # of the latent, small; twice as many positions each time
FULL_AREAS = ((16, 32), (32, 32), (32, 64), (64, 64))
RANKS = (1, 4, 16, 64)
SUBJECTS = (1, 2, 4, 8)
STEPS = (5, 10, 20, 40)


@dataclass(frozen=True)
class Line:
    """What came out for each value of one thing that grows."""

    name: str
    values: Sequence[int]
    seconds: Sequence[float]
    peaks: Sequence[int]

    @property
    def power(self) -> float:
        """Of the last doubling: 1 is linear, 2 is quadratic, 0 constant."""
        return math.log(self.seconds[-1] / self.seconds[-2]) / math.log(self.values[-1] / self.values[-2])


def measure(setup: Setup) -> Section:
    """One forward pass for frames and size; whole runs of the demo model for what concerns subjects and steps."""
    unet = random_unet(setup)
    many = 2 if setup.scale == "quick" else None
    counts, sizes = FRAMES[:many], (FULL_AREAS if setup.full else AREAS)[:many]
    frames = [_Sized(**vars(setup), sized=(t, *setup.latent[1:])) for t in counts]
    areas = [_Sized(**vars(setup), sized=(setup.latent[0], *area)) for area in sizes]
    positions = [math.prod(one.latent[1:]) for one in areas]
    with torch.inference_mode():
        lines = [
            _line("frames", counts, [ours_with(unet, inputs_for(one)) for one in frames], setup),
            _line("positions", positions, [ours_with(unet, inputs_for(one)) for one in areas], setup),
        ]
    del unet
    lines += _runs(model_for(replace(setup, scale="small")), setup)
    rows = [Row(f"{line.name}: {value}", f"{s:.2f} s, {p / 1e6:.3g} MB") for line in lines
            for value, s, p in zip(line.values, line.seconds, line.peaks, strict=True)]  # fmt: skip
    powers = "; ".join(f"{line.name} {line.power:.2f}" for line in lines)
    how = (
        f"Frames and positions of the latent in a frame: one forward pass ({setup.size}, otherwise). Rank, subjects, "
        "steps: whole runs of the demo model. Medians; memory is of activations. ![Growth](growth.png)"
    )
    steeper = steepest_terms(frames[-2:]), steepest_terms(areas[-2:])
    note = (
        f"Exponents of the last step (1 is linear): {powers}. What grows faster than the video, by its operations in the "
        f"last step and their share of the pass: with frames {steeper[0]}; with positions {steeper[1]}."
    )
    return Section("growth", "Growth", how, rows, [note], {"growth.png": draw(lines)})


def steepest_terms(setups: Sequence[Setup]) -> str:
    """The kinds of attention whose operations grow faster than the video from one setup to another, counted."""
    size, larger = (math.prod(one.latent) for one in setups)
    before, after = (counted_operations(one) for one in setups)
    found = []
    for kind in (name for name in after if name != "all"):
        power = math.log(after[kind] / before[kind]) / math.log(larger / size)
        if power > 1.01:
            found.append(f"{kind} (exponent {power:.2f}, {100 * after[kind] / after['all']:.1f} % of the operations)")
    return ", ".join(found) or "nothing"


@dataclass(frozen=True)
class _Sized(Setup):
    """A setup with another latent."""

    sized: tuple[int, int, int] = (1, 8, 8)

    @property
    def latent(self) -> tuple[int, int, int]:
        return self.sized


def _runs(model: VideoCrafter2, setup: Setup) -> list[Line]:
    quick = setup.scale == "quick"
    ranks, subjects, steps, few = (RANKS[:2], SUBJECTS[:2], (1, 2), 1) if quick else (RANKS, SUBJECTS, STEPS, 5)

    def run(subjects: int, rank: int, steps: int) -> Callable[[], object]:
        tokens = [f"<new{i + 1}>" for i in range(subjects)]
        applied: list[AppliedSubject] = []
        settings = VideoSettings(f"a {' '.join(tokens)} cup", steps=steps)

        def once() -> None:
            if not applied:  # in the first run, so that the subjects count as memory that it takes
                applied.extend(AppliedSubject(random_subject(model, rank, token), TwoPhase()) for token in tokens)
            generate(model, settings, applied)

        return once

    return [
        _line("rank", ranks, [run(1, rank, few) for rank in ranks], setup),
        _line("subjects", subjects, [run(count, 4, few) for count in subjects], setup),
        _line("steps", steps, [run(1, 4, count) for count in steps], setup),
    ]


def _line(name: str, values: Sequence[int], ways: Sequence[Callable[[], object]], setup: Setup) -> Line:
    named = {str(value): way for value, way in zip(values, ways, strict=True)}
    peaks = [peak_bytes(way, setup.device) for way in ways]
    timings = time_in_turns(named, setup.rounds, setup.device)
    return Line(name, values, [timings.median(one) for one in named], peaks)


def draw(lines: Sequence[Line]) -> Image.Image:
    """Time (blue) and memory (orange) of each line, relative to its first value, both axes logarithmic."""
    side, edge = 240, 34
    image = Image.new("RGB", (side * len(lines), side + 20), "#ffffff")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for i, line in enumerate(lines):
        left, bottom, top = i * side + edge, side - edge, edge
        last = len(line.values) - 1

        def place(
            step: int, value: float, left: int = left, bottom: int = bottom, last: int = last
        ) -> tuple[float, float]:
            high = min(max(math.log2(max(value, 1e-9)), -0.5), 5.0)
            return left + step * (side - 2 * edge) / last, bottom - high * (bottom - edge) / 5.0

        for power in range(6):
            pen.line([place(0, 2**power), place(last, 2**power)], fill="#d8d8de")
            pen.text((left - 5, place(0, 2**power)[1]), str(2**power), fill="#18181c", font=font, anchor="rm")
        for numbers, colour in ((line.seconds, "#1d4ed8"), (line.peaks, "#c2410c")):
            pen.line([place(n, v / numbers[0]) for n, v in enumerate(numbers)], fill=colour, width=3)
        for step, value in enumerate(line.values):
            pen.text((place(step, 1)[0], bottom + 5), str(value), fill="#18181c", font=font, anchor="ma")
        pen.text((left, top - 18), line.name, fill="#18181c", font=font, anchor="lm")
    note = "relative to the first value, both logarithmic: time blue, memory orange"
    pen.text((edge, side + 2), note, fill="#18181c", font=font)
    return image
