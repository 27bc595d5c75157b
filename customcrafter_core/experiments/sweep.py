"""Weight Sweep: one prompt, one seed, and every combination of some λs, λl and K of a subject or a LoRA."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from ..base_model.model import VideoCrafter2
from ..diffusion.strength import LAMBDA_L, LAMBDA_S, K, StrengthSchedule, TwoPhase, strengths_of
from ..errors import InputError
from ..evaluation.motion import motion_travel
from ..evaluation.scoring import MOTION
from ..files.writing import write_bytes, write_json
from ..output.pixels import Frames
from ..output.sheet import SheetRow, contact_sheet
from ..output.video import write_video
from ..sampling.preparation import AppliedSubject
from ..sampling.settings import VideoSettings
from ..sampling.shared_runs import sample_runs
from ..subject.subject import Subject
from .motion_onset import STILL

Score = Callable[[Frames], Mapping[str, float]]
"""Scores of a video ``(t, h, w, 3)`` by name, such as `Scorer.score` with prompt and photos filled in."""


@dataclass(frozen=True)
class SweepCell:
    """One combination: the video ``(t, h, w, 3)``, values 0 … 1, and its scores."""

    strength: TwoPhase
    steps: int
    frames: torch.Tensor
    scores: Mapping[str, float]

    @property
    def label(self) -> str:
        """``λs 0.4, λl 0.8, K 5``, or ``constant λ 0.8`` where the strength never changes."""
        strengths = set(strengths_of(self.strength, self.steps))
        if len(strengths) == 1:
            return f"constant λ {strengths.pop():g}"
        return f"λs {self.strength.lambda_s:g}, λl {self.strength.lambda_l:g}, K {self.strength.k}"

    @property
    def mean_strength(self) -> float:
        """Mean over the steps of the strength without its sign."""
        return sum(map(abs, strengths_of(self.strength, self.steps))) / self.steps


@dataclass(frozen=True)
class Best:
    """The combination to try first, and what speaks for it."""

    cell: SweepCell
    kept: float
    """Its motion over that of the video without the LoRA, 0 … 1; more than that counts as 1."""
    share: float
    """Its mean strength over the largest of the sweep, 0 … 1."""


@dataclass(frozen=True)
class Sweep:
    """All cells, and what the shared steps saved."""

    cells: list[SweepCell]
    settings: VideoSettings
    forwards: int
    forwards_alone: int

    @property
    def saving(self) -> float:
        """Share of the network's predictions that was saved, 0 … 1."""
        return 1 - self.forwards / self.forwards_alone

    @property
    def best(self) -> Best | None:
        """The combination that keeps most of the model's own motion at most of the strength: the largest ``kept · share``.

        Motion is measured against the video at strength 0; None if the sweep has none, if it does not move, or if there
        is no other. The rule is ours; the paper has none.
        """
        own = [cell.scores[MOTION] for cell in self.cells if cell.mean_strength == 0]
        others = [cell for cell in self.cells if cell.mean_strength > 0]
        if not own or not others or own[0] <= STILL:
            return None
        most = max(cell.mean_strength for cell in others)
        rated = [Best(cell, min(cell.scores[MOTION] / own[0], 1.0), cell.mean_strength / most) for cell in others]
        return max(rated, key=lambda one: one.kept * one.share)

    def table(self) -> list[dict[str, float | int | str]]:
        """One row for each cell: label, λs, λl, K and scores."""
        return [
            {
                "strength": cell.label,
                "lambda_s": cell.strength.lambda_s,
                "lambda_l": cell.strength.lambda_l,
                "K": cell.strength.k,
                **cell.scores,
            }
            for cell in self.cells
        ]

    def sheet(self) -> Image.Image:
        """A contact sheet: one labelled row for each cell, with its scores."""
        rows = []
        for cell in self.cells:
            scores = ", ".join(f"{name} {value:.2f}" for name, value in cell.scores.items())
            rows.append(SheetRow(f"{cell.label}: {scores}" if scores else cell.label, cell.frames))
        seed = f"seed {self.settings.seed}"
        return contact_sheet(rows, title=f"{self.settings.prompt} ({seed})" if self.settings.prompt else seed)


