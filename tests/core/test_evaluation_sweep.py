"""Runs that share their first steps equal separate runs bit for bit; the sweep's table, sheet and files."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.diffusion.strength import Constant, Curve, StrengthSchedule, TwoPhase, strengths_of
from customcrafter_core.errors import InputError
from customcrafter_core.experiments.sweep import Sweep, SweepCell, combinations, weight_sweep, write_sweep
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.sampling.shared_runs import forwards_of, sample_runs
from customcrafter_core.subject.subject import Subject
from tests.core import tiny_models
from tests.core.small_subjects import random_subject

SETTINGS = VideoSettings("a <new1> teddy bear is running", frames=2, steps=5, width=48, height=48, cfg=3.0, seed=5)
SCHEDULES: list[StrengthSchedule] = [
    TwoPhase(0.4, 0.8, 1),
    TwoPhase(0.4, 0.8, 3),
    TwoPhase(0.2, 0.8, 3),
    Constant(0.8),
    TwoPhase(0.4, 1.0, 3),
    Constant(0.4),
    Constant(0.0),
    Curve(((0.0, 0.4), (1.0, 1.0))),
    TwoPhase(0.8, 0.1, 0),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter2:
    """The smallest model: here only the way through the steps counts."""
    path = tiny_models.write(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", tiny_models.state_dict())
    return load_videocrafter2(path)


@pytest.fixture(scope="module")
def subject(model: VideoCrafter2) -> Subject:
    return random_subject(model)


@pytest.mark.parametrize(("eta", "exact_tail"), [(1.0, False), (1.0, True), (0.0, False)])
def test_shared_runs_equal_separate_runs_bit_for_bit(
    model: VideoCrafter2, subject: Subject, eta: float, exact_tail: bool
) -> None:
    settings = replace(SETTINGS, eta=eta, exact_tail=exact_tail)
    shared = sample_runs(model, settings, [subject], [[schedule] for schedule in SCHEDULES])
    alone = [generate(model, settings, [AppliedSubject(subject, schedule)]) for schedule in SCHEDULES]
    for schedule, latent, strengths, run in zip(SCHEDULES, shared.latents, shared.strengths, alone, strict=True):
        assert torch.equal(latent, run.latent), schedule
        assert strengths == run.strengths, schedule
    assert len({tuple(latent.flatten().tolist()) for latent in shared.latents}) == len(SCHEDULES)


def test_each_shared_step_is_computed_once(
    model: VideoCrafter2, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = type(model.unet).forward
    monkeypatch.setattr(type(model.unet), "forward", lambda *a, **b: (calls.append(1), forward(*a, **b))[1])
    shown: list[tuple[int, int]] = []
    runs = [[TwoPhase(0.4, 0.8, k)] for k in (1, 2, 3, 4)]
    shared = sample_runs(model, SETTINGS, [subject], runs, on_forward=lambda *done: shown.append(done))
    # a trunk of four steps at 0.4, from which a run of 0.8 leaves after 1, 2, 3 and 4 steps
    assert len(calls) == shared.forwards == 4 + (4 + 3 + 2 + 1)
    assert shared.forwards_alone == 20
    assert shown == [(i + 1, 14) for i in range(14)]
    calls.clear()
    sample_runs(model, SETTINGS, [subject], [[Constant(0.5)]] * 3)
    assert len(calls) == 5


@pytest.mark.parametrize("page", ["CustomCrafterWeightSweep.md", "CustomCrafterWeightSweep/zh.md"])
def test_the_savings_on_the_help_page_are_what_is_counted(page: str) -> None:
    text = (Path(__file__).parents[2] / "web" / "docs" / page).read_text(encoding="utf-8")
    examples = (([0.2, 0.4], [0.8], [3, 5, 8]), ([0.4], [0.6, 0.8, 1.0], [8]))  # those that the page names
    counted = []
    for values in examples:
        runs = [[(strength,) for strength in strengths_of(one, 50)] for one in combinations(*values, steps=50)]
        counted.append({forwards_of(runs), sum(map(len, runs))})
    numbers = [int(number) for number in re.findall(r"\b\d{3}\b", text)]
    assert [set(numbers[:2]), set(numbers[2:])] == counted == [{284, 300}, {134, 150}]
    for listed in ("`0.2, 0.4`", "`0.8`", "`3, 5, 8`", "`0.4`", "`0.6, 0.8, 1`", "`8`"):
        assert listed in text


def test_two_subjects_branch_where_either_strength_does(model: VideoCrafter2, subject: Subject) -> None:
    settings = replace(SETTINGS, prompt="a <new1> teddy bear with a <new2> teddy bear")
    second = random_subject(model, seed=9, placeholder="<new2>")
    runs = [[Constant(0.5), TwoPhase(0.1, 0.9, 2)], [Constant(0.5), Constant(0.1)], [TwoPhase(0.5, 0.6, 4)] * 2]
    shared = sample_runs(model, settings, [subject, second], runs)
    for run, latent in zip(runs, shared.latents, strict=True):
        applied = [AppliedSubject(one, schedule) for one, schedule in zip([subject, second], run, strict=True)]
        assert torch.equal(latent, generate(model, settings, applied).latent)
    assert shared.forwards == 2 + 3 + 3 + 5


def test_the_base_is_what_it_was_after_an_interrupt(model: VideoCrafter2, subject: Subject) -> None:
    before = generate(model, SETTINGS).latent

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_runs(model, SETTINGS, [subject], [[s] for s in SCHEDULES], on_forward=stop)
    assert torch.equal(generate(model, SETTINGS).latent, before)


def test_combinations_leave_out_repetitions() -> None:
    kept = combinations([0.2, 0.8], [0.8], [0, 2, 9], steps=5)
    assert kept == [TwoPhase(0.2, 0.8, 0), TwoPhase(0.2, 0.8, 2), TwoPhase(0.2, 0.8, 9)]
    with pytest.raises(InputError, match="empty"):
        combinations([], [0.8], [5], steps=5)
    with pytest.raises(InputError, match="lambda_s"):
        combinations([float("nan")], [0.8], [5], steps=5)


def test_a_sweep_is_told_in_a_table_a_sheet_and_videos(model: VideoCrafter2, subject: Subject, tmp_path: Path) -> None:
    sweep = weight_sweep(
        model, SETTINGS, subject, lambda_s=[0.2], lambda_l=[0.8, 1.0], k=[0, 2],
        score=lambda frames: {"Mean": float(frames.mean())},
    )  # fmt: skip
    labels = ["constant λ 0.8", "λs 0.2, λl 0.8, K 2", "constant λ 1", "λs 0.2, λl 1, K 2"]
    assert [row["strength"] for row in sweep.table()] == labels
    alone = generate(model, SETTINGS, [AppliedSubject(subject, TwoPhase(0.2, 1.0, 2))])
    assert torch.equal(sweep.cells[3].frames, model.decode(alone.latent)[0])
    assert sweep.forwards == 5 + 5 + 2 + 3 + 3 and sweep.forwards_alone == 20
    assert sweep.saving == 1 - 18 / 20
    assert sweep.sheet().height > 4 * 160
    written = write_sweep(tmp_path, sweep)
    assert [path.name for path in written] == [
        *(f"0{i}.mp4" for i in range(1, 5)),
        "sweep.png",
        "sweep.csv",
        "sweep.json",
    ]
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[3]["Mean"]) == float(sweep.cells[3].frames.mean()) and rows[3]["lambda_l"] == "1.0"
    assert json.loads((tmp_path / "sweep.json").read_text())["forwards"] == sweep.forwards


def test_a_sweep_scores_travel_by_default_and_takes_no_batch(model: VideoCrafter2, subject: Subject) -> None:
    with pytest.raises(InputError, match="batch of 1"):
        weight_sweep(model, replace(SETTINGS, batch=2), subject)
    sweep = weight_sweep(model, replace(SETTINGS, steps=1), subject)
    assert list(sweep.cells[0].scores) == ["Motion"] and sweep.settings.fps == model.defaults.fps


def swept(*cells: tuple[TwoPhase, float]) -> Sweep:
    """A sweep of 5 steps whose videos move so far."""
    made = [SweepCell(strength, 5, torch.zeros(2, 8, 8, 3), {"Motion": motion}) for strength, motion in cells]
    return Sweep(made, SETTINGS, 1, 1)


def test_the_best_keeps_most_motion_at_most_strength() -> None:
    base = (TwoPhase(0.0, 0.0, 0), 0.8)
    found = swept(base, (TwoPhase(1.0, 1.0, 0), 0.2), (TwoPhase(0.0, 1.0, 2), 0.72), (TwoPhase(0.0, 1.0, 4), 1.6)).best
    # of the strongest 1/4 of the motion is left; 0.9 at 3/5 of the strength; all, and no more than all, at 1/5
    assert found is not None and found.cell.strength == TwoPhase(0.0, 1.0, 2)
    assert (found.kept, found.share) == pytest.approx((0.9, 0.6))
    negative = swept(base, (TwoPhase(-1.0, -1.0, 0), 0.8), (TwoPhase(0.5, 0.5, 0), 0.8)).best
    assert negative is not None and negative.cell.strength.lambda_s == -1.0 and negative.share == 1


def test_there_is_no_best_without_a_video_of_the_model_alone_that_moves() -> None:
    strong, still = (TwoPhase(1.0, 1.0, 0), 0.5), (TwoPhase(0.0, 0.0, 0), 0.01)
    assert swept(strong).best is None
    assert swept(still, strong).best is None
    assert swept((TwoPhase(0.0, 0.0, 0), 0.5)).best is None
