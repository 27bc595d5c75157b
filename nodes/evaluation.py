"""Score videos, compare strengths of a subject, and find K."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io, ui

from ..customcrafter_core.diffusion.strength import LAMBDA_L, LAMBDA_S, K
from ..customcrafter_core.errors import InputError
from ..customcrafter_core.subject.placeholder import PLACEHOLDER
from . import host
from .evaluation_inputs import (
    FLOWS,
    NONE,
    chosen_folder,
    chosen_weights,
    counts_from,
    encoder_folders,
    model_inputs,
    run_inputs,
    strengths_from,
    video_inputs,
)
from .inputs import SUBJECT, any_base_input

if TYPE_CHECKING:
    from ..customcrafter_core.evaluation.scoring import Summary
    from ..customcrafter_core.experiments.sweep import Sweep


class EvaluateVideo(io.ComfyNode):
    """Scores of videos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterEvaluateVideo",
            display_name="Evaluate Video",
            category=host.EVALUATION,
            description="Score a video as the paper does: CLIP-T, CLIP-I, DINO-I and temporal consistency, and how "
            "much moves. Motion needs no model; the other scores need models on your disk. Nothing is downloaded.",
            search_aliases=["metrics", "CLIP score", "DINO score", "temporal consistency", "motion", "benchmark"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[*video_inputs(), *model_inputs()],
            outputs=[
                io.String.Output(display_name="text", tooltip="The scores, and what is missing for others."),
                io.String.Output(display_name="json", tooltip="The same as JSON, for each video and their means."),
                io.Image.Output(display_name="picture", tooltip="The scores as bars."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, clip: str = NONE, dino: str = NONE, raft: str = NONE, **_: Any) -> str:
        """Changes with the models' files."""
        known = encoder_folders()
        files = [file for name in (clip, dino) if name in known for file in sorted(known[name].iterdir())]
        weights = None if raft == NONE else folder_paths.get_full_path(FLOWS, raft)
        files += [] if weights is None else [Path(weights)]
        return json.dumps([[str(file), file.stat().st_mtime_ns] for file in files])

    @classmethod
    def execute(
        cls,
        frames: torch.Tensor,
        prompt: str,
        fps: int,
        videos: int = 1,
        photos: torch.Tensor | None = None,
        clip_vision: Any = None,
        clip: str = NONE,
        dino: str = NONE,
        raft: str = NONE,
        token: str = PLACEHOLDER,
        literal: bool = False,
    ) -> io.NodeOutput:
        """Score."""
        from ..customcrafter_core.evaluation.scoring import summarize
        from ..customcrafter_core.output.chart import bar_chart
        from .native.photos import photos_of
        from .native.picture import as_image
        from .native.scoring import scorer_with

        parts = split(frames[..., :3].cpu(), videos)  # with --gpu-only they are on the GPU
        pictures = None if photos is None else [one.image for one in photos_of([photos], [], "photos")]
        scorer = scorer_with(
            vision=clip_vision, clip=chosen_folder("clip", clip), dino=chosen_folder("dino", dino),
            raft=chosen_weights(raft), literal=literal,
        )  # fmt: skip
        tokens, bar, scores = token.split(), comfy.utils.ProgressBar(videos), []
        for part in parts:
            scores.append(scorer.score(part, prompt.strip(), pictures, placeholders=tokens, fps=fps))
            bar.update(1)
        summary = summarize(scores, scorer)
        text = text_of(summary, scores, lacking(prompt, pictures))
        record = {
            "videos": scores,
            "means": {name: mean.mean for name, mean in summary.means.items()},
            "absent": dict(summary.absent),
            "notes": list(summary.notes),
        }
        count = "one video" if videos == 1 else f"mean of {videos} videos"
        picture = as_image(bar_chart(summary.means, title=count))
        return shown(cls, picture, text, text, json.dumps(record, ensure_ascii=False), picture)


def split(frames: torch.Tensor, videos: int) -> list[torch.Tensor]:
    """Frames of several videos, one after the other, by video.

    Raises:
        InputError: they do not come out even.
    """
    if len(frames) % videos:
        raise InputError(
            expected=f"{videos} videos of the same length", found=f"{len(frames)} frames", remedy="Correct videos."
        )
    return list(frames.split(len(frames) // videos))


def lacking(prompt: str, photos: Any) -> list[str]:
    """What scores were not asked for by the inputs."""
    without_prompt = [] if prompt.strip() else ["No prompt: no CLIP-T."]
    return [*without_prompt, *([] if photos is not None else ["No photos: no CLIP-I and DINO-I."])]


def text_of(summary: Summary, videos: Sequence[Mapping[str, float]], remarks: Sequence[str]) -> str:
    """Scores in lines, of several videos those of each too, then what is missing."""
    scores = [f"{name}: {mean}" for name, mean in summary.means.items()]
    if len(videos) > 1:
        scores += [
            f"Video {i + 1}: {', '.join(f'{name} {value:.3f}' for name, value in video.items())}"
            for i, video in enumerate(videos)
        ]
    absent = [f"Not scored: {name}, needs {lack}." for name, lack in summary.absent.items()]
    return "\n".join([*scores, *absent, *remarks, *summary.notes])


class MotionOnsetNode(io.ComfyNode):
    """Which K, from one run of the base model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterMotionOnset",
            display_name="Motion Onset",
            category=host.EVALUATION,
            description="Which K? Samples the base model once and measures how much of the motion and of the detail is "
            "fixed after each step. K is the step from which on a step fixes less of the motion than half its share.",
            search_aliases=["suggest K", "motion analysis"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=run_inputs("The MODEL of Load VideoCrafter2, without a subject."),
            outputs=[
                io.Int.Output(display_name="k", tooltip="The suggested K; the paper's where nothing moves."),
                io.Image.Output(display_name="curve", tooltip="Share that is fixed after each step."),
                io.String.Output(display_name="text", tooltip="The same as a table."),
                io.Image.Output(display_name="frames", tooltip="The video that was measured."),
            ],
        )

    @classmethod
    def execute(cls, vae: Any, **given: Any) -> io.NodeOutput:
        """Measure."""
        from .native.onset import measure
        from .native.picture import as_image
        from .native.prompted import run_of

        prompt, negative = given["prompt"], given["negative"]
        onset = measure(run_of(**given), vae, prompt, negative)
        k, picture, text = onset.suggested_k, as_image(onset.picture()), onset.text()
        return shown(cls, picture, text.splitlines()[0], K if k is None else k, picture, text, onset.frames)


class WeightSweep(io.ComfyNode):
    """Videos of every combination of strengths."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        lists = "Values, apart by commas."
        return host.schema(
            node_id="CustomCrafterWeightSweep",
            display_name="Weight Sweep",
            category=host.EVALUATION,
            description="Make one prompt from one seed at every combination of some λs, λl and K, to see which suits a "
            "subject. Steps that runs have in common are computed once.",
            search_aliases=["XY plot", "compare strengths", "grid"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *run_inputs("The MODEL of Load VideoCrafter2."),
                SUBJECT.Input("subject", tooltip="From Load Subject or the trainer."),
                io.String.Input(
                    "lambda_s",
                    default=f"{LAMBDA_S / 2:g}, {LAMBDA_S:g}",
                    tooltip=f"Strengths λs of the first K steps. {lists}",
                ),
                io.String.Input(
                    "lambda_l", default=f"{LAMBDA_L:g}", tooltip=f"Strengths λl of all later steps. {lists}"
                ),
                io.String.Input("k", default=f"{K - 2}, {K}, {K + 3}", tooltip=f"Numbers of first steps. {lists}"),
                any_base_input(),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="A labelled row of frames for each combination."),
                io.String.Output(display_name="table", tooltip="A line for each combination, with its motion."),
                io.Image.Output(
                    display_name="frames",
                    tooltip="All videos one after the other, in the order of the table; for Evaluate Video.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, vae: Any, clip: Any, subject: Any, lambda_s: str, lambda_l: str, k: str, **given: Any
    ) -> io.NodeOutput:
        """Sample and compare."""
        from ..customcrafter_core.experiments.sweep import combinations
        from .native.picture import as_image
        from .native.prompted import run_of
        from .native.sweep import LARGEST as MOST
        from .native.sweep import step_count, sweep
        from .native.text import teach

        ranges = strengths_from("lambda_s", lambda_s), strengths_from("lambda_l", lambda_l), counts_from("k", k)
        settings = run_of(clip=teach(clip, subject), **given)
        strengths = combinations(*ranges, step_count(settings))
        if len(strengths) > MOST:
            raise InputError(
                expected=f"at most {MOST} combinations", found=f"{len(strengths)}", remedy="Give shorter lists."
            )
        found = sweep(settings, subject, vae, strengths, given["prompt"], given["negative"])
        sheet, table = as_image(found.sheet()), table_of(found)
        frames = torch.cat([cell.frames for cell in found.cells])
        return shown(cls, sheet, table.splitlines()[-1], sheet, table, frames)


def table_of(sweep: Sweep) -> str:
    """A line for each combination, and what was saved."""
    rows = [
        f"{cell.label}: " + ", ".join(f"{name} {value:.3f}" for name, value in cell.scores.items())
        for cell in sweep.cells
    ]
    saved = f"{sweep.forwards} of {sweep.forwards_alone} steps computed, {sweep.saving:.0%} shared."
    return "\n".join([*rows, saved])


def shown(node: type[io.ComfyNode], image: torch.Tensor, said: str, *outputs: Any) -> io.NodeOutput:
    """The outputs, with a picture ``(1, h, w, 3)`` and a text on the node."""
    host.show_on_node(image)
    host.show_text(node, said)
    return io.NodeOutput(*outputs, ui=ui.PreviewImage(image, cls=node))


NODES = [EvaluateVideo, WeightSweep, MotionOnsetNode]
