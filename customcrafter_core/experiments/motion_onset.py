"""Motion Onset: how much of a video's motion, and of its detail, is fixed after each denoising step.

It answers "which K?" from one run of the base model. At each step the clean video is predicted twice: with the prompt
and without (guidance needs both anyway). The prediction with the prompt tells little: the prompt alone says how things
move, at the first step already. What is *fixed* is what the noisy latent holds by itself, so the prediction without the
prompt is measured, by what it shares with the finished video: after ``k`` steps that of step ``k + 1``, and the video
itself after the last.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from ..base_model.model import VideoCrafter2
from ..diffusion.ddim import Prediction, ddim_steps
from ..diffusion.strength import K
from ..errors import InputError
from ..evaluation.motion import motion_travel
from ..files.writing import write_bytes, write_json
from ..output.chart import line_chart
from ..output.pixels import Frames
from ..output.video import write_video
from ..sampling.generation import SampledStep
from ..sampling.preparation import prepare
from ..sampling.settings import VideoSettings

CELLS = 8  # along the short side of a frame: what is coarser is layout, what is finer is detail
STILL = 0.05  # short sides; a video of which nothing travels farther does not move


@dataclass(frozen=True)
class MotionOnset:
    """Shares 0 … 1 that are fixed after 1, 2, … steps, and the K that follows from them."""

    motion: list[float]
    detail: list[float]
    frames: torch.Tensor
    """The finished video ``(t, h, w, 3)``."""
    settings: VideoSettings

    @property
    def suggested_k(self) -> int | None:
        """See `suggest_k`; None for a video that does not move, which has no motion to be fixed."""
        return suggest_k(self.motion) if moves_at_all(self.frames) else None

    def picture(self) -> Image.Image:
        """Both curves with the suggested K marked."""
        k = self.suggested_k
        return line_chart(
            {"motion": self.motion, "detail": self.detail},
            title="share that is fixed" if k is not None else "share that is fixed (the video does not move: no K)",
            below="steps done",
            mark=k,
            mark_name=f"K = {k}",
        )

    def table(self) -> list[dict[str, float]]:
        """One row for each step."""
        rows = zip(self.motion, self.detail, strict=True)
        return [{"steps": i + 1, "motion": motion, "detail": detail} for i, (motion, detail) in enumerate(rows)]

    def text(self) -> str:
        """The suggestion in the first line, and below it the table."""
        k = self.suggested_k
        still = f"The video does not move, so no K follows from it. K {K} is the paper's."
        first = still if k is None else f"Suggested K: {k} of {len(self.motion)} steps."
        rows = [f"{row['steps']:4g}  {row['motion']:6.1%}  {row['detail']:6.1%}" for row in self.table()]
        return "\n".join([first, "step  motion  detail", *rows])


def write_onset(
    folder: Path, name: str, onset: MotionOnset, about: Mapping[str, Any] = MappingProxyType({})
) -> list[Path]:
    """Write the video that was measured, the curves as a picture, and both with the settings as JSON.

    Args:
        folder: is made if need be.
        name: of the files.
        onset: what was measured.
        about: what else the JSON shall tell.

    Raises:
        InputError: pixels that are not finite.
        OSError: the disk is full or the folder cannot be written.
    """
    picture = io.BytesIO()
    onset.picture().save(picture, "PNG")
    record = {**asdict(onset.settings), **about, "suggested_k": onset.suggested_k, "steps_done": onset.table()}
    return [
        write_video(folder / f"{name}.mp4", onset.frames),
        write_bytes(folder / f"{name}.png", picture.getvalue()),
        write_json(folder / f"{name}.json", record),
    ]


def motion_part(frames: Frames) -> torch.Tensor:
    """Where something is that is not always there, as ``(t, h, w)``: the motion, whatever its colours.

    ``d = |low(x) - median_t low(x)|`` over the channels, less its mean over time; ``low`` is the mean over cells, `CELLS`
    along the short side.
    """
    coarse = _coarse(_video(frames))
    away = (coarse - coarse.median(0, keepdim=True).values).norm(dim=1)
    return away - away.mean(0, keepdim=True)


def detail_part(frames: Frames) -> torch.Tensor:
    """What is finer than the coarse layout: ``x - low(x)``, enlarged linearly, as ``(t, c, h, w)``."""
    video = _video(frames)
    return video - functional.interpolate(_coarse(video), size=video.shape[2:], mode="bilinear", align_corners=False)


def fixed_motion(predicted: torch.Tensor, final: torch.Tensor) -> float:
    """Squared cosine of two motions, 0 for opposite ones: the share of the one that is the other, whatever its contrast."""
    product = max(float((predicted * final).sum()), 0.0)
    sizes = float((predicted**2).sum()) * float((final**2).sum())
    return product**2 / sizes if sizes > 0 else 0.0


def fixed_detail(predicted: torch.Tensor, final: torch.Tensor) -> float:
    """``1 - |predicted - final|² / |final|²``, at least 0: the share of the detail's variance that is predicted rightly."""
    whole = float((final**2).sum())
    return max(1 - float(((predicted - final) ** 2).sum()) / whole, 0.0) if whole > 0 else 1.0


