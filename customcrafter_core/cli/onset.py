"""``onset``: after which step a prompt's motion is fixed, and the K that follows from it."""

from __future__ import annotations

import argparse

from .options import base_record, check_folder, load_base
from .terminal import Progress
from .video_options import add_out, add_prompt_options, add_video_options, settings_of

USAGE = "--prompt TEXT [options]"
SUMMARY = "suggest a K: measure how early a prompt's motion is fixed"
DESCRIPTION = """\
Sample the base model once, without a subject, and measure how much of the motion and of the
detail is fixed after each step. After the suggested K, each step fixes less than an
equal share of the motion."""
EXAMPLES = """\
examples:
  python -m customcrafter_core onset --prompt "a teddy bear is running on grass" --base model.ckpt"""
STEM = "onset"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.set_defaults(run=run)
    add_prompt_options(parser, about="use the class word instead of a subject")
    add_video_options(parser)
    add_out(parser, "for the video, the curve and the numbers")


def run(options: argparse.Namespace) -> None:
    """Measure and write."""
    from ..experiments.motion_onset import motion_onset, write_onset
    from ..files.writing import free_stem
    from ..sampling.generation import SampledStep
    from ..sampling.preparation import check_settings

    check_folder(options.out)
    settings = settings_of(options)
    check_settings(settings, [])
    model = load_base(options)
    with Progress("Sampling") as bar:

        def show(step: SampledStep) -> None:
            bar.show(step.step + 1, step.steps)

        onset = motion_onset(model, settings, on_step=show)
    print(onset.text())
    for path in write_onset(options.out, free_stem(options.out, STEM), onset, base_record(options, model)):
        print(path)
