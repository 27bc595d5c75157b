"""The evidence on the demo world: how videos are made together, what is compared, and what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import demo_page, demo_statistics, demo_world
from benchmarks.demo_sampling import sample_ways
from customcrafter_core.demo import demo_subject, world
from customcrafter_core.demo.run import load_demo_base
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject


def test_videos_made_together_are_those_made_alone() -> None:
    model, subject = load_demo_base(), load_subject(demo_subject())
    ways = [Constant(0.8), TwoPhase(k=2)]
    prompts = [f"a {subject.trigger} moving {motion} on a white background" for motion in ("left", "up")]
    together = sample_ways(model, prompts, subject, ways, seed=7, steps=4, dtype=torch.float32)
    for way, clips in zip(ways, together, strict=True):
        for i, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
            settings = VideoSettings(prompt, seed=7 + i, steps=4, exact_tail=True)
            alone = model.decode(generate(model, settings, [AppliedSubject(subject, way)]).latent)[0]
            assert np.abs((alone * 255).numpy() - clip).max() <= 1
    (base,) = sample_ways(model, ["a toy"], None, [None], seed=7, steps=2)
    assert base.shape == (1, world.FRAMES, world.SIDE, world.SIDE, 3)


def rows_of_ways(motion: dict[str, float], similarity: dict[str, float], count: int = 20) -> list[dict[str, object]]:
    """Videos of the main training whose measures have the given means."""
    return [
        {
            "variant": demo_statistics.MAIN, "way": way, "subject": "s", "seed": i % 4, "noise": i,
            "motion": i < motion[way] * count, "similarity": similarity[way],
        }
        for way in motion
        for i in range(count)
    ]  # fmt: skip


def test_evidence_compares_dynamic_with_a_constant_of_equal_similarity() -> None:
    similarity = {"constant 0.4": 0.0, "constant 0.8": 1.0, "dynamic better": 0.5, "dynamic equal": 0.5}
    motion = {"constant 0.4": 1.0, "constant 0.8": 0.0, "dynamic better": 1.0, "dynamic equal": 0.5}
    ways = demo_statistics.group(rows_of_ways(motion, similarity))
    found = demo_statistics.against_constants(ways)
    assert found["dynamic better"].mean == pytest.approx(0.5) and found["dynamic better"].low > 0
    assert found["dynamic equal"].mean == pytest.approx(0.0)
    assert found["dynamic equal"].low <= 0.0 <= found["dynamic equal"].high
    gain = demo_statistics.paired(ways)["dynamic better against constant 0.8"]
    assert gain["motion"].mean == 1.0 and gain["similarity"].mean == pytest.approx(-0.5)


def test_evidence_goes_on_where_it_was_stopped(tmp_path) -> None:
    settings = {"prompts": 2}
    job = demo_world.all_jobs(["square-orange"], [0])[0]
    line = json.dumps({"job": vars(job), "settings": settings, "rows": [{"motion": True}]})
    (tmp_path / "cache.jsonl").write_text(line + "\n" + line[:30], encoding="utf-8")
    assert demo_world.read_cache(tmp_path / "cache.jsonl", settings, demo_world.Job) == {job: [{"motion": True}]}
    assert demo_world.read_cache(tmp_path / "cache.jsonl", {"prompts": 3}, demo_world.Job) == {}


def test_every_way_of_the_evidence_has_the_same_noises_and_other_trainings_others() -> None:
    first, second = (demo_world.asked_for("star-red-yellow", seed, 24, beside=True) for seed in (0, 1))
    assert len({one.noise for one in first + second}) == 48
    assert all(not one.thing or world.THINGS[one.thing].colours[0] not in ("red", "yellow") for one in first)
    assert {one.motion for one in first} == set(demo_world.MOVING) and sum(bool(one.thing) for one in first) == 12


def test_claims_say_what_the_videos_show() -> None:
    similarity = {"constant 0.4": 0.0, "constant 0.8": 1.0, "dynamic 0.4 → 0.8, K = 10": 0.5}
    motion = {"constant 0.4": 1.0, "constant 0.8": 0.0, "dynamic 0.4 → 0.8, K = 10": 1.0}
    base = [
        {"variant": demo_statistics.BASE, "way": demo_statistics.BASE, "subject": "", "seed": 0, "noise": i,
         "motion": True, "similarity": -0.5}
        for i in range(12)
    ]  # fmt: skip
    ways = demo_statistics.group([*rows_of_ways(motion, similarity), *base])
    verdicts = {claim.text: claim.verdict for claim in demo_statistics.claims(ways)}
    assert verdicts == {
        "A trained subject looks more like the subject than the base model's toys do": "yes",
        "A subject trained on stills freezes motion": "yes",
        "Dynamic 0.4 → 0.8, K = 10: more motion than constant 0.8": "yes",
        "Dynamic 0.4 → 0.8, K = 10: less similar than constant 0.8": "yes",
        "Dynamic 0.4 → 0.8, K = 10: more motion than a constant strength of equal similarity": "yes",
    }
    turned = demo_statistics.difference(base, ways[demo_statistics.MAIN, "constant 0.4"], "motion")
    assert turned.mean == 0.0 and demo_statistics.Claim("", "motion", turned).verdict == "not shown"


def test_intervals_draw_whole_trainings() -> None:
    """Twenty videos of one training that agree are one piece of evidence, not twenty."""
    rows = [{"subject": "s", "seed": seed, "noise": i, "motion": seed == 0} for seed in range(2) for i in range(20)]
    found = demo_statistics.interval(rows, "motion")
    assert found is not None and (found.low, found.high) == (0.0, 1.0)


def test_page_has_every_picture_it_names(tmp_path) -> None:
    similarity = {"constant 0.4": 0.0, "constant 0.8": 1.0, "dynamic 0.4 → 0.8, K = 10": 0.5}
    rows = rows_of_ways(similarity, similarity)
    facts = {"variant": demo_statistics.COMMITMENT, "subject": "", "seed": 0, "way": "switch"}
    rows += [{**facts, "noise": i, "k": k, "first": k > 10, "second": k < 10} for k in (0, 20) for i in range(3)]
    for row in rows:
        row |= {"travel": 0.5, "background": True}
    text = demo_page.write_page(rows, tmp_path, sheets=tmp_path).read_text(encoding="utf-8")
    named = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(named) == 2 and all((tmp_path / name).stat().st_size > 0 for name in named)
    assert json.loads((tmp_path / "demo_world.json").read_text())["claims"]