def fixed_shares(held: Iterable[Frames], final: Frames) -> tuple[list[float], list[float]]:
    """Shares of the motion and of the detail of a finished video that are fixed after each step.

    Args:
        held: after each step what the latent holds by itself: its prediction without the prompt, which the next step
            makes, decoded, ``(t, h, w, 3)``; after the last step the video itself. One is in use at a time.
        final: the finished video ``(t, h, w, 3)``.
    """
    moved, detailed = motion_part(final), detail_part(final)
    motion, detail = [], []
    for frames in held:
        motion.append(fixed_motion(motion_part(frames), moved))
        detail.append(fixed_detail(detail_part(frames), detailed))
    return motion, detail


def moves_at_all(frames: Frames) -> bool:
    """Whether there is motion whose fixing could be measured."""
    return motion_travel(frames) > STILL


def suggest_k(motion: Sequence[float]) -> int:
    """The knee of the curve: the number of steps ``k`` with the largest ``motion_k - k / steps`` (Satopää et al. 2011).

    From there on a step fixes less of the motion than its even share, so it is worth more at full strength. On exact denoisers
    without guidance, asking for half the share comes nearer to the best K (``benchmarks/exact_world.md``); on a network, whose
    curve rises slowly to its end, it comes far too late (``benchmarks/motion_onset.md``).
    """
    gains = np.asarray(motion) - np.arange(1, len(motion) + 1) / len(motion)
    return int(gains.argmax()) + 1


@torch.inference_mode()
def motion_onset(
    model: VideoCrafter2,
    settings: VideoSettings,
    *,
    on_step: Callable[[SampledStep], None] | None = None,
) -> MotionOnset:
    """Sample a video with the base model alone and measure each step.

    Costs one run, one decoding of the video for each step, and with a guidance scale of 1 twice the predictions.

    Args:
        model: the base model.
        settings: prompt, size, seed and sampling; one video, not a batch.
        on_step: called after each step with the clean latent that the whole prediction implies; an exception it raises
            ends the run.

    Raises:
        InputError: a setting does not fit, a batch, or a single frame.
    """
    if settings.batch != 1:
        raise InputError(expected="a batch of 1", found=f"{settings.batch}", remedy="Measure one video after another.")
    run = prepare(model, settings)
    if run.settings.frames < 2:
        raise InputError(
            expected="at least two frames", found=f"{run.settings.frames}", remedy="A still has no motion."
        )

    def predict(x: torch.Tensor, step: int) -> Prediction:
        return run.unet(x, run.timesteps[step], both=True)

    x, alone = run.noise(), []
    for made in ddim_steps(predict, x, run.levels, noise=run.noise.of_step, eta=run.settings.eta):
        assert made.prediction.uncond is not None  # both were asked for
        alone.append(run.levels[made.step].clean(made.x, made.prediction.uncond))
        x = made.following
        if on_step is not None:
            on_step(SampledStep(made.step, len(run.timesteps), run.timesteps[made.step], made.x0))
    frames = model.decode(x)[0]
    del alone[0]  # predicted from noise, after no step at all
    motion, detail = fixed_shares(chain((model.decode(latent)[0] for latent in alone), [frames]), frames)
    return MotionOnset(motion, detail, frames, run.settings)


def _video(frames: Frames) -> torch.Tensor:
    """Frames ``(t, h, w, c)`` as ``(t, c, h, w)`` in double precision."""
    values = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(frames))
    return values.double().permute(0, 3, 1, 2)


def _coarse(video: torch.Tensor) -> torch.Tensor:
    height, width = video.shape[2:]
    unit = min(height, width) / CELLS
    return functional.adaptive_avg_pool2d(video, (max(round(height / unit), 1), max(round(width / unit), 1)))
