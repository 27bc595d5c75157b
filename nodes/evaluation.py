"""Score videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..customcrafter_core.errors import InputError
from ..customcrafter_core.subject.placeholder import PLACEHOLDER
from . import host
from .evaluation_inputs import (
    FLOWS,
    NONE,
    chosen_folder,
    chosen_weights,
    encoder_folders,
    model_inputs,
    video_inputs,
)

if TYPE_CHECKING:
    from ..customcrafter_core.evaluation.scoring import Summary


class EvaluateVideo(io.ComfyNode):
    """Scores of videos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterEvaluateVideo",
            display_name="Evaluate Video",
            category=host.EVALUATION,
            description="Score a video as the paper does: CLIP-T, CLIP-I, DINO-I and temporal consistency, plus how "
            "much moves. Motion needs no model; the other scores use models on your disk. Nothing is downloaded.",
            search_aliases=["metrics", "CLIP score", "DINO score", "temporal consistency", "motion", "benchmark"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[*video_inputs(), *model_inputs()],
            outputs=[
                io.String.Output(display_name="text", tooltip="The scores, and what the missing ones need."),
                io.String.Output(display_name="json", tooltip="The scores of each video and their means, as JSON."),
                io.Image.Output(display_name="picture", tooltip="The scores as a bar chart."),
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
        return host.shown(cls, picture, text, text, json.dumps(record, ensure_ascii=False), picture)


def split(frames: torch.Tensor, videos: int) -> list[torch.Tensor]:
    """Frames of several videos, one after the other, by video.

    Raises:
        InputError: they do not come out even.
    """
    if len(frames) % videos:
        raise InputError(
            expected=f"{videos} videos of the same length",
            found=f"{len(frames)} frames",
            remedy="Set videos to how many the frames hold.",
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


NODES = [EvaluateVideo]
