"""The weight-free measure of motion on clips whose motion is known, and on those that only change."""

from __future__ import annotations

import numpy as np
import pytest

from customcrafter_core.demo import world
from customcrafter_core.errors import InputError
from customcrafter_core.evaluation.motion import motion_travel

RNG = np.random.default_rng(0)


def clip(motion: str, shape: str = "square", colour: str = "red", side: int = 32) -> tuple[np.ndarray, float]:
    """A drawn clip, values 0 … 1, and how far its object travels."""
    start, end = world.place(np.random.default_rng(7), motion, 0.2)
    scene = world.Scene(world.Look(shape, "plain", (colour, colour)), "gray", motion, 0.2, start, end, "")
    return world.render_scene(scene, side=side) / 255, float(np.hypot(end[0] - start[0], end[1] - start[1]))


def frame_difference(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames, axis=0)).mean())


def flickering() -> dict[str, np.ndarray]:
    """Clips in which nothing moves and much changes."""
    still, _ = clip("still")
    looks = [world.Look("square", "plain", (colour, colour)) for colour in world.TOY_COLOURS]
    scenes = [world.Scene(look, "gray", "still", 0.2, (0.5, 0.5), (0.5, 0.5), "") for look in looks]
    switched = still.copy()
    switched[::2] = still[0, 0, 0]
    return {
        "brightness": (still * RNG.uniform(0.6, 1.2, (8, 1, 1, 1))).clip(0, 1),
        "noise on it": (still + RNG.normal(0, 0.1, still.shape)).clip(0, 1),
        "noise alone": RNG.random(still.shape),
        "other colours": np.stack([world.render_scene(scene, 1)[0] / 255 for scene in scenes]),
        "on and off": switched,
    }


@pytest.mark.parametrize("motion", [name for name in world.MOTIONS if name != "still"])
@pytest.mark.parametrize("shape", ["square", "star"])
@pytest.mark.parametrize("side", [32, 100])
def test_travel_is_what_was_drawn(motion: str, shape: str, side: int) -> None:
    frames, drawn = clip(motion, shape, side=side)
    assert motion_travel(frames) == pytest.approx(drawn, rel=0.1)


def test_half_the_way_is_half_the_travel() -> None:
    frames, drawn = clip("left")
    half = frames[: len(frames) // 2 + 1]
    assert motion_travel(half) == pytest.approx(drawn * 4 / 7, rel=0.15)


def test_what_only_flickers_does_not_travel_though_it_differs_more_than_what_moves() -> None:
    moving, drawn = clip("right")
    for name, frames in flickering().items():
        assert motion_travel(frames) < 0.02 * drawn, name
    assert max(frame_difference(frames) for frames in flickering().values()) > 5 * frame_difference(moving)
    assert motion_travel(clip("still")[0]) == 0


def test_a_moving_clip_keeps_its_travel_under_flicker_and_noise() -> None:
    moving, drawn = clip("up")
    flickers = (moving * RNG.uniform(0.8, 1.1, (8, 1, 1, 1))).clip(0, 1)
    noisy = (moving + RNG.normal(0, 0.05, moving.shape)).clip(0, 1)
    assert motion_travel(flickers) == pytest.approx(drawn, rel=0.15)
    assert motion_travel(noisy) == pytest.approx(drawn, rel=0.15)


def test_shuffled_and_trembling_clips_travel_less() -> None:
    moving, drawn = clip("down")
    assert motion_travel(moving[[3, 0, 6, 2, 7, 1, 5, 4]]) < 0.8 * drawn
    tremble = np.stack([np.roll(clip("still")[0][0], shift, axis=1) for shift in (0, 2) * 4])
    assert motion_travel(tremble) < 0.2 * drawn


def test_the_camera_counts() -> None:
    picture = RNG.random((16, 40, 3)).repeat(4, 0).repeat(4, 1)
    pan = np.stack([picture[:, 3 * i : 3 * i + 96] for i in range(8)])
    assert motion_travel(pan) == pytest.approx(3 * 7 / 64, rel=0.1)


def test_what_is_no_video_is_refused() -> None:
    for frames in (np.zeros((1, 32, 32, 3)), np.zeros((32, 32, 3)), np.zeros((8, 8, 8, 4))):
        with pytest.raises(InputError):
            motion_travel(frames)
