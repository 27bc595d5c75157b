"""``generate``: a video from a prompt, with learned subjects whose strength changes from step to step."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diffusion.strength import LAMBDA_L, LAMBDA_S, Curve, K, StrengthSchedule, TwoPhase
from ..errors import InputError
from .options import base_record, check_folder, load_base
from .terminal import Progress
from .video_options import ANY_BASE, add_out, add_prompt_options, add_video_options, settings_of

if TYPE_CHECKING:
    import torch

    from ..base_model.model import VideoCrafter2
    from ..sampling.generation import Generation, SampledStep
    from ..sampling.preparation import AppliedSubject
    from ..sampling.settings import VideoSettings

log = logging.getLogger(__name__)

USAGE = "--prompt TEXT [options]"
SUMMARY = "make a video, with learned subjects"
DESCRIPTION = """\
Make a video from a prompt. A learned subject is applied at strength lambda_s for the first K
steps, which decide motion and layout, and at lambda_l for the later ones, which decide
appearance."""
EXAMPLES = """\
examples:
  python -m customcrafter_core generate --prompt "a red circle moving left on a white background"
  python -m customcrafter_core generate --base model.ckpt --subject teddy.safetensors \\
      --prompt "<new1> teddy bear is running on grass" --seed 7
  two subjects, the second renamed to <new2> and with a curve for its strength:
  python -m customcrafter_core generate --base model.ckpt --subject teddy.safetensors --lambda-s 0.3 \\
      --subject mug.safetensors --called "<new2>" --curve "0:0.4, 0.1:0.8" \\
      --prompt "<new1> teddy bear is lifting a <new2> mug"
"""
STEM = "video"


@dataclass
class SubjectChoice:
    """One ``--subject`` and the options behind it."""

    path: str
    weights: dict[str, Any] = field(default_factory=dict)
    """What of ``lambda_s``, ``lambda_l`` and ``k`` was given."""
    curve: Curve | None = None
    called: str | None = None

    def strength(self, recommended: TwoPhase) -> StrengthSchedule:
        """The strength schedule; what was not given is as the subject's file recommends.

        Raises:
            InputError: a curve and single weights at once, or a weight out of range.
        """
        if self.curve is None:
            return replace(recommended, **self.weights)
        if self.weights:
            raise InputError(
                expected="either --curve or --lambda-s, --lambda-l and --k",
                found=f"both for {self.path}",
                remedy="Use only one of them.",
            )
        return self.curve


class _AddSubject(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.subjects = [*namespace.subjects, SubjectChoice(values)]


class _OfLastSubject(argparse.Action):
    """An option that belongs to the ``--subject`` before it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if not namespace.subjects:
            raise argparse.ArgumentError(self, "put it after the --subject it applies to")
        if self.dest in ("curve", "called"):
            setattr(namespace.subjects[-1], self.dest, values)
        else:
            namespace.subjects[-1].weights[self.dest] = values


