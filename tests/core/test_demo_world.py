"""The demo world and its measures: deterministic, right on what is known, wrong on what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import demo_base_clips, demo_gate
from benchmarks import demo_measures as measures
from customcrafter_core.demo import (
    base,
    clips,
    codec,
    demo_checkpoint,
    demo_subject,
    train_base,
    workers,
    world,
)
from customcrafter_core.demo.attention import SharedTextAttention
from customcrafter_core.demo.run import load_demo_base
from customcrafter_core.errors import InputError

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def scenes(count: int, seed: int = 0) -> list[world.Scene]:
    rng = np.random.default_rng(seed)
    return [world.sample_scene(rng) for _ in range(count)]


def with_motion(scene: world.Scene, motion: str, seed: int = 0) -> world.Scene:
    """The same object and background with another motion; the caption is not changed."""
    start, end = world.place(np.random.default_rng([seed, 11]), motion, scene.radius)
    return replace(scene, motion=motion, start=start, end=end)


def held_out_scene(name: str, motion: str = "left", radius: float = 0.22) -> world.Scene:
    still = world.Scene(world.HELD_OUT[name], "white", "still", radius, (0.5, 0.5), (0.5, 0.5), "")
    return with_motion(still, motion)


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
    rng = np.random.default_rng(0)
    for scene in (world.sample_scene(rng, toy_share=0.5, thing_share=0.3) for _ in range(500)):
        assert f"on a {scene.background} background" in scene.caption
        assert ("standing still" if scene.motion == "still" else f"moving {scene.motion}") in scene.caption
        assert scene.caption.endswith(f"beside a {scene.thing}" if scene.thing else "background")
        if world.CLASS_WORD not in scene.caption:
            assert f"{world.full_name(scene.look)} " in scene.caption
    assert 0.1 < np.mean([world.CLASS_WORD in s.caption for s in scenes(1000)]) < 0.2


def test_words_of_a_full_name_mean_one_look() -> None:
    rng = np.random.default_rng(0)
    looks = {world.sample_look(rng) for _ in range(5000)}
    bags = {frozenset(world.full_name(look).split()) for look in looks}
    assert len(bags) == len(looks)


def test_two_objects_do_not_meet() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = world.sample_scene(rng, toy_share=0.5, thing_share=1.0)
        assert world.THINGS[scene.thing].colours[0] not in scene.look.colours
        first = np.linspace(scene.start, scene.end, world.FRAMES)
        apart = np.abs(first - scene.thing_at).max(1)
        assert apart.min() > scene.radius + world.THING_RADIUS - 0.02
        assert min(scene.thing_at) >= world.THING_RADIUS and max(scene.thing_at) <= 1 - world.THING_RADIUS


def test_held_out_subjects_are_never_in_training() -> None:
    pairs = {(look.shape, look.pattern) for look in world.HELD_OUT.values() if look.pattern != "plain"}
    rng = np.random.default_rng(0)
    seen = {world.sample_look(rng) for _ in range(5000)}
    assert not seen & set(world.HELD_OUT.values())
    seen_pairs = {(look.shape, look.pattern) for look in seen}
    assert not seen_pairs & pairs
    assert len(seen_pairs) == len(world.TOY_SHAPES) * len(world.PATTERNS) - len(pairs)


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
    scene = held_out_scene("diamond-yellow-purple", motion)
    expected = np.array(scene.end) - np.array(scene.start)
    assert measures.travel(world.render_scene(scene)) == pytest.approx(expected, abs=0.02)
    assert measures.direction(world.render_scene(scene)) == motion


def test_an_empty_or_flickering_clip_has_no_direction() -> None:
    empty = np.full((8, 32, 32, 3), 238, np.uint8)
    assert measures.direction(empty) is None and measures.object_colour(empty) is None
    assert measures.subject_similarity(empty, world.HELD_OUT["diamond-yellow-purple"]) == -1
    jumping = world.render_scene(held_out_scene("diamond-yellow-purple", "left"))[[0, 7, 7, 0, 0, 7, 7, 0]]
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
    assert own > 0.5 and max(others) < -0.3


def test_second_object_is_seen_and_taken_out() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        scene = world.sample_scene(rng, toy_share=0.5, thing_share=1.0)
        with_thing, alone = world.render_scene(scene), world.render_scene(replace(scene, thing=""))
        assert measures.thing_mask(with_thing, scene.thing).any()
        assert not measures.thing_mask(alone, scene.thing).any()
        assert np.array_equal(measures.without_thing(alone, scene.thing), alone)
        assert measures.direction(measures.without_thing(with_thing, scene.thing)) == scene.motion


def test_flicker_tells_one_look_from_many() -> None:
    rng = np.random.default_rng(4)
    for i in range(20):
        scene = with_motion(world.sample_scene(rng, toy_share=1.0), ["left", "up", "right", "down"][i % 4], i)
        assert measures.flicker(world.render_scene(scene)) < 10
        looks = [world.sample_look(rng) for _ in range(world.FRAMES)]
        mixed = [world.render_scene(replace(scene, look=look))[frame] for frame, look in enumerate(looks)]
        assert measures.flicker(np.stack(mixed)) > 50


@pytest.mark.slow
def test_gate_passes_a_perfect_model_and_fails_others() -> None:
    asked = [*demo_gate.gate_scenes(20, 1000), *demo_gate.composed_scenes(6, 1000), *demo_gate.toy_scenes(6, 1000)]
    by_caption = {scene.caption: scene for scene in asked}

    def drawn(change: Callable[[world.Scene], world.Scene]) -> demo_gate.Gate:
        return demo_gate.evaluate_gate(
            lambda captions, seed: np.stack([world.render_scene(change(by_caption[c])) for c in captions]), count=20
        )[0]

    perfect = drawn(lambda scene: scene)
    assert perfect.passed and perfect.direction == perfect.still == perfect.shape == perfect.composition == 1
    assert perfect.look == 1 and perfect.flicker < 10 and perfect.composed_motion == 1
    frozen = drawn(lambda scene: with_motion(scene, "still") if not scene.thing else scene)
    assert not frozen.passed and frozen.direction == 0 and frozen.colour == 1
    alone = drawn(lambda scene: replace(scene, thing=""))
    assert not alone.passed and alone.composition == 0 and alone.direction == 1
    plain = drawn(lambda scene: replace(scene, look=replace(scene.look, pattern="plain")))
    assert plain.look == 0


@torch.no_grad()
def test_attention_of_training_is_the_usual_one() -> None:
    unet = base.grow(base.build_demo_unet()).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        if ".proj_out." in name:
            parameter.normal_(0, 0.05, generator=generator)
    noise = torch.randn(2, 4, 8, 8, 8, generator=generator)
    text = torch.randn(2, 77, 64, generator=generator)

    def predicted() -> torch.Tensor:
        return unet(noise, torch.tensor([980, 500]), text, timestep_cond=torch.tensor([8, 8])).sample

    usual = predicted()
    unet.set_attn_processor(SharedTextAttention())
    assert torch.allclose(predicted(), usual, atol=1e-5)


def test_switched_prompts_take_over_at_their_step() -> None:
    model = load_demo_base()
    left, right = (["a red circle moving " + way + " on a white background"] for way in ("left", "right"))
    settings = {"seed": 0, "steps": 4}
    first = demo_base_clips.sample_switched(model, left, right, 4, **settings)
    second = demo_base_clips.sample_switched(model, left, right, 0, **settings)
    assert np.array_equal(first, demo_base_clips.sample_switched(model, left, left, 2, **settings))
    assert np.array_equal(second, demo_base_clips.sample_switched(model, right, right, 2, **settings))
    between = demo_base_clips.sample_switched(model, left, right, 2, **settings)
    assert not np.array_equal(between, first) and not np.array_equal(between, second)


def test_training_starts_as_the_identity() -> None:
    """An untrained UNet returns its input, so that the clean latent's error is not multiplied 20 times at the start."""
    unet = base.build_demo_unet().eval()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4, 8, 8, 8, generator=generator)
    text = torch.randn(2, 77, 64, generator=generator)
    with torch.no_grad():
        predicted = unet(noise, torch.tensor([980, 500]), text, timestep_cond=torch.tensor([8, 8])).sample
    assert float(((predicted - noise) ** 2).mean()) < 1e-3


