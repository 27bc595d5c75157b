"""The command that scores finished videos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from customcrafter_core.cli.main import main
from customcrafter_core.evaluation.encoders import ClipEncoder
from customcrafter_core.evaluation.scoring import Scorer
from customcrafter_core.evaluation.videos import read_video
from customcrafter_core.output.video import write_video
from tests.core import small_encoders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    for i in range(2):
        frames = np.full((6, 40, 60, 3), 0.5, np.float32)
        for t, frame in enumerate(frames):
            frame[10:24, 5 + 4 * t * i : 19 + 4 * t * i] = (1, 0.2, 0.1)
        write_video(folder / f"{i}.mp4", frames, 8)
    small_encoders.write_clip(folder / "clip")
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), "orange").save(folder / "photos" / "a.png")
    return folder


def test_without_models_motion_is_scored_and_the_rest_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(folder / "0.mp4"), str(folder / "1.mp4")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "0.mp4: Motion " in shown[0] and float(shown[0].rpartition(" ")[2]) < 0.01
    travel = float(shown[1].rpartition(" ")[2])
    assert travel == pytest.approx(4 * 5 / 40, rel=0.15)
    assert shown[2].startswith("mean: Motion")
    assert sum(line.startswith("not scored: ") for line in shown) == 5


def test_scores_with_a_model_are_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        str(folder / "1.mp4"),
        "--prompt",
        "a <mug> mug",
        "--token",
        "<mug>",
        "--photos",
        str(folder / "photos"),
    ]
    assert main(["evaluate", *arguments, "--clip", str(folder / "clip"), "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "scores.json").read_text())
    frames, fps = read_video(folder / "1.mp4")
    photo = Image.open(folder / "photos" / "a.png")
    expected = Scorer(ClipEncoder(folder / "clip")).score(frames, "a mug", [photo], fps=fps)
    assert record["videos"][str(folder / "1.mp4")] == pytest.approx(expected)
    assert set(record["absent"]) == {"DINO-I", "Dynamic degree"} and record["notes"]
    assert Image.open(tmp_path / "scores.png").size[0] > 300
    assert capsys.readouterr().err == ""


def test_wrong_use_is_told_in_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for arguments, said in (
        ([str(tmp_path / "text.mp4")], "text.mp4, which is none"),
        ([str(tmp_path / "absent.mp4")], "nothing at"),
        ([str(folder / "0.mp4"), "--prompt", "a mug"], "--clip"),
        ([str(folder / "0.mp4"), "--clip", "openai/clip-vit-base-patch32"], "downloads nothing"),
        ([str(folder / "0.mp4"), "--raft", "raft.pth"], "nothing at raft.pth"),
    ):
        assert main(["evaluate", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error


@pytest.mark.parametrize("command", ["evaluate", "benchmark", "study"])
def test_help_has_an_example_and_fits_the_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"python -m customcrafter_core {command}" in shown.partition("examples:")[2]
    assert max(map(len, shown.splitlines())) <= 120
