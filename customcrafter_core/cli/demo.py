"""``demo``: train a subject on the small demo world and see it move, or train the demo's base model."""

from __future__ import annotations

import argparse
import inspect
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import check_folder, device_of, kind_of_value
from .terminal import Parser, Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..demo.run import DemoVideo
    from ..sampling.generation import SampledStep
    from ..subject.subject import Subject

USAGE = "[run | train-base] [options]"
SUMMARY = "train a subject on a small demo model and see it move (about a minute)"
DESCRIPTION = """\
Train a subject on a small demo model, then make the same prompt from the same noise three
ways: with the base model, at constant strength, and with dynamic weights."""
EXAMPLES = """\
examples:
  python -m customcrafter_core demo
  python -m customcrafter_core demo run --seed 3 --motion left --out output/demo-left
  python -m customcrafter_core demo train-base work/    (trains the demo's base model from scratch; takes hours)"""
SHEET = "demo.png"
RUN, TRAIN_BASE = "run", "train-base"


def with_subcommand(arguments: list[str]) -> list[str]:
    """Insert ``run`` after a ``demo`` that has no subcommand."""
    options_only = all(argument.startswith("-") for argument in arguments[1:2])
    if arguments[:1] == ["demo"] and options_only and arguments[1:2] not in (["-h"], ["--help"]):
        return ["demo", RUN, *arguments[1:]]
    return arguments


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their options."""
    commands = parser.add_subparsers(prog=parser.prog, metavar="run | train-base", required=True, parser_class=Parser)
    _add_run(commands.add_parser(RUN, help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES))
    _add_train_base(commands.add_parser(TRAIN_BASE, help="train the demo's base model from scratch"))


def _add_function_option(
    parser: argparse.ArgumentParser, function: Callable[..., Any], name: str, meaning: str, **more: Any
) -> None:
    """Add the option for a function's parameter, with its default and type."""
    default = inspect.signature(function).parameters[name].default
    parser.add_argument(
        f"--{name.replace('_', '-')}", type=kind_of_value(name, default, least=1), default=default,
        help=f"{meaning} (default: {default})", **({"metavar": "N" if isinstance(default, int) else "NAME"} | more),
    )  # fmt: skip


def _training_options(train_base: Callable[..., Any]) -> dict[str, str]:
    """The parameters of the training with a plain default, and their meaning from its docstring."""
    meanings = dict(re.findall(r"^ +(\w+): (.+)\.$", inspect.getdoc(train_base) or "", re.MULTILINE))
    defaults = {name: parameter.default for name, parameter in inspect.signature(train_base).parameters.items()}
    return {
        name: meanings.get(name, "").replace("``", "")
        for name, default in defaults.items()
        if isinstance(default, (int, str))
    }


def _add_run(parser: argparse.ArgumentParser) -> None:
    from ..demo import world
    from ..demo.run import make_demo_videos

    parser.set_defaults(run=run)
    _add_function_option(parser, make_demo_videos, "motion", "how the subject moves", choices=list(world.MOTIONS))
    _add_function_option(parser, make_demo_videos, "background", "the background", choices=list(world.BACKGROUNDS))
    _add_function_option(parser, make_demo_videos, "seed", "seed for training and noise")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("output/demo"),
        metavar="FOLDER",
        help="where to write everything (default: output/demo)",
    )


def run(options: argparse.Namespace) -> None:
    """Train the demo subject, make the videos and write everything."""
    from ..demo.run import demo_photos, learn_demo_subject, load_demo_base, make_demo_videos

    check_folder(options.out)
    started = time.monotonic()
    model = load_demo_base()
    with Progress("Training the subject") as bar:
        subject = learn_demo_subject(
            model,
            seed=options.seed,
            on_step=lambda step: bar.show(step.step + 1, step.steps, f"loss {step.loss:.3f}"),
        )
    with _BarForEachVideo() as bars:
        videos = make_demo_videos(model, subject, options.motion, options.background, options.seed, on_step=bars.show)
    for path in write_demo(options.out, [photo.image for photo in demo_photos()], subject, videos):
        print(path)
    print(f"Done in {time.monotonic() - started:.0f} s. Start with {options.out / SHEET}.")


class _BarForEachVideo(ExitStack):
    """Starts a new progress bar for each video."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._bar: Progress | None = None

    def show(self, step: SampledStep) -> None:
        """Show a step of the current video."""
        if self._bar is None or step.step == 0:
            self.close()
            self._count += 1
            self._bar = self.enter_context(Progress(f"Making video {self._count}"))
        note = " ".join(f"{strength:.2f}" for strength in step.strengths)
        self._bar.show(step.step + 1, step.steps, f"strength {note}" if note else "")


def write_demo(folder: Path, photos: Sequence[Image], subject: Subject, videos: Sequence[DemoVideo]) -> list[Path]:
    """Write the videos, a contact sheet of photos and videos, the subject, and all strengths as JSON.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from ..files.writing import write_json
    from ..output.video import write_video
    from ..subject.file import save_subject

    names = [f"{i + 1}-{video.label.split()[0]}.mp4" for i, video in enumerate(videos)]
    record = {
        name: {
            "label": video.label,
            **asdict(video.generation.settings),
            "timesteps": video.generation.timesteps,
            "strengths": video.generation.strengths,
        }
        for name, video in zip(names, videos, strict=True)
    }
    return [
        write_demo_sheet(folder / SHEET, photos, videos),
        *(write_video(folder / name, v.frames) for name, v in zip(names, videos, strict=True)),
        save_subject(subject, folder / "subject.safetensors"),
        write_json(folder / "demo.json", record),
    ]


def write_demo_sheet(path: Path, photos: Sequence[Image], videos: Sequence[DemoVideo]) -> Path:
    """Write the picture of the demo: the photos, then a row of frames for each video.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    import numpy as np

    from ..output.sheet import SheetRow, write_sheet

    pictures = np.stack([np.asarray(photo, dtype=np.float32) / 255 for photo in photos])
    rows = [SheetRow("training photos", pictures, unit="photo")]
    rows += [SheetRow(video.label, video.frames) for video in videos]
    return write_sheet(path, rows, title=videos[-1].prompt)


def _add_train_base(parser: argparse.ArgumentParser) -> None:
    from ..demo.train_base import train_base

    parser.set_defaults(run=train)
    parser.add_argument(
        "work_dir", metavar="FOLDER", type=Path, help="for training states and the log; an earlier run in it is resumed"
    )
    for name, meaning in _training_options(train_base).items():
        _add_function_option(parser, train_base, name, meaning)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the checkpoint to write (default: base.safetensors in FOLDER)"
    )


def train(options: argparse.Namespace) -> None:
    """Train the demo's base model and write its checkpoint."""
    from ..demo.export import write_base
    from ..demo.train_base import train_base

    device_of(options.device)
    check_folder(options.work_dir)
    settings = {name: getattr(options, name) for name in _training_options(train_base)}
    train_base(options.work_dir, **settings, report=partial(print, flush=True))
    print(write_base(options.work_dir, options.out or options.work_dir / "base.safetensors"))
