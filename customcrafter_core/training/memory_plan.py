"""How a run fits into memory, and what to change if it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..base_model.model import VideoCrafter2
from ..diffusion.guidance import GuidanceBatch
from ..errors import InputError
from ..memory.counting import allocator_reserve
from ..memory.free import gigabytes
from .config import TrainConfig
from .examples import video_size
from .memory import MemoryEstimate, estimate_memory, sample_memory

NO_SAMPLES = {"sample_every": 0}
"""What the settings of `run_options.RunOptions` call a run without sample videos."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a run fits into memory."""

    estimate: MemoryEstimate
    recompute: bool
    """Whether activations are computed again in the backward pass instead of kept."""
    guidance: GuidanceBatch
    """How the two predictions of a sample video are made."""
    free: int

    def __str__(self) -> str:
        ways = ["activations are computed twice"] if self.recompute else []
        ways += ["a sample video's two predictions are made one by one"] * (self.guidance is GuidanceBatch.ONE_BY_ONE)
        how = f", where {' and '.join(ways)} to save memory" if ways else ""
        return f"Training takes about {self.estimate}{how}. Free beside the weights: {gigabytes(self.free)} GB."


def plan_memory(
    model: VideoCrafter2, config: TrainConfig, *, has_prior: bool, free: int, samples: bool = False
) -> MemoryPlan:
    """Decide whether activations are kept or computed again, and how sample videos are made.

    Args:
        model: the base model, loaded.
        config: the settings; with `TrainConfig.gradient_checkpointing` "auto" activations are kept where they fit.
        has_prior: whether each step also shows pictures of the class.
        free: bytes that training may take.
        samples: whether sample videos are made.

    Raises:
        InputError: it does not fit; the message names settings that do.
    """
    guidance = GuidanceBatch.AUTO
    for recompute in {"auto": (False, True), "on": (True,), "off": (False,)}[config.gradient_checkpointing]:
        estimate = estimate_memory(model, config, has_prior=has_prior, recompute=recompute)
        if estimate.needed <= free:
            break
    for guidance in (GuidanceBatch.AUTO, GuidanceBatch.ONE_BY_ONE) if samples else ():
        estimate = replace(estimate, sampling=sample_memory(model, config, guidance))
        if estimate.needed <= free:
            break
    if estimate.needed > free:
        raise InputError(
            expected=f"{gigabytes(estimate.needed)} GB of free memory for this training",
            found=f"{gigabytes(free)} GB",
            remedy=_Remedy(model, config, has_prior, free, samples).text(),
        )
    return MemoryPlan(estimate, recompute, guidance, free)


def plan_prior(model: VideoCrafter2, config: TrainConfig, *, free: int) -> GuidanceBatch:
    """How the model makes pictures of the class; told before an hour of it whether they and the training fit.

    Args:
        model: the base model, loaded.
        config: of the training that follows.
        free: bytes that either may take.

    Raises:
        InputError: the training or the making of pictures does not fit.
    """
    plan_memory(model, config, has_prior=True, free=free)
    own = replace(config, width=0, height=0)  # pictures are made at the model's own size
    for guidance in (GuidanceBatch.AUTO, GuidanceBatch.ONE_BY_ONE):
        needed = round(allocator_reserve(model.device) * sample_memory(model, own, guidance))
        if needed <= free:
            return guidance
    raise InputError(
        expected=f"{gigabytes(needed)} GB of free memory to make pictures of the class",
        found=f"{gigabytes(free)} GB",
        remedy="Give pictures of your own, or none.",
    )


@dataclass(frozen=True)
class _Remedy:
    """Looks for settings that would fit.

    Activations grow about as the pixels of a step do; what may fit by this rule is estimated before it is named.
    """

    model: VideoCrafter2
    config: TrainConfig
    has_prior: bool
    free: int
    samples: bool

    def text(self) -> str:
        """The mildest change of each setting that would fit, or how much the smallest of all would need."""
        again = {"gradient_checkpointing": "auto"} if self.config.gradient_checkpointing == "off" else {}
        if again and self.needed(again) <= self.free:
            return f"This would fit: {_words(again)} ({gigabytes(self.needed(again))} GB)."
        without = {**again, **NO_SAMPLES} if self.samples else again
        sizes = _smaller_sizes(self.model, self.config)
        kinds = [
            [self.with_token_stage({name: n}) for n in _halvings(getattr(self.config, name))]
            for name in ("frames", "batch")
        ]
        kinds += [sizes, [NO_SAMPLES] if self.samples else []]
        together = self.with_token_stage({"frames": 1, "batch": 1, **(sizes[-1] if sizes else {})})
        for always, tried in ((again, kinds), (without, kinds), (without, [[together]])):
            fitting = [words for kind in tried for words in self.mildest([{**always, **one} for one in kind])]
            if fitting:
                return f"Any of these would fit: {'; '.join(fitting)}."
        least = {**without, **together}
        return f"Even {_words(least)} would need {gigabytes(self.needed(least))} GB; use a larger device."

    def needed(self, changes: Mapping[str, Any]) -> int:
        """Bytes at the peak with other settings, where all that saves memory is done."""
        config, samples = self.changed(changes), self.samples and not NO_SAMPLES.keys() <= changes.keys()
        estimate = estimate_memory(self.model, config, has_prior=self.has_prior, recompute=True)
        sampling = sample_memory(self.model, config, GuidanceBatch.ONE_BY_ONE) if samples else 0
        return replace(estimate, sampling=sampling).needed

    def with_token_stage(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes, and a stage for V* alone whose step shows no more pictures than that of the main stage then."""
        config = self.changed(changes)
        most = config.frames * config.batch
        is_larger = config.token_steps > 0 and config.token_videos > most
        return {**changes, "token_batch": most} if is_larger else dict(changes)

    def changed(self, changes: Mapping[str, Any]) -> TrainConfig:
        """The settings of training with changes."""
        return replace(self.config, **{name: value for name, value in changes.items() if name not in NO_SAMPLES})

    def mildest(self, candidates: Sequence[Mapping[str, Any]]) -> list[str]:
        """The first of some changes that would fit, in words; none if none does."""
        unchanged = self.needed(NO_SAMPLES)
        for changes in candidates:
            share = _pixels(self.model, self.changed(changes)) / _pixels(self.model, self.config)
            if share * unchanged <= self.free and (bytes_needed := self.needed(changes)) <= self.free:
                return [f"{_words(changes)} ({gigabytes(bytes_needed)} GB)"]
        return []


def _smaller_sizes(model: VideoCrafter2, config: TrainConfig) -> list[dict[str, int]]:
    """About three quarters and half of the video's width and height that every level of the UNet divides, if any."""
    unit = model.config.pixels_per_latent * 2 ** (len(model.config.unet.block_out_channels) - 1)
    own = video_size(model, config)
    sizes = [tuple(int(side * share) // unit * unit for side in own) for share in (0.75, 0.5)]
    return [{"width": width, "height": height} for width, height in sizes if width and height]


def _pixels(model: VideoCrafter2, config: TrainConfig) -> int:
    """Of one step of the larger stage, the prior's not counted."""
    width, height = video_size(model, config)
    return width * height * max(config.frames * config.batch, config.token_videos if config.token_steps else 0)


def _halvings(number: int) -> list[int]:
    """Half of a number, half of that, and so on down to 1."""
    return [number >> i for i in range(1, number.bit_length())]


def _words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())
