"""A training run on the host: on a base model of its own, shown and stopped by the page, and gone afterwards."""

from __future__ import annotations

import gc
import re
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from ...customcrafter_core.base_model.fingerprint import read_widths, same_base
from ...customcrafter_core.base_model.loading import load_videocrafter2
from ...customcrafter_core.base_model.model import VideoCrafter2
from ...customcrafter_core.errors import InputError
from ...customcrafter_core.memory.free import free_memory
from ...customcrafter_core.output.chart import line_chart
from ...customcrafter_core.training.callbacks import Callbacks, Sample
from ...customcrafter_core.training.checkpoints import SAMPLE_STRIP, run_folder
from ...customcrafter_core.training.config import TrainConfig
from ...customcrafter_core.training.loop import TrainingResult, check_run, train_subject
from ...customcrafter_core.training.memory_plan import plan_prior
from ...customcrafter_core.training.photos import Clip, Photo
from ...customcrafter_core.training.pictures import draw_loss, draw_sample_row, smooth
from ...customcrafter_core.training.prior import generate_prior, may_hold
from ...customcrafter_core.training.run_options import RunOptions
from ...customcrafter_core.training.trainer import TrainStep
from .model import require_base

BETWEEN_PREVIEWS = 1.0  # seconds
PREVIEW_SIDE = 512
SHOWN_STEPS = 2_000  # at most, in a preview of the loss


@dataclass(frozen=True)
class MadePrior:
    """Pictures of the class that the base model makes, and where they are kept."""

    count: int
    clips: bool
    folder: Path

    def of(self, base: VideoCrafter2, class_word: str, seed: int) -> Path:
        """The folder of one base model, class word and seed."""
        plain = re.sub(r"[^a-z0-9]+", "_", class_word.lower()).strip("_")[:60]
        kind = "clips" if self.clips else "stills"
        name = f"{plain}_{zlib.crc32((class_word + read_widths(base.fingerprint)).encode()):08x}_{kind}_{seed}"
        # the base model's numbers depend a little on the dtype, so that they can be compared but are no name
        names = (name if number == 1 else f"{name}_{number}" for number in count(1))
        return next(folder for own in names if may_hold(folder := self.folder / own, base.fingerprint))


@dataclass(frozen=True)
class Order:
    """What is to be learned."""

    config: TrainConfig
    target: Path
    """The subject's file."""
    run_options: RunOptions
    photos: list[Photo]
    prior: list[Photo]
    made_prior: MadePrior


def train(model: ModelPatcher, path: Path, order: Order, say: Callable[[str], None]) -> TrainingResult:
    """Learn a subject; afterwards, whatever happened, nothing of the training is left in memory.

    Args:
        model: the MODEL; only asked which weights it has and how it holds them.
        path: the file that it was loaded from. The host's own weights cannot have gradients: nodes load them in
            PyTorch's inference mode, and LoRAs may be on them.
        order: what is to be learned.
        say: shows a line of text on the node.

    Raises:
        InputError: as `customcrafter_core.training.loop.train_subject`.
    """
    memory.unload_all_models()
    memory.soft_empty_cache()
    try:
        with torch.inference_mode(False):
            watch = Watch(say)
            result = _train(model, path, order, watch)
            say(watch.summary(order.config.trigger, result.subject.steps))
            return result
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the model as long as the host holds the error
        raise
    finally:
        gc.collect()
        memory.soft_empty_cache()


def _train(model: ModelPatcher, path: Path, order: Order, watch: Watch) -> TrainingResult:
    config = order.config
    base = _load(model, path, watch)
    prior: list[Photo | Clip] = [*order.prior]
    made = order.made_prior
    if made.count and config.prior_weight:
        check_run(base, order.photos, config, order.run_options)
        folder = made.of(base, config.class_word, config.seed)
        prior += generate_prior(
            base, config.class_word, folder, made.count, clips=made.clips, seed=config.seed,
            on_plan=lambda: plan_prior(base, config, free=free_memory(base.device)),
            on_item=watch.phase("Making prior pictures"), on_step=lambda _: watch.check(),
        )[: made.count]  # fmt: skip
    callbacks = Callbacks(
        on_plan=watch.plan,
        on_encoded=watch.phase("Encoding photos"),
        on_resumed=watch.resumed,
        on_step=watch.step,
        on_sample=watch.sample,
        on_sampled_step=lambda _: watch.check(),
        on_saved=watch.saved,
    )
    return train_subject(base, order.photos, config, prior=prior, run_options=order.run_options, callbacks=callbacks)