def test_normalising_latents_keeps_the_pictures() -> None:
    autoencoder = base.build_demo_codec().eval()
    pictures = codec.to_tensor(codec.random_pictures(np.random.default_rng(0), 4))
    with torch.no_grad():
        before = autoencoder.decode(autoencoder.encode(pictures).latent_dist.mean).sample
        codec.normalise_latents(autoencoder, count=64)
        latents = autoencoder.encode(pictures).latent_dist.mean
        after = autoencoder.decode(latents).sample
    assert torch.allclose(before, after, atol=1e-3)
    clip = torch.cat([codec.encode_clip(autoencoder, world.render_scene(scene)) for scene in scenes(32)], dim=1)
    assert float(clip.std()) == pytest.approx(codec.DIFFUSION_STD, rel=0.3)


def test_resumed_training_is_the_same_training(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    autoencoder = base.build_demo_codec()
    workers.save_state(tmp_path / "whole/codec.safetensors", dict(autoencoder.state_dict()), {})
    clips.build_clips(
        tmp_path / "whole", count=32, toy_share=0.5, seed=0, workers=1, device="cpu", report=lambda line: None
    )
    for file in (tmp_path / "whole").iterdir():
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())

    def train(name: str) -> dict[str, torch.Tensor]:
        settings = train_base.UNetSettings(str(tmp_path / name), steps=2, batch=1, save_every=1, probe_every=0)
        return workers.load_state(train_base.train_unet(settings, workers=1, report=lambda line: None))[0]

    def save_and_stop(*args) -> None:
        workers.save_state(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_base, "save_state", save_and_stop)
        train("broken")
    whole, resumed = train("whole"), train("broken")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.slow
def test_a_checkpoint_can_be_trained_on(tmp_path) -> None:
    state = train_base.train_base(
        tmp_path, start=str(demo_checkpoint()), workers=1, clips=8, fine_steps=1, batch=1, report=lambda line: None
    )
    trained, step = train_base.load_trained_unet(state)
    assert step == 1
    shipped = load_demo_base()
    assert trained.state_dict().keys() == shipped.unet.state_dict().keys()
    before = train_base.load_trained_unet(tmp_path / "unet_state.safetensors")[0].state_dict()
    assert all(torch.equal(value, before[key]) for key, value in shipped.unet.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    with pytest.raises(InputError):
        train_base.train_base(tmp_path / "other", start=str(demo_subject()))
