"""All scores of one video at once; what cannot be computed is named, the rest is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..intervals import Interval, bootstrap_mean
from ..output.pixels import Frames
from ..subject.subject import PLACEHOLDER
from .dynamic_degree import RAFT_NAME, VBENCH_FPS, Flow, is_dynamic, raft
from .encoders import CLIP_NAME, CLIP_SOURCE, DINO_NAME, DINO_SOURCE, ClipEncoder, DinoEncoder
from .metrics import (
    ImageEncoder,
    ImageTextEncoder,
    consecutive_similarity,
    image_similarity,
    text_similarity,
    without_tokens,
)
from .motion import motion_travel

if TYPE_CHECKING:
    from .metrics import Pictures

CLIP_T, CLIP_I, DINO_I, CONSISTENCY = "CLIP-T", "CLIP-I", "DINO-I", "T. Cons."
DYNAMIC_DEGREE, MOTION = "Dynamic degree", "Motion"
PAPER_METRICS = (CLIP_T, CLIP_I, DINO_I, CONSISTENCY)
METRICS = (*PAPER_METRICS, DYNAMIC_DEGREE, MOTION)


@dataclass(frozen=True)
class Scorer:
    """The models at hand. Any of them may be None; `absent` then names what is not scored."""

    clip: ImageEncoder | None = None
    """For CLIP-T an `ImageTextEncoder`."""
    dino: ImageEncoder | None = None
    flow: Flow | None = None
    literal: bool = False
    """CLIP-T with the learned token as text, as the authors' code has it."""

    @property
    def absent(self) -> dict[str, str]:
        """Metric -> what it lacks."""
        clip = f"{CLIP_NAME} ({CLIP_SOURCE})"
        lacking = {name: clip for name in (CLIP_T, CLIP_I, CONSISTENCY) if self.clip is None}
        if self.clip is not None and not isinstance(self.clip, ImageTextEncoder):
            lacking[CLIP_T] = f"the text part of {clip}"
        if self.dino is None:
            lacking[DINO_I] = f"{DINO_NAME} ({DINO_SOURCE})"
        if self.flow is None:
            lacking[DYNAMIC_DEGREE] = f"RAFT (torchvision's {RAFT_NAME})"
        return lacking

    @property
    def notes(self) -> list[str]:
        """What keeps scores from being compared with the paper's."""
        models = ((self.clip, CLIP_NAME), (self.dino, DINO_NAME))
        return [
            f"The model given has not the sizes of {name}: scores by it cannot be compared with the paper's."
            for model, name in models
            if not getattr(model, "is_papers", True)
        ]

    def score(
        self,
        frames: Frames,
        prompt: str = "",
        photos: Pictures | None = None,
        *,
        placeholders: Sequence[str] = (PLACEHOLDER,),
        fps: int = VBENCH_FPS,
    ) -> dict[str, float]:
        """Every score there is a model and an input for, in the order of `METRICS`.

        Args:
            frames: ``(f, h, w, 3)``, values 0 … 1.
            prompt: as it was sampled; empty: no CLIP-T.
            photos: of the subject; None: no CLIP-I and DINO-I.
            placeholders: learned tokens, taken out of the prompt.
            fps: of the video.

        Raises:
            InputError: fewer than two frames, another shape, or NaN.
        """
        scores: dict[str, float] = {MOTION: motion_travel(frames)}
        if self.clip is not None:
            seen = self.clip.images(frames)
            scores[CONSISTENCY] = consecutive_similarity(seen)
            if prompt and isinstance(self.clip, ImageTextEncoder):
                text = prompt if self.literal else without_tokens(prompt, placeholders)
                scores[CLIP_T] = text_similarity(seen, self.clip.text(text))
            if photos is not None:
                scores[CLIP_I] = image_similarity(seen, self.clip.images(photos))
        if self.dino is not None and photos is not None:
            scores[DINO_I] = image_similarity(self.dino.images(frames), self.dino.images(photos))
        if self.flow is not None:
            scores[DYNAMIC_DEGREE] = float(is_dynamic(frames, self.flow, fps=fps))
        return {name: scores[name] for name in METRICS if name in scores}


def open_scorer(
    *,
    clip: str | Path | None = None,
    dino: str | Path | None = None,
    raft_weights: str | Path | None = None,
    literal: bool = False,
    device: str | torch.device = "cpu",
) -> Scorer:
    """Load the models that are given from local files.

    Raises:
        InputError: a folder or file that was given cannot be used; what is absent in it is named.
    """
    return Scorer(
        clip=None if clip is None else ClipEncoder(clip, device),
        dino=None if dino is None else DinoEncoder(dino, device),
        flow=None if raft_weights is None else raft(raft_weights, device),
        literal=literal,
    )


@dataclass(frozen=True)
class Summary:
    """Mean scores of several videos with their intervals."""

    means: Mapping[str, Interval]
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def summarize(
    scores: Sequence[Mapping[str, float]], scorer: Scorer | None = None, groups: Sequence[Hashable] | None = None
) -> Summary:
    """Means over videos, each metric over the videos that have it.

    Args:
        scores: of each video.
        scorer: that made them.
        groups: what each video belongs to, such as its subject, for the intervals; None: each stands alone.
    """
    groups = range(len(scores)) if groups is None else groups
    means = {}
    for name in METRICS:
        having = [(video[name], group) for video, group in zip(scores, groups, strict=True) if name in video]
        if having:
            means[name] = bootstrap_mean([value for value, _ in having], groups=[group for _, group in having])
    return Summary(means, scorer.absent if scorer else {}, scorer.notes if scorer else ())
