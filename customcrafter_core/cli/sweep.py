"""``sweep``: one subject, one prompt, one noise, and every combination of the given λs, λl and K."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .options import base_record, check_folder, load_base
from .terminal import Progress
from .video_options import ANY_BASE, add_out, add_prompt_options, add_video_options, settings_of

USAGE = "--subject FILE --prompt TEXT [options]"
SUMMARY = "the same noise at many strengths: videos, a contact sheet and a table"
DESCRIPTION = """\
Generate one prompt and seed with every combination of the given lambda_s, lambda_l and K, to see
which suits a subject. Videos share their first steps while their strengths agree, so this takes
less time than making them one by one."""
EXAMPLES = """\
examples:
  python -m customcrafter_core sweep --base model.ckpt --subject teddy.safetensors \\
      --prompt "<new1> teddy bear is running on grass" --lambda-s 0 0.2 0.4 --lambda-l 0.8 1 --k 3 5 10"""
STEM = "sweep"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.set_defaults(run=run)
    add_prompt_options(parser)
    parser.add_argument("--subject", required=True, type=Path, metavar="FILE", help="a learned subject")
    for flag, kind, text in (
        ("--lambda-s", float, "strengths in the first K steps"),
        ("--lambda-l", float, "strengths in all later steps"),
        ("--k", int, "how many steps lambda_s lasts"),
    ):
        parser.add_argument(
            flag, type=kind, nargs="+", action="extend", metavar="X" if kind is float else "K",
            help=f"{text} (default: as the subject's file recommends)",
        )  # fmt: skip
    add_video_options(parser)
    parser.add_argument("--any-base", action="store_true", help=ANY_BASE)
    add_out(parser, "where to make a folder with videos, contact sheet and table")


def run(options: argparse.Namespace) -> None:
    """Make all videos and write them."""
    from ..experiments.sweep import combinations, weight_sweep, write_sweep
    from ..files.writing import free_stem
    from ..sampling.preparation import AppliedSubject, check_settings
    from ..subject.file import load_subject

    check_folder(options.out)
    subject, settings = load_subject(options.subject), settings_of(options)
    ranges: dict[str, Any] = {
        name: getattr(options, name) or [value] for name, value in asdict(subject.recommended).items()
    }
    check_settings(settings, [AppliedSubject(subject)])
    combinations(**ranges, steps=settings.steps)  # tells what is wrong before a model is loaded
    model = load_base(options)
    with Progress("Sampling") as bar:
        sweep = weight_sweep(model, settings, subject, **ranges, any_base=options.any_base, on_forward=bar.show)
    folder = options.out / free_stem(options.out, STEM)
    about = {"subject": {"file": options.subject.name, "trigger": subject.trigger}, **base_record(options, model)}
    written = write_sweep(folder, sweep, about)
    for path, row in zip(written, sweep.table(), strict=False):
        print(f"{path}: lambda_s {row['lambda_s']:g}, lambda_l {row['lambda_l']:g}, K {row['K']}")
    for path in written[len(sweep.cells) :]:
        print(path)
    print(f"Shared steps saved {sweep.saving:.0%}.")
