"""The demo world and its measures: deterministic, right on what is known, wrong on what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from customcrafter_core.demo import measures, world

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def scenes(count: int, seed: int = 0) -> list[world.Scene]:
    rng = np.random.default_rng(seed)
    return [world.sample_scene(rng) for _ in range(count)]


def held_out_scene(name: str, motion: str = "left", radius: float = 0.22) -> world.Scene:
    still = world.Scene(world.HELD_OUT[name], "white", "still", radius, (0.5, 0.5), (0.5, 0.5), "")
    return world.with_motion(still, motion)


def test_same_seed_gives_the_same_clips() -> None:
    first, again = scenes(20), scenes(20)
    assert first == again
    assert all(
        np.array_equal(world.render_scene(a), world.render_scene(b)) for a, b in zip(first[:4], again[:4], strict=True)
    )
    assert scenes(20, seed=1) != first


def test_clips_have_the_stated_form_and_stay_inside_the_frame() -> None:
    for scene in scenes(300):
        for x, y in (scene.start, scene.end):
            assert scene.radius <= min(x, y) and max(x, y) <= 1 - scene.radius
    clip = world.render_scene(scenes(1)[0])
    assert clip.shape == (8, 32, 32, 3) and clip.dtype == np.uint8
    assert world.render_scene(scenes(1)[0], frames=16, side=64).shape == (16, 64, 64, 3)


def test_captions_say_what_is_shown() -> None:
    for scene in scenes(300):
        assert f"on a {scene.background} background" in scene.caption
        assert ("standing still" if scene.motion == "still" else f"moving {scene.motion}") in scene.caption
        if world.CLASS_WORD not in scene.caption:
            assert f"{scene.look.colours[0]} {scene.look.shape}" in scene.caption
    assert 0.25 < np.mean([world.CLASS_WORD in s.caption for s in scenes(1000)]) < 0.35


def test_held_out_subjects_are_never_in_training() -> None:
    held_out = {(look.shape, look.pattern) for look in world.HELD_OUT.values()}
    rng = np.random.default_rng(0)
    seen = {(look.shape, look.pattern) for look in (world.sample_look(rng) for _ in range(5000))}
    assert not seen & held_out
    assert len(seen) == len(world.TOY_SHAPES) * len(world.PATTERNS) - len(held_out)


@pytest.mark.parametrize("name", world.HELD_OUT)
def test_photos_differ_in_place_size_and_background(name: str) -> None:
    shown = world.subject_scenes(world.HELD_OUT[name], 5)
    assert len({s.start for s in shown}) == len({s.radius for s in shown}) == 5
    assert {s.background for s in shown} == set(world.BACKGROUNDS)
    photos = world.subject_photos(name, 5)
    assert [p.shape for p in photos] == [(32, 32, 3)] * 5
    assert np.array_equal(photos[0], world.subject_photos(name, 5)[0])


def test_motion_weights_are_followed() -> None:
    rng = np.random.default_rng(0)
    assert {world.sample_scene(rng, motion_weights={"up": 1.0}).motion for _ in range(50)} == {"up"}


def test_measures_are_right_on_ground_truth() -> None:
    answers = [scene for _, scene in world.gate_prompts()]
    for scene in answers[::7]:
        assert measures.judge(world.render_scene(scene), scene) == measures.Verdict(True, True, True, True), scene


def test_measures_are_wrong_on_the_wrong_clip() -> None:
    scene = world.Scene(world.Look("square", "plain", ("red", "red")), "gray", "left", 0.2, (0.7, 0.5), (0.3, 0.5), "")
    wrong = {
        "colour": replace(scene, look=world.Look("square", "plain", ("blue", "blue"))),
        "background": replace(scene, background="black"),
        "motion": replace(scene, start=scene.end, end=scene.start, motion="right"),
        "shape": replace(scene, look=world.Look("triangle", "plain", ("red", "red"))),
    }
    for measure, other in wrong.items():
        verdict = measures.judge(world.render_scene(other), scene)
        assert [name for name, right in vars(verdict).items() if not right] == [measure]


@pytest.mark.parametrize("motion", world.MOTIONS)
def test_travel_is_the_true_one(motion: str) -> None:
    scene = held_out_scene("circle-blue-yellow", motion)
    expected = np.array(scene.end) - np.array(scene.start)
    assert measures.travel(world.render_scene(scene)) == pytest.approx(expected, abs=0.02)
    assert measures.direction(world.render_scene(scene)) == motion


def test_an_empty_or_flickering_clip_has_no_direction() -> None:
    empty = np.full((8, 32, 32, 3), 238, np.uint8)
    assert measures.direction(empty) is None and measures.object_colour(empty) is None
    assert measures.subject_similarity(empty, world.HELD_OUT["circle-blue-yellow"]) == -1
    jumping = world.render_scene(held_out_scene("circle-blue-yellow", "left"))[[0, 7, 7, 0, 0, 7, 7, 0]]
    assert measures.direction(jumping) is None


@pytest.mark.parametrize("name", world.HELD_OUT)
def test_similarity_tells_a_subject_from_its_decoys(name: str) -> None:
    look = world.HELD_OUT[name]
    scene = held_out_scene(name)
    own = measures.subject_similarity(world.render_scene(scene), look)
    others = [
        measures.subject_similarity(world.render_scene(replace(scene, look=decoy)), look)
        for decoy in measures.decoys(look)
    ]
    assert own > 0.3 and max(others) < 0.0


def test_gate_passes_a_perfect_model_and_fails_a_frozen_one() -> None:
    by_caption = dict(world.gate_prompts())
    gate, clips, _ = measures.evaluate_gate(
        lambda c, seed: np.stack([world.render_scene(by_caption[x]) for x in c]), count=20
    )
    assert gate.passed and gate.direction == gate.still == gate.shape == 1 and clips.shape == (20, 8, 32, 32, 3)
    frozen, _, _ = measures.evaluate_gate(
        lambda c, seed: np.stack([world.render_scene(world.with_motion(by_caption[x], "still")) for x in c]), count=20
    )
    assert not frozen.passed and frozen.direction == 0 and frozen.colour == 1
