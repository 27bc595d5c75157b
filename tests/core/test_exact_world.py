"""The exact study: its denoisers against enumeration of every clip, its sampler against the pack's, its bar by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import exact_world
from benchmarks.exact_world import cases, clips, gain, onset, page, posterior, results, sampling, study
from benchmarks.exact_world.cases import Case
from benchmarks.exact_world.clips import Identity
from benchmarks.exact_world.measures import measure
from benchmarks.exact_world.world import World
from customcrafter_core.diffusion.ddim import Prediction, ddim_steps
from customcrafter_core.diffusion.recommendations import PRESETS
from customcrafter_core.diffusion.strength import Constant, TwoPhase, strengths_of
from customcrafter_core.experiments.motion_onset import suggest_k

EYES = Identity("eyes", 0.4)
SMALL = {"frames": 3, "travel": 3, "spread": 0.5}


def every_clip(identity: Identity, motions: list[str], *, frames: int, travel: int, spread: float):
    """All clips ``(p, 2^n, pixels)`` drawn one by one, with their signs ``(2^n, n)``."""
    parts = clips.parts_of(identity.kind)
    looks = np.array(list(itertools.product((-1, 1), repeat=len(parts))))
    drawn = []
    for motion in motions:
        for path in clips.paths(motion, frames, travel):
            video = np.zeros((len(looks), frames, clips.SIDE, clips.SIDE, 3))
            for signs, clip in zip(looks, video, strict=True):
                picture = clips.DISC[..., None] * np.array(clips.COLOUR)
                picture = picture + identity.contrast * (signs[:, None, None, None] * parts).sum(0)
                for frame, (x, y) in zip(clip, path, strict=True):
                    frame[y : y + clips.OBJECT, x : x + clips.OBJECT] = spread * picture
            drawn.append(video.reshape(len(looks), -1))
    return torch.from_numpy(np.stack(drawn)), torch.from_numpy(looks).double()


def enumerated_mean(every, looks, x, signal: float, noise: float, prior: posterior.Prior) -> torch.Tensor:
    """The posterior mean as the definition has it: a sum over all clips."""
    sign_prior = torch.nn.functional.logsigmoid(2 * prior.look.double()[:, None] * looks).sum(2)
    distance = (x[:, None, None] - signal * every).square().sum(3)
    weight = -distance / (2 * noise**2) + prior.path.double()[None, :, None] + sign_prior[:, None]
    weight = torch.softmax(weight.flatten(1), 1)
    return weight @ every.flatten(0, 1)


@pytest.mark.parametrize(("signal", "noise"), [(0.1, 1.0), (0.5, 0.8), (0.9, 0.3)])
def test_denoiser_is_the_mean_over_every_clip(signal: float, noise: float) -> None:
    motions = ["still", "left"]
    world = World(EYES, motions, **SMALL)
    every, looks = every_clip(EYES, motions, **SMALL)
    generator = torch.Generator().manual_seed(1)
    truth = every[torch.tensor([2, 12]), torch.tensor([5, 40])]
    x = signal * truth + noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    look = torch.randn(2, 6, generator=generator).sign()
    prior = posterior.Prior(posterior.path_prior(world, {"still": 0.7, "left": 0.3}), posterior.look_prior(look, 0.9))
    found = posterior.posterior_mean(world, (x @ world.basis.double().T).float(), signal, noise, prior)
    wanted = enumerated_mean(every, looks, x, signal, noise, prior)
    assert torch.allclose(world.pixels(found).flatten(1).double(), wanted, atol=2e-4)
    assert wanted.abs().max() > 0.3  # there is something to be seen


def test_strength_mixes_predictions_and_guidance_goes_beyond_them() -> None:
    case = Case(EYES, cfg=4.0, eps=0.1, said=0.8, disobedience=0.01)
    world = case.world("up")
    look = cases.looks_of(6)[:3]
    denoiser = case.denoiser(world, "up", look)
    x = world.noise(6, torch.Generator().manual_seed(2))
    level = case.levels.levels[20]

    def mean(prior: posterior.Prior) -> torch.Tensor:
        twice = posterior.Prior(prior.path, prior.look.repeat(6 // len(prior.look), 1))
        return posterior.posterior_mean(world, x, level.signal, level.noise, twice)

    cond = 0.7 * mean(denoiser.base) + 0.3 * mean(denoiser.subject)
    empty = 0.7 * mean(denoiser.base_empty) + 0.3 * mean(denoiser.subject_empty)
    assert torch.allclose(denoiser(x, level, 0.3), empty + 4 * (cond - empty), atol=1e-4)
    prompt_only = replace(case, lora_on=cases.COND).denoiser(world, "up", look)
    base_empty = mean(denoiser.base_empty)
    assert torch.allclose(prompt_only(x, level, 0.3), base_empty + 4 * (cond - base_empty), atol=1e-4)
    assert not torch.allclose(cond, empty, atol=0.1)


def test_tempered_strength_mixes_log_priors() -> None:
    base = posterior.Prior(torch.log(torch.tensor([0.5, 0.5])), torch.tensor([[0.0]]))
    subject = posterior.Prior(torch.log(torch.tensor([0.9, 0.1])), torch.tensor([[1.0]]))
    half = base.towards(subject, 0.5)
    assert torch.allclose(half.path.exp(), torch.tensor([3.0, 1.0]) / 4) and half.look.item() == 0.5
    assert torch.allclose(base.towards(subject, 1).path, subject.path)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ways_sampled_together_are_those_of_the_packs_own_sampler(eta: float) -> None:
    case = Case(EYES, steps=10, eta=eta)
    world = case.world("left")
    denoiser = case.denoiser(world, "left", cases.looks_of(6)[:4])
    ways = [Constant(0.0), Constant(0.6), TwoPhase(0.0, 1.0, 3), TwoPhase(0.0, 0.6, 3), TwoPhase(0.4, 0.8, 2)]
    strengths = [strengths_of(way, 10) for way in ways]
    together = sampling.sample(world, denoiser, case.levels, strengths, 4, eta=eta, seed=3)
    levels = case.levels.levels
    for way, found in zip(ways, together, strict=True):
        generator = torch.Generator().manual_seed(3)
        start = world.noise(4, generator)

        def predict(x: torch.Tensor, step: int, way=way) -> Prediction:
            level = levels[step]
            return Prediction((x - level.signal * denoiser(x, level, way(step, 10))) / level.noise)

        def noise(_: int, generator=generator) -> torch.Tensor:
            return world.noise(4, generator)

        *_, last = ddim_steps(predict, start, levels, noise=noise, eta=eta)
        assert torch.allclose(found, last.following, atol=2e-3), way
    assert not torch.allclose(together[0], together[2], atol=0.1)


def test_flow_matching_follows_the_straight_line_and_its_shift() -> None:
    schedule = sampling.schedule_of("flow 3", 4)
    assert [level.noise for level in schedule.levels] == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    assert [level.signal for level in schedule.levels] == pytest.approx([0, 0.1, 0.25, 0.5, 1])
    x0, noise = torch.randn(2, 5), torch.randn(2, 5)
    for i in range(4):  # with the true clip predicted, x stays on the line between noise and clip
        now, following = schedule.levels[i], schedule.levels[i + 1]
        x = schedule.step(now.signal * x0 + now.noise * noise, x0, i, torch.empty(0), 0.0)
        assert torch.allclose(x, following.signal * x0 + following.noise * noise, atol=1e-5)


def test_a_clip_is_told_by_the_clean_clip_next_to_it() -> None:
    world = World(EYES, ["still", "down"], **SMALL)
    look = torch.tensor([[1.0, -1, 1, 1, -1, -1]]).repeat(3, 1)
    path = torch.zeros(3, world.path_count)
    path[0, 1] = path[1, 12] = path[2, 14] = 1
    signs = look.clone()
    signs[2, 0] = -1
    clean = world.clip(path, signs[:, None].expand(-1, world.path_count, -1))
    seen = measure(world, clean, "down", look)
    assert seen.moves.tolist() == [False, True, True]
    assert seen.identity.tolist() == pytest.approx([1, 1, 2 / 3])  # one of six equal parts is wrong
    assert seen.blur.max() < 1e-4
    ghost = measure(world, (clean[:1] + clean[1:2]) / 2, "down", look[:1])
    assert ghost.blur.item() > 0.1


def test_the_subject_freezes_and_the_base_moves_without_its_look() -> None:
    case = Case(Identity("marks", 0.3), steps=20)
    ways = {"base": Constant(0.0), "subject": Constant(1.0)}
    videos = cases.videos_of(case, ways)
    motion, identity = videos.moves.mean(1), videos.identity.mean(1)
    assert motion[0] == 1 and motion[1] < 0.15
    assert abs(identity[0]) < 0.15 and identity[1] > 0.9
    assert videos.blur < 0.01
    assert sorted(set(videos.look)) == list(range(16)) and len(videos.look) == 64


def test_kinds_have_parts_that_do_not_overlap() -> None:
    counts = {kind: len(clips.parts_of(kind)) for kind in clips.KINDS}
    assert len(counts) >= 8
    assert counts["solid colour"] == 3 and counts["marks"] == 22 and counts["texture"] == clips.DISC.sum() == 37
    for kind in counts:
        assert clips.parts_of(kind).sum(0).max() == 1, kind


def test_energies_are_distances_between_clips() -> None:
    identity = Identity("solid colour", 0.6)
    world = World(identity, ["still", "right"])
    colour_flipped = 8 * 37 * (2 * 0.6 * 0.7) ** 2  # frames, pixels, change of one channel in latent units
    assert world.one_part_energy() == pytest.approx(colour_flipped, rel=1e-4)
    moving = world.pixels(world.base[world.of("right")])
    still = world.pixels(world.base[world.of("still")])
    nearest = (moving[:, None] - still).square().sum((2, 3, 4, 5)).min(1).values.mean()
    assert world.motion_energy("right") == pytest.approx(float(nearest), rel=1e-3)


def test_looks_are_different_ones() -> None:
    assert len(np.unique(cases.looks_of(22).numpy(), axis=0)) == cases.LOOKS
    few = cases.looks_of(3).numpy()
    assert len(few) == len(np.unique(few, axis=0)) == 8 and set(np.unique(few)) == {-1, 1}


def test_bar_is_the_best_mix_of_constants() -> None:
    identity, motion = np.array([0.0, 0.4, 1.0]), np.array([1.0, 0.2, 0.0])
    at = np.array([-0.5, 0.5, 1.0, 1.2])
    # at 0.5 the mix of the two ends (0.5) beats that of the neighbours (0.17); beyond 1 the most alike counts
    assert gain.best_of_constants(identity, motion, at) == pytest.approx([1.0, 0.5, 0.0, 0.0])
    rows = np.stack([identity, identity]), np.stack([motion, motion])
    assert gain.best_of_constants(*rows, np.stack([at, at])).shape == (2, 4)


def test_gain_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    look = np.repeat(np.arange(8), 8)
    identity = np.stack([np.zeros(64), np.ones(64), np.full(64, 0.5)])
    moves = np.stack([np.ones(64), np.zeros(64), rng.random(64) < 0.9])
    constant = np.array([True, True, False])
    (found,) = gain.gain_intervals(identity, moves, look, constant, [2])
    assert found.mean == pytest.approx(moves[2].mean() - 0.5)
    assert 0.2 < found.low < found.mean < found.high <= 0.5
    by_look = np.stack([moves[0], moves[1], look < 4])  # all of a look's videos alike: fewer independent ones
    (wide,) = gain.gain_intervals(identity, by_look, look, constant, [2])
    assert wide.high - wide.low > 2 * (found.high - found.low)


def test_settings_are_judged_on_looks_they_were_not_chosen_on() -> None:
    look = np.tile(np.repeat(np.arange(16), 2), 4)
    chosen, judged = gain.halves(look)
    assert not set(look[chosen]) & set(look[judged]) and len(chosen) == len(judged) == 64


def test_motion_onset_is_measured_on_the_very_videos_that_are_made() -> None:
    case = Case(EYES, steps=10, cfg=3.0)
    found = onset.onset(case)
    assert found.motion.shape == (24, 10) and found.moves.shape == found.identity.shape == (24, 11)
    assert found.motion[:, -1] == pytest.approx(np.ones(24), abs=1e-6)
    assert found.moves[:, -1].mean() == 1  # the base throughout
    assert found.moves[:, 0].mean() < 0.5 and found.identity[:, 0].mean() > 0.9  # the subject throughout
    told = onset.onset_summary("some case", found)
    rows = np.arange(24)
    ks = np.array([suggest_k(curve) for curve in found.motion])
    assert told["knee"]["motion"] == pytest.approx(found.moves[rows, ks].mean())
    assert told["best"]["motion"] + told["best"]["identity"] >= told["knee"]["motion"] + told["knee"]["identity"]


def test_every_preset_is_among_the_strengths_that_were_tried() -> None:
    assert {cases.name_of(way) for way in PRESETS.values()} <= set(cases.ways_of(cases.BASE))
    assert PRESETS["the paper's"] == TwoPhase()


def test_the_shipped_page_says_what_the_shipped_numbers_say() -> None:
    shipped = Path(exact_world.__file__).parents[1] / "exact_world.json"
    found = json.loads(shipped.read_text(encoding="utf-8"))
    assert shipped.with_suffix(".md").read_text(encoding="utf-8") == page.page(found)


def test_a_trial_is_made_once_and_again_for_other_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = study.Trial(study.LAW, Case(EYES, steps=5), pairs=((0.0, 1.0),))
    first = study.videos_of_trial(trial, tmp_path)
    made: list[int] = []
    original = study.videos_of

    def counted(case: Case, ways: dict[str, cases.Way]) -> cases.Videos:
        made.append(1)
        return original(case, ways)

    monkeypatch.setattr(study, "videos_of", counted)
    again = study.videos_of_trial(trial, tmp_path)
    assert not made and again.ways == first.ways and np.array_equal(again.identity, first.identity)
    told = results.summary(trial, again)
    assert set(told["ways"]) == set(first.ways) and told["chosen"]["way"].startswith("0 → 1")
    monkeypatch.setattr(cases, "CONSTANTS", (0.0, 0.5, 1.0))
    assert len(study.videos_of_trial(trial, tmp_path).ways) < len(first.ways) and made == [1]
