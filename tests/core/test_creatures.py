"""The world of creatures: what a clip shows, what words say of it, what the measures see, and its exact autoencoder."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from customcrafter_core.demo import creature_measures as measures
from customcrafter_core.demo import creatures as world
from customcrafter_core.demo import mosaic
from customcrafter_core.diffusion.schedule import NoiseSchedule


def scenes(count: int, seed: int = 0, **options: float) -> list[world.Scene]:
    rng = np.random.default_rng(seed)
    return [world.sample_scene(rng, **options) for _ in range(count)]


def moving_scenes(count: int, seed: int = 0) -> list[world.Scene]:
    return [scene for scene in scenes(2 * count, seed) if scene.motion != "still"][:count]


def test_same_seed_gives_the_same_clips() -> None:
    assert scenes(20) == scenes(20) != scenes(20, seed=1)
    assert all(
        np.array_equal(world.render_scene(a), world.render_scene(b)) for a, b in zip(scenes(4), scenes(4), strict=True)
    )


def test_a_creature_moves_by_exactly_one_cell_a_frame() -> None:
    for scene in moving_scenes(40):
        clip, (dx, dy) = world.render_scene(scene).astype(int), world.MOTIONS[scene.motion]
        background = clip[0, 0, 0] if (clip[0, 0, 0] == clip[0, -1, -1]).all() else clip[0, 0, -1]
        shown = (clip != background).any(-1)
        assert len(set(shown.sum((1, 2)))) == 1, "cut off by the frame's edge"
        for before, after in itertools.pairwise(clip):
            assert np.array_equal(np.roll(before, (world.CELL * dy, world.CELL * dx), (0, 1)), after)


def test_marks_are_mirrored_and_a_little_off_the_class_colour() -> None:
    for scene in scenes(40):
        (x, y), kind = scene.start, world.KINDS[scene.look.kind]
        grid = world.render_cells(scene, 1)[0, y : y + world.GRID, x : x + world.GRID]
        assert np.array_equal(kind.inside, kind.inside[:, ::-1])
        assert np.array_equal(grid, grid[:, ::-1])
        offset = grid[kind.inside] - np.array(kind.colour, np.float32)
        assert np.allclose(np.abs(offset), world.CONTRAST)
        assert np.allclose(offset, offset[:, :1]), "a mark has no colour of its own"


def test_outlines_leave_more_than_twenty_free_marks() -> None:
    for kind in world.KINDS.values():
        assert kind.inside[:, : world.HALF[1]].sum() >= 22


def test_marks_are_as_many_light_as_dark_and_mostly_new() -> None:
    drawn = scenes(1000, named_share=0.4)
    assert all((scene.look.marks).bit_count() == 14 for scene in drawn)
    named = [scene for scene in drawn if scene.name]
    assert 350 < len(named) < 450
    assert all(world.named_marks()[scene.name] == scene.look.marks for scene in named)
    assert len({scene.look.marks for scene in drawn if not scene.name}) == 1000 - len(named)


def test_no_word_says_a_held_out_subject() -> None:
    subjects = world.held_out()
    for name, look in subjects.items():
        others = [world.Look(look.kind, marks) for marks in world.named_marks().values()]
        others += [world.Look(look.kind, other.marks) for key, other in subjects.items() if key != name]
        assert max(abs(world.likeness(look, other)) for other in others) < 0.5
        assert world.likeness(look, look) == pytest.approx(1)
        assert all(name not in caption for caption in (scene.caption for scene in scenes(50)))


def test_captions() -> None:
    look = world.Look("crab", world.named_marks()["tiger"])
    scene = world.Scene(look, "white", "left", (9, 3), "tiger")
    assert scene.caption == "a tiger crab moving left on a white background"
    assert replace(scene, name="owl", motion="still").caption == "an owl crab standing still on a white background"
    assert world.caption_for("crab") == "a crab"


@pytest.mark.parametrize("noise", [world.CaptionNoise(), world.TRUE_CAPTIONS])
def test_captions_are_as_careless_as_stated(noise: world.CaptionNoise) -> None:
    rng, count = np.random.default_rng(5), 4000
    found: Counter[str] = Counter()
    for _ in range(count):
        scene = world.sample_scene(rng, named_share=1.0)
        caption = world.noisy_caption(rng, scene, noise)
        if not caption:
            found["empty"] += 1
            continue
        words = caption.split()
        said = next((m for m in world.MOTIONS if m in words), "")
        found["no_motion"] += not said
        found["wrong_motion"] += bool(said) and said != scene.motion
        found["no_background"] += scene.background not in words
        found["no_name"] += scene.name not in words
        assert scene.look.kind in words
    assert found["empty"] / count == pytest.approx(noise.empty, abs=0.02)
    for part in ("no_motion", "wrong_motion", "no_background", "no_name"):
        assert found[part] / (count - found["empty"]) == pytest.approx(getattr(noise, part), abs=0.03)
        assert found[part] or not getattr(noise, part)


def test_the_first_places_are_near_the_middle() -> None:
    rng = np.random.default_rng(0)
    assert {world.place(rng, "still", spread=0.1) for _ in range(50)} == {(4, 4)}
    all_places = {world.place(rng, "left") for _ in range(500)}
    assert len(all_places) == world.ALONG * world.ACROSS
    assert min(x for x, _ in all_places) - (world.FRAMES - 1) == 0


def test_motion_has_far_more_energy_than_one_mark() -> None:
    """What decides the order in which a sampler settles them (benchmarks/exact_world)."""
    motion, part = [], []
    for scene in moving_scenes(32):
        clip = latents(scene)
        back = replace(scene, motion=world.OPPOSITE[scene.motion], start=scene.places()[-1])
        motion.append(float(((clip - latents(back)) ** 2).sum()))
        inside = world.KINDS[scene.look.kind].inside[:, : world.HALF[1]].flatten()
        flipped = [scene.look.marks ^ (1 << bit) for bit in np.flatnonzero(inside)]
        changed = [latents(replace(scene, look=replace(scene.look, marks=marks))) for marks in flipped]
        part.append(float(np.mean([((clip - other) ** 2).sum() for other in changed])))
    assert np.mean(motion) / np.mean(part) >= 60
    schedule = NoiseSchedule.videocrafter2()
    separation = np.mean(motion) ** 0.5 * (schedule.signal / schedule.noise)
    assert 2.5 <= separation[881] <= 4 and 6 <= separation[681] <= 9


def latents(scene: world.Scene) -> torch.Tensor:
    return mosaic.cells_to_latents(torch.from_numpy(world.render_cells(scene))[None])[0]


@pytest.mark.parametrize("half", [False, True])
def test_the_autoencoder_is_exact(half: bool) -> None:
    codec = mosaic.build_mosaic_codec()
    if half:  # as the checkpoint holds it
        codec = codec.half().float()
    clip = world.render_scene(moving_scenes(1)[0])
    pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 127.5 - 1
    encoded = codec.encode(pixels).latent_dist
    cells = torch.from_numpy(world.render_cells(moving_scenes(1)[0]))
    wanted = mosaic.cells_to_latents(cells[None])[0].transpose(0, 1)
    assert torch.allclose(encoded.mean * mosaic.LATENT_FACTOR, wanted, atol=0.01)
    assert encoded.std.max() * mosaic.LATENT_FACTOR < 1e-5
    assert ((codec.decode(encoded.mean).sample - pixels).abs().max() * 127.5) < 1
    assert torch.allclose(mosaic.latents_to_cells(wanted.transpose(0, 1)[None])[0], cells, atol=1e-6)


def test_measures_see_what_was_drawn() -> None:
    rng = np.random.default_rng(3)
    for scene in scenes(60):
        clip = (world.render_scene(scene) + rng.normal(0, 12, (8, 64, 64, 3))).clip(0, 255).astype(np.uint8)
        assert measures.background_of(clip) == scene.background
        seen = measures.find_creature(clip, scene.background)
        assert seen.present and seen.kind == scene.look.kind
        assert np.array_equal(seen.places, scene.places())
        assert [m for m in world.MOTIONS if measures.moves(seen, m)] == [scene.motion]
        other = world.Look(scene.look.kind, world.sample_marks(rng))
        right, wrong = measures.likeness(clip, seen, [scene.look, other])
        assert right > 0.98 and wrong < 0.7
        assert measures.recognised(clip, seen, scene.look) and not measures.recognised(clip, seen, other)
        assert measures.sameness(clip, seen) > 0.95


def test_measures_see_what_is_not_there() -> None:
    scene = moving_scenes(1)[0]
    empty = np.full((8, 64, 64, 3), 240, np.uint8)
    assert not measures.find_creature(empty, "white").present
    seen = measures.Sighting(scene.look.kind, np.array(scene.places()), np.ones(8))
    assert measures.likeness(empty, seen, [scene.look])[0] == 0
    frozen = world.render_scene(replace(scene, motion="still"))
    assert not measures.moves(measures.find_creature(frozen, scene.background), scene.motion)
    back = world.render_scene(scene)[::-1]
    turned = measures.find_creature(back, scene.background)
    assert measures.motion_share(turned, scene.motion) == pytest.approx(-1)
    new_marks = np.concatenate(
        [
            world.render_scene(replace(scene, look=replace(scene.look, marks=marks)))[i : i + 1]
            for i, marks in enumerate(s.look.marks for s in scenes(8, named_share=0.0))
        ]
    )
    assert measures.sameness(new_marks, measures.find_creature(new_marks, scene.background)) < 0.5


def test_photos_stand_still_on_two_backgrounds_at_different_places() -> None:
    for look in world.held_out().values():
        photos = world.subject_scenes(look)
        assert len(photos) == 5 and {photo.motion for photo in photos} == {"still"}
        assert {photo.background for photo in photos} == {"white", "black"}
        assert len({photo.start for photo in photos}) >= 4
        assert photos == world.subject_scenes(look) != world.subject_scenes(look, seed=1)
