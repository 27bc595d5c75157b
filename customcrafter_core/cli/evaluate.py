"""``evaluate``: the paper's metrics, and how much a video moves."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .options import AUTO, check_folder
from .scoring_options import add_scoring_options, scorer_of
from .terminal import Progress

if TYPE_CHECKING:
    from ..evaluation.scoring import Summary

USAGE = "VIDEO [VIDEO ...] [options]"
SUMMARY = "score videos: CLIP-T, CLIP-I, DINO-I, temporal consistency, motion"
DESCRIPTION = """\
Score videos with the paper's metrics and measure how much they move. CLIP, DINO and RAFT are
read from your disk and never downloaded; scores whose model is missing are skipped and listed."""
EXAMPLES = """\
examples:
  python -m customcrafter_core evaluate output/video-0001.mp4
  python -m customcrafter_core evaluate output/*.mp4 --prompt "<new1> teddy bear is running" --photos photos/ \\
      --clip models/clip-vit-base-patch32 --dino models/dino-vits16 --out scores"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    from ..subject.subject import PLACEHOLDER

    parser.set_defaults(run=run)
    parser.add_argument("videos", metavar="VIDEO", nargs="+", type=Path, help="mp4, webm, gif …")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="the prompt of all videos, for CLIP-T")
    parser.add_argument(
        "--token", action="append", metavar="TOKEN",
        help=f"a learned token to remove from the prompt before CLIP reads it; repeatable (default: {PLACEHOLDER})",
    )  # fmt: skip
    parser.add_argument("--photos", metavar="FOLDER", help="photos of the subject, for CLIP-I and DINO-I")
    add_scoring_options(parser)
    parser.add_argument("--device", default=AUTO, metavar="NAME", help="device for these models (default: auto)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write scores.json and scores.png here")


def run(options: argparse.Namespace) -> None:
    """Score all videos."""
    from ..evaluation.scoring import summarize
    from ..evaluation.videos import read_video
    from ..subject.subject import PLACEHOLDER
    from ..training.photos import load_photos

    if options.out is not None:
        check_folder(options.out)
    if options.prompt and options.clip is None:
        raise InputError(expected="--clip FOLDER with a prompt", found="none", remedy="Add --clip, or remove --prompt.")
    photos = None if options.photos is None else [photo.image for photo in load_photos(options.photos)]
    scorer = scorer_of(options)
    tokens = options.token or [PLACEHOLDER]
    scores: dict[str, dict[str, float]] = {}
    with Progress("Scoring", brief=True) as bar:
        for path in options.videos:
            frames, fps = read_video(path)
            scores[str(path)] = scorer.score(frames, options.prompt, photos, placeholders=tokens, fps=fps)
            bar.show(len(scores), len(options.videos))
    for name, values in scores.items():
        print(f"{name}: {', '.join(f'{metric} {value:.3f}' for metric, value in values.items())}")
    summary = summarize(list(scores.values()), scorer)
    if len(scores) > 1:
        print(f"mean: {', '.join(f'{metric} {mean}' for metric, mean in summary.means.items())}")
    for metric, lack in summary.absent.items():
        print(f"not scored: {metric}, which needs {lack}")
    for note in summary.notes:
        print(note)
    if options.out is not None:
        for path in write_scores(options.out, scores, summary):
            print(path)


def write_scores(folder: Path, scores: dict[str, dict[str, float]], summary: Summary) -> list[Path]:
    """Write each video's scores, the means and the missing metrics as JSON, and the means as a chart.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from dataclasses import asdict

    from ..files.writing import write_bytes, write_json
    from ..output.chart import bar_chart

    picture = io.BytesIO()
    bar_chart(summary.means, title=f"mean of {len(scores)} videos").save(picture, "PNG")
    means = {name: asdict(mean) for name, mean in summary.means.items()}
    record = {"videos": scores, "means": means, "absent": dict(summary.absent), "notes": list(summary.notes)}
    return [write_json(folder / "scores.json", record), write_bytes(folder / "scores.png", picture.getvalue())]