def combinations(lambda_s: Sequence[float], lambda_l: Sequence[float], k: Sequence[int], steps: int) -> list[TwoPhase]:
    """Every combination, without those that give the same strength at every step as an earlier one.

    Raises:
        InputError: an empty range, or a value out of range.
    """
    every = [TwoPhase(*values) for values in product(lambda_s, lambda_l, k)]
    if not every:
        raise InputError(expected="at least one λs, λl and K", found="an empty range", remedy="Give values.")
    first = {tuple(strengths_of(strength, steps)): strength for strength in reversed(every)}
    kept = set(first.values())
    return [strength for strength in dict.fromkeys(every) if strength in kept]


def weight_sweep(
    model: VideoCrafter2,
    settings: VideoSettings,
    subject: Subject,
    *,
    lambda_s: Sequence[float] = (LAMBDA_S,),
    lambda_l: Sequence[float] = (LAMBDA_L,),
    k: Sequence[int] = (K,),
    others: Sequence[AppliedSubject] = (),
    score: Score | None = None,
    any_base: bool = False,
    on_forward: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Make the prompt at every combination of strengths, from the same noise.

    Args:
        model: the base model.
        settings: prompt, size, seed and sampling; one video, not a batch.
        subject: whose strength is varied.
        lambda_s: strengths of the first K steps.
        lambda_l: strengths of all later steps.
        k: numbers of first steps.
        others: further subjects of the prompt, always at their own strength.
        score: of a video; by default its travel.
        any_base: accept subjects of another base of the same widths.
        on_forward: called with (predictions made, predictions in all).

    Raises:
        InputError: a range is empty, or a setting, strength or subject does not fit.
    """
    if settings.batch != 1:
        raise InputError(expected="a batch of 1 in a sweep", found=f"{settings.batch}", remedy="Sweep several seeds.")
    steps = len(model.schedule.ddim_timesteps(settings.steps))
    strengths = combinations(lambda_s, lambda_l, k, steps)
    subjects = [subject, *(other.subject for other in others)]
    runs: list[list[StrengthSchedule]] = [[strength, *(other.schedule for other in others)] for strength in strengths]
    shared = sample_runs(model, settings, subjects, runs, any_base=any_base, on_forward=on_forward)
    score = score or (lambda frames: {MOTION: motion_travel(frames)})
    cells = []
    for strength, latent in zip(strengths, shared.latents, strict=True):
        with torch.inference_mode():
            frames = model.decode(latent)[0]
        cells.append(SweepCell(strength, steps, frames, score(frames)))
    return Sweep(cells, shared.settings, shared.forwards, shared.forwards_alone)


def write_sweep(folder: Path, sweep: Sweep, about: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
    """Write the videos, the contact sheet and the table as CSV and JSON.

    Args:
        folder: is made if need be.
        sweep: with all its videos.
        about: what else the JSON shall tell.

    Raises:
        InputError: pixels that are not finite.
        OSError: the disk is full or the folder cannot be written.
    """
    table = sweep.table()
    names = [f"{i + 1:02d}.mp4" for i in range(len(table))]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["video", *dict.fromkeys(key for row in table for key in row)])
    writer.writeheader()
    writer.writerows({"video": name, **row} for name, row in zip(names, table, strict=True))
    picture = io.BytesIO()
    sweep.sheet().save(picture, "PNG")
    record = {
        **asdict(sweep.settings),
        **about,
        "forwards": sweep.forwards,
        "forwards_alone": sweep.forwards_alone,
        "cells": [{"video": name, **row} for name, row in zip(names, table, strict=True)],
    }
    return [
        *(write_video(folder / name, cell.frames) for name, cell in zip(names, sweep.cells, strict=True)),
        write_bytes(folder / "sweep.png", picture.getvalue()),
        write_bytes(folder / "sweep.csv", text.getvalue().encode()),
        write_json(folder / "sweep.json", record),
    ]