def _curve(text: str) -> Curve:
    try:
        return Curve.parse(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.set_defaults(run=run, subjects=[])
    add_prompt_options(parser)
    _add_subject_options(
        parser.add_argument_group("subjects (each of the other options applies to the --subject before it)")
    )
    add_video_options(parser, several=True)
    parser.add_argument("--any-base", action="store_true", help=ANY_BASE)
    add_out(parser, "for the video, the contact sheet and the settings")


def _add_subject_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--subject", action=_AddSubject, metavar="FILE", help="a learned subject; can be repeated")
    recommended = "(default: what its file recommends, usually the paper's {})"
    for flag, kind, default, text in (
        ("--lambda-s", float, LAMBDA_S, "strength in the first K steps"),
        ("--lambda-l", float, LAMBDA_L, "strength in all later steps"),
        ("--k", int, K, "how many steps lambda_s lasts"),
    ):
        group.add_argument(
            flag, type=kind, action=_OfLastSubject, metavar="X" if kind is float else "K", default=argparse.SUPPRESS,
            help=f"{text} {recommended.format(default)}",
        )  # fmt: skip
    group.add_argument(
        "--curve", type=_curve, action=_OfLastSubject, metavar="POINTS", default=argparse.SUPPRESS,
        help='instead of these: progress:strength points, linear in between, such as "0:0.4, 0.1:0.8"',
    )  # fmt: skip
    group.add_argument(
        "--called", action=_OfLastSubject, metavar="TOKEN", default=argparse.SUPPRESS,
        help="its token in this prompt, if two subjects have the same one",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Make the videos and write them."""
    import torch

    from ..sampling.generation import generate
    from ..sampling.preparation import check_settings, remarks

    check_folder(options.out)
    choices: list[SubjectChoice] = options.subjects
    subjects, settings = [_applied(choice) for choice in choices], settings_of(options)
    check_settings(settings, subjects)
    for remark in remarks(settings, subjects):
        log.warning(remark)
    model = load_base(options)
    with Progress("Sampling") as bar:

        def show(step: SampledStep) -> None:
            bar.show(step.step + 1, step.steps, f"strength {_spaced(step.strengths)}" if step.strengths else "")

        result = generate(model, settings, subjects, any_base=options.any_base, on_step=show)
    with torch.inference_mode():
        videos = model.decode(result.latent)
    record = _record(options, model, subjects, result)
    for path in write_videos(options.out, videos, result.settings, record):
        print(path)


def _spaced(strengths: Sequence[float]) -> str:
    return " ".join(f"{strength:.2f}" for strength in strengths)


def _applied(choice: SubjectChoice) -> AppliedSubject:
    from ..sampling.preparation import AppliedSubject
    from ..subject.file import load_subject

    subject = load_subject(choice.path)
    if choice.called is not None:
        subject = subject.called(choice.called)
    return AppliedSubject(subject, choice.strength(subject.recommended))


def _record(
    options: argparse.Namespace,
    model: VideoCrafter2,
    subjects: Sequence[AppliedSubject],
    result: Generation,
) -> dict[str, Any]:
    """Everything needed to make the same video again, and what the strength really was."""
    choices: list[SubjectChoice] = options.subjects
    return {
        **asdict(result.settings),
        **base_record(options, model),
        "any_base": options.any_base,
        "subjects": [
            {"file": Path(choice.path).name, "trigger": applied.subject.trigger, "strength": asdict(applied.schedule)}  # type: ignore[call-overload]
            for choice, applied in zip(choices, subjects, strict=True)
        ],
        "applied": [
            {"step": step, "timestep": timestep, "strengths": list(strengths)}
            for step, (timestep, strengths) in enumerate(zip(result.timesteps, result.strengths, strict=True))
        ],
        "warnings": result.warnings,
    }


def write_videos(folder: Path, videos: torch.Tensor, settings: VideoSettings, record: dict[str, Any]) -> list[Path]:
    """Write an mp4 for each video, one contact sheet and one JSON, under the next free number.

    Args:
        folder: is made if need be.
        videos: ``(b, t, h, w, 3)``, values 0 … 1.
        settings: prompt, seed and frame rate.
        record: for the JSON; the names of the videos are added.

    Returns:
        What was written.

    Raises:
        InputError: pixels that are not finite.
        OSError: the disk is full or the folder cannot be written.
    """
    from ..files.writing import free_stem, write_json
    from ..output.sheet import SheetRow, write_sheet
    from ..output.video import write_video

    stem = free_stem(folder, STEM)
    names = [f"{stem}.mp4"] if len(videos) == 1 else [f"{stem}-{i + 1}.mp4" for i in range(len(videos))]
    rows = [SheetRow(f"seed {settings.seed + i}", video) for i, video in enumerate(videos)]
    return [
        *(write_video(folder / name, video) for name, video in zip(names, videos, strict=True)),
        write_sheet(folder / f"{stem}.png", rows, title=settings.prompt),
        write_json(folder / f"{stem}.json", {**record, "videos": names}),
    ]
