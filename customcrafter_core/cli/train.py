"""``train``: learn a subject from photos."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, Field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .options import (
    AUTO,
    add_base_options,
    check_target,
    device_of,
    dtype_of,
    kind_of_value,
    load_base,
)
from .terminal import Progress, Stop, stopping_between_steps
from .training_file import read_training_file

if TYPE_CHECKING:
    from ..base_model.model import VideoCrafter2
    from ..training.callbacks import Callbacks
    from ..training.config import TrainConfig
    from ..training.photos import Clip, Photo
    from ..training.run_options import RunOptions
    from ..training.trainer import TrainStep

USAGE = "[PHOTOS] --class-word TEXT --out FILE [options]"
SUMMARY = "learn a subject from photos"
DESCRIPTION = """\
Learn a subject from a folder of photos: three to ten of the same thing, before different
backgrounds. A text file beside a photo (cup.txt for cup.jpg) may say what it shows: a cup on
a kitchen counter. The class word in it, or {}, is the subject. The result is one .safetensors file. Beside it
lies a folder with the state, from which the same command goes on after an interruption,
a picture of the loss and the sample videos."""
EXAMPLES = """\
examples:
  python -m customcrafter_core train photos/ --base model.ckpt --class-word "teddy bear" --out teddy.safetensors
  with 200 images of other teddy bears, made by the base model, so that the class is not forgotten:
  python -m customcrafter_core train photos/ --base model.ckpt --class-word "teddy bear" --prior bears/ \\
      --make-prior 200 --out teddy.safetensors
  with all settings in a file, on two GPUs:
  accelerate launch --num_processes 2 -m customcrafter_core train --config teddy.toml"""
OPTION_NAMES = {"placeholder": "token"}
"""Fields of the settings whose option is called otherwise."""
INPUTS: dict[str, Any] = {
    **dict.fromkeys(("photos", "prior", "out", "base", "preset", "device", "dtype"), ""),
    **dict.fromkeys(("prior_clips", "skip_broken", "force"), False),
    "make_prior": 0,
}
"""Options besides the settings that a file can hold, with a value of their kind."""
STEERING = ("checkpoint_every", "keep_checkpoints", "sample_every", "sample_prompt", "sample_seed", "sample_steps")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    from ..training.config import PRESETS, TrainConfig
    from ..training.run_options import RunOptions

    parser.set_defaults(run=run)
    option = partial(parser.add_argument, default=argparse.SUPPRESS)
    option("photos", metavar="PHOTOS", nargs="?", help="a folder of photos of the subject")
    option("--out", metavar="FILE", help="the subject, a .safetensors file")
    option("--config", metavar="FILE", help="settings as JSON or TOML, by the names of these options; options win")
    option("--force", action="store_true", help="start over and replace what an earlier run left")
    option("--skip-broken", action="store_true", help="leave out pictures that cannot be read instead of refusing all")
    option("--prior", metavar="FOLDER", help="images or animations of other things of the class, to preserve the class")
    option("--make-prior", type=int, metavar="N", help="let the base model fill that folder up to N images")
    option("--prior-clips", action="store_true", help="let it make moving clips instead of still images")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--preset", choices=list(PRESETS), default=argparse.SUPPRESS,
        help="settings to start from (default: demo for this project's demo model, else paper)",
    )  # fmt: skip
    for entry in fields(TrainConfig):
        _add_field(group, entry, _others(entry.name))
    group = parser.add_argument_group("watching")
    for entry in fields(RunOptions):
        if entry.name in STEERING:
            _add_field(group, entry, "")
    add_base_options(parser, unset=argparse.SUPPRESS)


def _others(name: str) -> str:
    from ..training.config import PRESETS

    return "".join(
        f", {_shown(values[name])} with preset {preset}" for preset, values in PRESETS.items() if name in values
    )


def _shown(value: Any) -> str:
    """A value as it is written on the command line."""
    return shlex.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _add_field(group: argparse._ArgumentGroup, entry: Field[Any], others: str) -> None:
    """Add the option for a field of the settings."""
    from ..training.config import CHOICES

    flag = f"--{OPTION_NAMES.get(entry.name, entry.name).replace('_', '-')}"
    default: Any = "" if entry.default is MISSING else entry.default
    shown = "" if default == "" or default is False else f" (default: {_shown(default)}{others})".replace("%", "%%")
    text = entry.metadata["help"] + shown
    given: dict[str, Any] = {"dest": entry.name, "default": argparse.SUPPRESS, "help": text}
    if isinstance(default, bool):
        group.add_argument(flag, action="store_true", **given)
    elif entry.name in CHOICES:
        group.add_argument(flag, choices=CHOICES[entry.name], **given)
    elif isinstance(default, tuple):
        kind = type(default[0])
        count = "+" if kind is str else len(default)
        group.add_argument(flag, nargs=count, type=kind, metavar="TEXT" if kind is str else "X", **given)
    else:
        metavar = "TEXT" if isinstance(default, str) else "N" if isinstance(default, int) else "X"
        group.add_argument(flag, type=kind_of_value(entry.name, default), metavar=metavar, **given)


def run(options: argparse.Namespace) -> None:
    """Learn the subject and write it."""
    from ..training.checkpoints import FOLDER_SUFFIX, has_run
    from ..training.config import check_preset
    from ..training.loop import check_dtype, check_run, train_subject
    from ..training.workers import launched_workers

    given = _given(options)
    config, run_options, target = _config(given), _steering(given), Path(_required(given, "out"))
    is_continued = has_run(target) and not given.get("force")
    check_target(target, force=bool(given.get("force")) or is_continued)
    options.base, options.device, options.dtype = given.get("base"), given.get("device", AUTO), given.get("dtype", AUTO)
    workers, device = launched_workers(device_of(options.device))
    options.device = str(device)
    check_dtype(dtype_of(options.dtype, device))
    photos = _photos(given)
    model = load_base(options)
    check_preset(_preset(given), model.config.unet)
    check_run(model, photos, config, run_options, workers=workers)
    if not workers.is_first:
        workers.wait()  # the first one makes prior images
    prior = _prior(given, model, config)
    if workers.is_first:
        workers.wait()
    screen = _Screen("without --force" if given.get("force") else "again")
    with screen.shown(gently=workers.size == 1):  # several processes are stopped by their launcher
        result = train_subject(
            model, photos, config, prior=prior, run_options=run_options, callbacks=screen.callbacks(), workers=workers
        )
    if workers.is_first:
        print(target)
        print(f'Call it in prompts: "{result.subject.trigger}"')
        print(f"The loss as a picture and the state to go on from: {target.stem}{FOLDER_SUFFIX}")


class _Screen:
    """Shows a run in the terminal, and stops it between two steps."""

    def __init__(self, going_on: str) -> None:
        """Args:
        going_on: how the same command is run to go on after a stop.
        """
        self._going_on = going_on
        self._encoding, self._bar = Progress("Encoding photos", brief=True), Progress("Training")
        self._stop, self._smooth, self._count, self._saved = Stop(), 0.0, 0, ""

    @contextmanager
    def shown(self, *, gently: bool) -> Iterator[None]:
        """Bars are shown while the context lasts; with ``gently`` Ctrl-C waits for the end of a step."""
        try:
            with stopping_between_steps(self._stop) if gently else nullcontext(), self._encoding, self._bar:
                yield
        finally:
            if self._saved:  # below the bar
                print(self._saved, file=sys.stderr)

    def callbacks(self) -> Callbacks:
        """Whom the run is to tell."""
        from ..training.callbacks import Callbacks

        return Callbacks(
            on_plan=print,
            on_encoded=self._show_encoded,
            on_resumed=self._tell_resumed,
            on_step=self._show_step,
            on_sampled_step=lambda _: self._stop.check(),
            on_saved=self._note_saved,
        )

    @staticmethod
    def _tell_resumed(done: int, total: int) -> None:
        if done < total:
            print(f"Goes on from step {done} of {total}.")
        else:
            print(f"All {total} steps were made before: raise --steps to go on, or start over with --force.")

    def _show_encoded(self, done: int, total: int) -> None:
        self._encoding.show(done, total)
        self._stop.check()

    def _show_step(self, step: TrainStep) -> None:
        from ..training.pictures import next_mean

        self._count += 1
        self._smooth = next_mean(self._smooth, step.loss, self._count)
        self._bar.show(step.step + 1, step.steps, f"loss {self._smooth:.4f}")
        self._stop.check()

    def _note_saved(self, done: int, total: int) -> None:
        self._saved = f"Saved at step {done} of {total}; run the same command {self._going_on} to go on."


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What was given: the file's values, over which those of the command line win."""
    from ..training.config import TrainConfig, convert_value
    from ..training.run_options import RunOptions

    own = {name: value for name, value in vars(options).items() if name not in ("run", "config") and value is not None}
    if not hasattr(options, "config"):
        return own
    kinds = INPUTS | {entry.name: entry.default for entry in fields(RunOptions) if entry.name in STEERING}
    known = {entry.name for entry in fields(TrainConfig)} | set(kinds)
    stored = read_training_file(Path(options.config), known, OPTION_NAMES)
    checked = {name: convert_value(name, value, kinds[name]) for name, value in stored.items() if name in kinds}
    return {**stored, **checked, **own}


