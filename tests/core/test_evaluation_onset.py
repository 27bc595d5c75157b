"""Motion Onset: its parts on clips that are known, its run against an ordinary one, its answer on the demo base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.demo import run, world
from customcrafter_core.diffusion.ddim import Prediction, level_of
from customcrafter_core.diffusion.guidance import GuidedUNet
from customcrafter_core.errors import InputError
from customcrafter_core.experiments.motion_onset import (
    MotionOnset,
    detail_part,
    fixed_detail,
    fixed_motion,
    motion_onset,
    motion_part,
    suggest_k,
)
from customcrafter_core.sampling.generation import SampledStep, generate
from customcrafter_core.sampling.settings import VideoSettings
from tests.core import tiny_models

SETTINGS = VideoSettings("a dog is running", frames=3, steps=4, width=48, height=48, cfg=3.0, seed=5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter2:
    path = tiny_models.write(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", tiny_models.state_dict())
    return load_videocrafter2(path)


def clip(motion: str, colours: tuple[str, str] = ("red", "yellow"), pattern: str = "stripes") -> np.ndarray:
    start, end = world.place(np.random.default_rng(7), motion, 0.2)
    look = world.Look("square", pattern, colours)
    return world.render_scene(world.Scene(look, "gray", motion, 0.2, start, end, "")) / 255


def shares(predicted: np.ndarray, final: np.ndarray) -> tuple[float, float]:
    return (
        fixed_motion(motion_part(predicted), motion_part(final)),
        fixed_detail(detail_part(predicted), detail_part(final)),
    )


def blurred(frames: np.ndarray) -> np.ndarray:
    cells = frames.reshape(8, 8, 4, 8, 4, 3).mean((2, 4))
    return cells.repeat(4, 1).repeat(4, 2)


def test_motion_and_detail_are_told_apart() -> None:
    final = clip("left")
    assert shares(final, final) == pytest.approx((1, 1))
    motion, detail = shares(blurred(final), final)
    assert motion > 0.999 and detail < 0.3  # only the layout is there
    motion, detail = shares(clip("right"), final)
    assert motion < 0.1 and detail < 0.2  # the way is wrong
    motion, _ = shares(final[:1].repeat(8, axis=0), final)
    assert motion == 0  # the picture is right and stands still
    motion, _ = shares(clip("left", ("blue", "blue")), clip("left", ("red", "red")))
    assert motion > 0.9  # the way is right, the colours are not
    motion, _ = shares(0.5 + 0.2 * (final - 0.5), final)
    assert motion > 0.999  # faint, as early predictions are


def test_parts_add_up_and_the_motion_of_a_still_video_is_nothing() -> None:
    frames = clip("up")
    assert motion_part(frames).abs().max() > 0.1 and motion_part(frames).shape == (8, 8, 8)
    assert motion_part(clip("still")).abs().max() < 1e-12
    assert detail_part(np.full((2, 16, 24, 3), 0.3)).abs().max() < 1e-12


def test_k_is_where_a_step_fixes_less_of_the_motion_than_its_share() -> None:
    assert suggest_k([0.0, 0.1, 0.5, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 1.0]) == 4
    assert suggest_k([0.2, 0.5, 0.7, 0.77, 0.84, 0.91, 0.92, 0.93, 0.94, 0.95]) == 3  # 0.2 a step, then 0.07
    assert suggest_k([1.0] * 10) == 1


def test_the_video_is_that_of_an_ordinary_run(tiny: VideoCrafter2) -> None:
    seen: list[SampledStep] = []
    onset = motion_onset(tiny, SETTINGS, on_step=seen.append)
    ordinary: list[SampledStep] = []
    plain = generate(tiny, SETTINGS, on_step=ordinary.append)
    assert torch.equal(onset.frames, tiny.decode(plain.latent)[0])
    assert [step.timestep for step in seen] == [step.timestep for step in ordinary]
    assert all(torch.equal(a.x0, b.x0) for a, b in zip(seen, ordinary, strict=True))
    assert len(onset.motion) == len(onset.detail) == 4
    assert all(0 <= value <= 1 for value in (*onset.motion, *onset.detail))
    no_guidance = motion_onset(tiny, replace(SETTINGS, cfg=1.0, exact_tail=True))
    # both predictions are needed, the video follows the one with the prompt (rounding aside)
    alone = tiny.decode(generate(tiny, replace(SETTINGS, cfg=1.0, exact_tail=True)).latent)[0]
    assert (no_guidance.frames - alone).abs().max() < 1e-4


def test_row_k_is_what_the_latent_holds_after_k_steps(tiny: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after one less, of which the first would be pure noise."""
    seen: list[tuple[torch.Tensor, int, torch.Tensor]] = []
    predict = GuidedUNet.__call__

    def watched(unet: GuidedUNet, x: torch.Tensor, timestep: int, *, both: bool = False) -> Prediction:
        prediction = predict(unet, x, timestep, both=both)
        assert prediction.uncond is not None
        seen.append((x, timestep, prediction.uncond))
        return prediction

    monkeypatch.setattr(GuidedUNet, "__call__", watched)
    onset = motion_onset(tiny, SETTINGS)
    assert len(seen) == len(onset.motion) == 4
    for done, (x, timestep, uncond) in enumerate(seen):
        if done:
            held = tiny.decode(level_of(tiny.schedule, timestep).clean(x, uncond))[0].numpy()
            assert (onset.motion[done - 1], onset.detail[done - 1]) == pytest.approx(shares(held, onset.frames.numpy()))
    assert (onset.motion[-1], onset.detail[-1]) == pytest.approx((1, 1))
    only = motion_onset(tiny, replace(SETTINGS, steps=1))
    assert only.motion == pytest.approx([1]) and only.detail == pytest.approx([1])


def test_a_batch_a_single_frame_and_a_wrong_eta_are_refused(tiny: VideoCrafter2) -> None:
    for wrong, said in (({"batch": 2}, "batch of 1"), ({"frames": 1}, "two frames"), ({"eta": 2.0}, "eta")):
        with pytest.raises(InputError, match=said):
            motion_onset(tiny, replace(SETTINGS, **wrong))


def test_a_video_that_stands_still_has_no_k() -> None:
    still = MotionOnset([0.8, 1.0], [0.5, 1.0], torch.from_numpy(clip("still")), SETTINGS)
    assert still.suggested_k is None
    moving = replace(still, frames=torch.from_numpy(clip("left")))
    assert moving.suggested_k == 1
    assert still.picture().size == moving.picture().size
    assert np.asarray(still.picture()).tolist() != np.asarray(moving.picture()).tolist()


def test_on_the_demo_base_motion_is_fixed_long_before_detail(tmp_path: Path) -> None:
    model = run.load_demo_base()
    prompt = world.caption_for("blue square", "right", "gray")
    onset = motion_onset(model, VideoSettings(prompt, seed=3, exact_tail=True))
    assert onset.motion[0] < 0.3  # the prediction without the prompt does not know it yet
    k = onset.suggested_k
    assert k is not None and 5 <= k <= 20
    assert onset.motion[k - 1] > 0.6 and onset.motion[k - 1] > onset.detail[k - 1] + 0.2
    assert onset.table()[k - 1] == {"steps": k, "motion": onset.motion[k - 1], "detail": onset.detail[k - 1]}
    onset.picture().save(tmp_path / "onset.png")
