"""The shipped demo model, and the demo from start to end as a user runs it."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from benchmarks import demo_measures as measures
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.cli.main import main
from customcrafter_core.demo import demo_checkpoint, demo_subject, run, world
from customcrafter_core.diffusion.strength import Constant
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject
from customcrafter_core.subject.subject import check_fits

ASSETS = demo_checkpoint().parent


@pytest.fixture(scope="module")
def base() -> VideoCrafter2:
    return run.load_demo_base()


def frames_of(path: Path) -> np.ndarray:
    """A video's frames ``(f, h, w, 3)`` at the world's size."""
    with av.open(str(path)) as video:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    cell = frames.shape[1] // world.SIDE
    return frames[:, cell // 2 :: cell, cell // 2 :: cell]


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.safetensors")), ids=lambda path: path.name)
def test_shipped_files_are_usable_and_small(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path)]) == 0
    assert path.stat().st_size <= 16e6


def test_shipped_subject_fits_the_shipped_base(base: VideoCrafter2) -> None:
    subject = load_subject(demo_subject())
    check_fits(subject, base)
    assert subject.recommended == run.DYNAMIC
    assert subject.trigger == f"<new1> {world.CLASS_WORD}"


@pytest.mark.parametrize("motion", world.MOTIONS)
def test_base_follows_the_prompt(base: VideoCrafter2, motion: str) -> None:
    prompt = world.caption_for("red circle", motion, "white")
    result = generate(base, VideoSettings(prompt=prompt, seed=1, exact_tail=True))
    clip = (base.decode(result.latent)[0] * 255).byte().numpy()
    assert measures.direction(clip) == motion
    assert measures.object_colour(clip) == "red"
    assert measures.background_name(clip) == "white"


def test_prior_pictures_and_photos_are_of_the_class() -> None:
    assert len(run.demo_photos()) == 5
    assert len(run.demo_prior()) == run.PRIOR_IMAGES
    assert all(photo.caption.count("{}") == 1 for photo in [*run.demo_photos(), *run.demo_prior()])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the real command made, trained subject included, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("demo"), io.StringIO()
    with redirect_stdout(printed):
        assert main(["demo", "run", "--out", str(folder)]) == 0
    return folder, printed.getvalue()


def test_the_demo_from_start_to_end(finished: tuple[Path, str]) -> None:
    """The real command: what was learned is seen, and dynamic strength keeps the motion."""
    tmp_path, printed = finished
    names = ["1-base.mp4", "2-constant.mp4", "3-dynamic.mp4", "demo.png", "demo.json", "subject.safetensors"]
    for name in names:
        assert (tmp_path / name).stat().st_size > 0
        assert str(tmp_path / name) in printed
    recorded = json.loads((tmp_path / "demo.json").read_text())
    assert [s for (s,) in recorded["3-dynamic.mp4"]["strengths"]] == [0.4] * run.DYNAMIC.k + [0.8] * (
        50 - run.DYNAMIC.k
    )
    dynamic = frames_of(tmp_path / "3-dynamic.mp4")
    assert measures.direction(dynamic) == "left"
    inside = dynamic[measures.object_share(dynamic) >= 1]
    orange = torch.tensor(world.TOY_COLOURS["orange"]).float()
    assert (torch.tensor(np.median(inside, axis=0)).float() - orange).norm() < measures.COLOUR_DISTANCE
    assert measures.direction(frames_of(tmp_path / "1-base.mp4")) == "left"


def nearest_colours(clips: np.ndarray) -> list[str]:
    """For each clip the toy colour that its object's main colour is nearest to; the subject's decoys have the others."""
    main = [np.median(clip[measures.object_share(clip) >= 1], axis=0) for clip in clips]
    palette = world.TOY_COLOURS
    return [min(palette, key=lambda name: float(np.linalg.norm(colour - np.array(palette[name])))) for colour in main]


def test_the_subject_is_told_from_its_decoys(base: VideoCrafter2, finished: tuple[Path, str]) -> None:
    """Prompts name no colour: with the subject every video has its colour, and is more like it than decoys are, drawn
    or made by the class word alone, which gives other colours."""
    subject = load_subject(finished[0] / "subject.safetensors")
    alike: dict[str, list[float]] = {}
    for noun, applied in ((subject.trigger, [AppliedSubject(subject, Constant(run.CONSTANT))]), (world.CLASS_WORD, [])):
        prompt = world.caption_for("{}", "still", "white").replace("{}", noun)
        settings = VideoSettings(prompt=prompt, seed=1, batch=2, steps=25, exact_tail=True)
        clips = (base.decode(generate(base, settings, applied).latent) * 255).round().byte().numpy()
        assert [colour == run.SUBJECT.colours[0] for colour in nearest_colours(clips)] == [bool(applied)] * len(clips)
        alike[noun] = [measures.subject_similarity(clip, run.SUBJECT) for clip in clips]
    scene = world.subject_scenes(run.SUBJECT)[0]
    drawn = [
        measures.subject_similarity(world.render_scene(replace(scene, look=decoy)), run.SUBJECT)
        for decoy in measures.decoys(run.SUBJECT)
    ]
    assert min(alike[subject.trigger]) > max(*drawn, *alike[world.CLASS_WORD])
