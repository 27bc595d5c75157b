"""``train``: learn a subject from photos."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_base_options,
    add_force,
    check_target,
    device_of,
    dtype_of,
    field_of,
    kind_of_value,
    load_base,
)
from .terminal import Progress

if TYPE_CHECKING:
    from ..training.config import TrainConfig
    from ..training.loop import TrainStep

USAGE = "PHOTOS --class-word TEXT --out FILE [options]"
SUMMARY = "learn a subject from photos"
DESCRIPTION = """\
Learn a subject from a folder of photos: three to ten of the same thing, before different
backgrounds. A text file beside a photo (cup.txt for cup.jpg) may say what it shows, with {}
for the subject: a {} on a kitchen counter. The result is one .safetensors file."""
EXAMPLES = """\
examples:
  python -m customcrafter_core train photos/ --base model.ckpt --class-word "teddy bear" --out teddy.safetensors
  with images of other teddy bears, so that the class is not forgotten:
  python -m customcrafter_core train photos/ --base model.ckpt --class-word "teddy bear" --prior bears/ \\
      --out teddy.safetensors"""
SETTINGS = (
    ("placeholder", "--token", "TOKEN", "how prompts call the subject"),
    ("steps", "--steps", "N", "training steps"),
    ("rank", "--rank", "N", "of the LoRA factors"),
    ("lr", "--lr", "X", "learning rate"),
    ("frames", "--frames", "N", "frames of the still video a photo becomes"),
    ("batch", "--batch", "N", "still videos per step"),
    ("prior_weight", "--prior-weight", "X", "weight of the prior images' loss"),
    ("seed", "--seed", "N", "of everything random"),
)
"""Options that set a field of the training config: field, flag, value, meaning."""
SMOOTHING = 0.02  # of the loss shown: about the last fifty steps


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    from ..training.config import PRESETS

    parser.set_defaults(run=run)
    parser.add_argument("photos", metavar="PHOTOS", help="a folder of photos of the subject")
    parser.add_argument("--class-word", required=True, metavar="TEXT", help="what the subject is, such as: teddy bear")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the subject, a .safetensors file")
    add_force(parser)
    parser.add_argument("--prior", metavar="FOLDER", help="images of other things of the class, to preserve the class")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--preset", choices=list(PRESETS),
        help="settings to start from (default: demo for this project's demo model, else paper)",
    )  # fmt: skip
    for name, flag, metavar, meaning in SETTINGS:
        kind, shown = _default(name)
        group.add_argument(
            flag, dest=name, type=kind, metavar=metavar, default=argparse.SUPPRESS, help=f"{meaning} (default: {shown})"
        )
    add_base_options(parser)


def _default(name: str) -> tuple[Callable[[str], Any], str]:
    """Type of a field and its default as text, with the presets that have another."""
    from ..training.config import PRESETS, TrainConfig

    default = field_of(TrainConfig, name).default
    others = [f"{values[name]} with preset {preset}" for preset, values in PRESETS.items() if name in values]
    return kind_of_value(name, default), ", ".join([str(default).replace("%", "%%"), *others])


def run(options: argparse.Namespace) -> None:
    """Learn the subject and write it."""
    from ..subject.file import save_subject
    from ..training.loop import check_dtype, train_subject
    from ..training.photos import load_photos

    check_target(options.out, force=options.force)
    config = _config(options)
    check_dtype(dtype_of(options.dtype, device_of(options.device)))
    photos = load_photos(options.photos)
    prior = load_photos(options.prior) if options.prior is not None else []
    model = load_base(options)
    with Progress("Training") as bar:
        smooth = 0.0

        def show(step: TrainStep) -> None:
            nonlocal smooth
            smooth += (step.loss - smooth) * max(SMOOTHING, 1 / (step.step + 1))
            bar.show(step.step + 1, step.steps, f"loss {smooth:.4f}")

        subject = train_subject(model, photos, config, prior=prior, on_step=show)
    print(save_subject(subject, options.out))
    print(f'Call it in prompts: "{subject.trigger}"')


def _config(options: argparse.Namespace) -> TrainConfig:
    from ..training.config import preset

    given = {name: getattr(options, name) for name, *_ in SETTINGS if hasattr(options, name)}
    name = options.preset or ("demo" if options.base is None else "paper")
    return preset(name, options.class_word, **given)