def _load(model: ModelPatcher, path: Path, watch: Watch) -> VideoCrafter2:
    """The base model a second time, in a precision that can be trained in, on the host's device."""
    is_precise = model.model.weight_dtype == torch.float32
    base = load_videocrafter2(
        path,
        dtype=torch.float32 if is_precise else torch.bfloat16,
        device=memory.get_torch_device(),
        on_tensor=watch.phase("Loading the base model"),
    )
    if not same_base(require_base(model).fingerprint, base.fingerprint):
        raise InputError(
            expected=f"the weights of the MODEL in {path.name}",
            found="others: the file was replaced since",
            remedy="Load it again: change the checkpoint in Load VideoCrafter2 and back.",
        )
    return base


@dataclass
class Watch:
    """Shows how far a run is; each of its functions raises when the page asked to stop."""

    say: Callable[[str], None]
    steps: list[TrainStep] = field(default_factory=list)
    picture: Image.Image | None = None
    """The newest sample."""
    begun_at: int = 0
    """How many steps an earlier run had made."""
    _shown: float = 0.0
    _started: float = 0.0
    _bar: Any = None

    def check(self) -> None:
        """Stop if the page asks for it."""
        memory.throw_exception_if_processing_interrupted()

    def phase(self, name: str) -> Callable[[int, int], None]:
        """A part of the work that is counted: takes how many of how many are done."""
        bars: list[Any] = []

        def show(done: int, total: int) -> None:
            self.check()
            if not bars:
                bars.append(comfy.utils.ProgressBar(total))
            if self._is_due() or done == total:
                self.say(f"{name}: {done} of {total}")
            bars[0].update_absolute(done, total)

        return show

    def plan(self, text: str) -> None:
        """Show the estimate of memory."""
        self.say(text)
        self._shown = time.monotonic() + BETWEEN_PREVIEWS  # long enough to be read

    def resumed(self, done: int, total: int) -> None:
        """Show from where a run goes on."""
        self.begun_at = done
        self.say(f"Goes on from step {done} of {total}")
        self._shown = time.monotonic() + BETWEEN_PREVIEWS

    def saved(self, done: int, total: int) -> None:
        """Show that a stop lost nothing."""
        self.say(f"Saved at step {done} of {total}. Run it again to go on from there.")

    def step(self, step: TrainStep) -> None:
        """Show a step: the bar each time, text and picture now and then."""
        self.check()
        if not self.steps:
            self._bar, self._started = comfy.utils.ProgressBar(step.steps), time.monotonic()
        self.steps.append(step)
        preview = None
        if self._is_due():
            self.say(self._text())
            shown = self.picture or draw_loss(self.steps[-SHOWN_STEPS:])
            preview = ("JPEG", shown, PREVIEW_SIDE)
        self._bar.update_absolute(step.step + 1, step.steps, preview)

    def sample(self, sample: Sample) -> None:
        """Show a sample from now on."""
        self.check()
        self.picture, self._shown = draw_sample_row(sample), 0.0

    def _text(self) -> str:
        last = self.steps[-1]
        loss = smooth([step.loss for step in self.steps[-SHOWN_STEPS:]])[-1]
        each = (time.monotonic() - self._started) / max(len(self.steps) - 1, 1)  # counted from the end of the first
        left = each * (last.steps - last.step - 1)
        before = f" (went on from {self.begun_at})" if self.begun_at else ""
        return f"Step {last.step + 1} of {last.steps}{before}, loss {loss:.4f}, {_duration(left)} left"

    def summary(self, trigger: str, steps: int) -> str:
        """What the run came to, for the end."""
        if self.begun_at == steps:
            return f"{trigger}: all {steps} steps were made before; raise steps to go on, or start over"
        before = f", the first {self.begun_at} of them before" if self.begun_at else ""
        return f"{trigger}: learned in {steps} steps{before}"

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._shown < BETWEEN_PREVIEWS:
            return False
        self._shown = now
        return True


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def samples_picture(target: Path) -> Image.Image | None:
    """All sample videos of the run that makes a subject file, one below the other; None if there are none."""
    path = run_folder(target) / SAMPLE_STRIP
    return Image.open(path, formats=["PNG"]).convert("RGB") if path.is_file() else None


def no_samples() -> Image.Image:
    """What stands in for sample videos that nobody asked for."""
    return line_chart({}, title="no samples: sample_every is 0", below="")