def _required(given: dict[str, Any], name: str) -> Any:
    if name not in given:
        shown = {"photos": "a folder of photos", "out": "--out FILE", "class_word": "--class-word TEXT"}[name]
        raise InputError(expected=shown, found="none", remedy="train --help explains.")
    return given[name]


def _preset(given: dict[str, Any]) -> str:
    from ..training.config import DEMO

    return given.get("preset") or (DEMO if given.get("base") is None else "paper")


def _config(given: dict[str, Any]) -> TrainConfig:
    from ..training.config import PRESETS, TrainConfig, preset

    name = _preset(given)
    if name not in PRESETS:
        preset(name, "subject")  # tells which there are
    own = {entry.name: given[entry.name] for entry in fields(TrainConfig) if entry.name in given}
    _required(given, "class_word")
    return TrainConfig.from_metadata({**PRESETS[name], **own})


def _steering(given: dict[str, Any]) -> RunOptions:
    from ..demo.run import recommended_with
    from ..training.run_options import RunOptions

    values = {name: given[name] for name in STEERING if name in given}
    return RunOptions(
        target=Path(_required(given, "out")),
        start_over=bool(given.get("force")),
        recommended=recommended_with(_preset(given)),
        **values,
    )


def _photos(given: dict[str, Any]) -> list[Photo]:
    from ..training.photos import load_photos

    return load_photos(_required(given, "photos"), skip_broken=bool(given.get("skip_broken")))


def _prior(given: dict[str, Any], model: VideoCrafter2, config: TrainConfig) -> list[Photo | Clip]:
    from ..memory.free import free_memory
    from ..training.memory_plan import plan_prior
    from ..training.prior import generate_prior, load_prior

    folder, count = given.get("prior"), given.get("make_prior", 0)
    if not config.prior_weight or (folder is None and not count):
        return []
    if folder is None:
        raise InputError(expected="--prior FOLDER for the images to make", found="none", remedy="Name a folder.")
    skip_broken = bool(given.get("skip_broken"))
    if not count:
        return load_prior(folder, skip_broken=skip_broken)
    with Progress("Making prior images") as bar:
        return generate_prior(
            model, config.class_word, folder, count,
            clips=bool(given.get("prior_clips")), seed=config.seed, skip_broken=skip_broken, on_item=bar.show,
            on_plan=lambda: plan_prior(model, config, free=free_memory(model.device)),
        )  # fmt: skip
