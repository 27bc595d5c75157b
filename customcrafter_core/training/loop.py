"""Learn a subject from photos: encode them, make the steps, keep what is worth keeping (paper, SSLM)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..base_model.model import VideoCrafter2
from ..diffusion.guidance import GuidanceBatch
from ..diffusion.schedule import STEPS
from ..errors import InputError
from ..memory.free import free_memory
from ..sampling.generation import generate
from ..sampling.preparation import AppliedSubject
from ..sampling.settings import VideoSettings
from ..subject.subject import Subject
from .augmentation import Framing, cropped_share
from .callbacks import Callbacks, Sample
from .checkpoints import CheckpointManager, RunIdentity, digest_pictures
from .config import PRIOR_PICTURES, TrainConfig
from .examples import encode_examples, video_size
from .memory_plan import plan_memory
from .photos import Clip, Photo, thumbnail
from .run_options import RunOptions
from .trainer import Trainer, TrainStep
from .workers import ALONE, Workers

log = logging.getLogger(__name__)

NOTED_LOSS = 0.3  # of a photo's area


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to."""

    subject: Subject
    steps: list[TrainStep]
    """Of the whole run, those before it was continued included."""


def train_subject(
    model: VideoCrafter2,
    photos: Sequence[Photo],
    config: TrainConfig,
    *,
    prior: Sequence[Photo | Clip] = (),
    run_options: RunOptions | None = None,
    callbacks: Callbacks | None = None,
    workers: Workers = ALONE,
    free: int | None = None,
) -> TrainingResult:
    """Learn a subject from photos, or go on learning where an earlier call with the same target stopped.

    Args:
        model: the base model; it is what it was before when this returns or raises.
        photos: of the subject; those without a caption get `TrainConfig.captions` in turn.
        config: what is learned and how.
        prior: pictures and clips of the class, for prior preservation (eq. 3); captions likewise.
        run_options: what is kept and sampled.
        callbacks: whom to tell.
        workers: the processes that train together; each calls this with the same arguments.
        free: bytes of memory that training may take; None: what is free on the model's device.

    Raises:
        InputError: no photos, a size or dtype that does not fit, too little memory, a kept run with other settings, or
            a loss that is not finite.
        OSError: the result cannot be written.
    """
    run_options, callbacks = run_options or RunOptions(), callbacks or Callbacks()
    has_prior = bool(prior) and config.prior_weight > 0
    manager = check_run(model, photos, config, run_options, prior=prior if has_prior else (), workers=workers)
    free = free_memory(model.device) if free is None else free
    plan = plan_memory(model, config, has_prior=has_prior, free=free, samples=bool(run_options.sample_every))
    if callbacks.on_plan is not None and workers.is_first:
        told = describe_materials(photos, len(prior) if has_prior else 0, config, video_size(model, config))
        callbacks.on_plan(f"{told} {plan}")
    sets = encode_examples(model, config, photos, prior, callbacks.on_encoded)
    trainer = Trainer(model, config, sets, workers=workers, recompute=plan.recompute)
    if manager is not None and run_options.start_over and workers.is_first:
        manager.restart(trainer)
    is_resumed = manager is not None and not run_options.start_over and manager.resume(trainer) and trainer.done > 0
    if is_resumed and callbacks.on_resumed is not None and workers.is_first:
        callbacks.on_resumed(trainer.done, config.all_steps)
    materials = {"photos": len(photos), "prior_pictures": len(prior) if has_prior else 0}
    return _Run(trainer, manager, run_options, callbacks, thumbnail(photos[0].image), plan.guidance, materials).finish()


def describe_materials(photos: Sequence[Photo], prior: int, config: TrainConfig, size: tuple[int, int]) -> str:
    """What a run learns from, in a line or two, and what may not be as its user thinks.

    Args:
        photos: of the subject.
        prior: how many pictures of the class; without them it is not the paper's method.
        config: what is learned and how.
        size: width and height that photos are cut to.
    """
    lost = f", so nothing keeps the class from being forgotten; the paper has {PRIOR_PICTURES}"
    others = f"{prior or 'no'} prior picture{'s' * (prior != 1)}{lost if config.prior_weight and not prior else ''}"
    told = f"{len(photos)} photo{'s' * (len(photos) != 1)}, {others}."
    framing = Framing(size, 1, config.fit, config.crop_anchor)
    whole = sum(framing.is_whole(photo.image.size) and photo.image.size != size for photo in photos)
    losses = [cropped_share(p.image.size, size) for p in photos if not framing.is_whole(p.image.size)]
    many = sum(loss > NOTED_LOSS for loss in losses)
    if whole:
        told += f" {whole} shown whole: their shape is not that of {size[0]}x{size[1]} (setting fit)."
    if many:
        told += (
            f" The edges of {many} are cut off, up to {max(losses):.0%} of a photo, to fit {size[0]}x{size[1]}: "
            "if the subject reaches there, choose another crop_anchor, or fit whole."
        )
    masked = sum(photo.mask is not None for photo in photos)
    if masked:
        told += f" {masked} with a mask: outside it the loss counts {config.mask_background:g} times."
    return told


def check_run(
    model: VideoCrafter2,
    photos: Sequence[Photo],
    config: TrainConfig,
    run_options: RunOptions,
    *,
    prior: Sequence[Photo | Clip] | None = None,
    workers: Workers = ALONE,
) -> CheckpointManager | None:
    """Refuse what `train_subject` would; called before pictures of the class are made, which may take an hour.

    Args:
        model: the base model.
        photos: of the subject.
        config: what is learned and how.
        run_options: what is kept.
        prior: pictures and clips of the class; None: not known yet.
        workers: the processes that train together.

    Returns:
        What keeps the run, if anything does.

    Raises:
        InputError: no photos, a size or dtype that does not fit, or a kept run with other settings.
    """
    check_dtype(model.dtype)
    if not photos:
        raise InputError(expected="at least one photo of the subject", found="none", remedy="Three to ten are best.")
    video_size(model, config)
    if run_options.target is None:
        return None
    dtype, seen = str(model.dtype).removeprefix("torch."), None if prior is None else digest_pictures(prior)
    identity = RunIdentity(config, model.fingerprint, dtype, digest_pictures(photos), seen, workers.size)
    manager = CheckpointManager(run_options.target, identity, run_options.keep_checkpoints)
    if not run_options.start_over:
        manager.check()
    return manager


@dataclass
class _Run:
    """Makes the steps in stretches, with what happens between them."""

    trainer: Trainer
    manager: CheckpointManager | None
    run_options: RunOptions
    callbacks: Callbacks
    picture: bytes
    guidance: GuidanceBatch
    materials: dict[str, int]
    """What it learns from, for the record in the subject's file."""

    def finish(self) -> TrainingResult:
        trainer = self.trainer
        try:
            self._begin()
            while not trainer.is_finished:
                self._stretch()
                self._pause()
        except BaseException:
            self._save_after_a_stop()
            raise
        trainer.workers.wait()
        return TrainingResult(self._subject(), trainer.history)

    def _begin(self) -> None:
        """The sample before the first step; of a run that goes on, what a stop or kill left undone."""
        trainer, manager = self.trainer, self.manager
        if manager is None or not trainer.done:
            self._sample()
            return
        if trainer.workers.is_first and not manager.is_subject_of(trainer.done):
            manager.save(trainer, self._subject())
        self._pause(has_sample=manager.has_sample(trainer.done))

    def _stretch(self) -> None:
        """Steps up to the next pause."""
        trainer, run_options = self.trainer, self.run_options
        ends = [trainer.config.all_steps]
        ends += [trainer.done // n * n + n for n in (run_options.checkpoint_every, run_options.sample_every) if n]
        with trainer.attached():
            while trainer.done < min(ends):
                step = trainer.step()
                if self.callbacks.on_step is not None and trainer.workers.is_first:
                    self.callbacks.on_step(step)

    def _pause(self, *, has_sample: bool = False) -> None:
        """What is due after a stretch and was not done yet."""
        trainer, run_options, manager = self.trainer, self.run_options, self.manager
        is_last = trainer.is_finished
        # with a sample too, so that the row that looks best has its file
        is_checkpoint = is_last or _is_due(trainer.done, run_options.checkpoint_every)
        is_checkpoint = is_checkpoint or _is_due(trainer.done, run_options.sample_every)
        if manager is not None and is_checkpoint and trainer.workers.is_first:
            self._checkpoint(manager)
        if not has_sample and (is_last or _is_due(trainer.done, run_options.sample_every)):
            self._sample()

    def _checkpoint(self, manager: CheckpointManager) -> None:
        """Write what is not there; what cannot be written now is tried again at the next checkpoint, if there is one."""
        step = self.trainer.done
        try:
            if manager.saved_step != step:
                manager.save(self.trainer, self._subject())
                manager.keep_pictures(self.trainer.history)
            if self.run_options.checkpoint_every and not manager.checkpoint_path(step).is_file():
                manager.keep(self._subject())
        except OSError as error:
            if self.trainer.is_finished:
                raise
            log.warning("The checkpoint at step %d could not be written: %s", step, error)

    def _sample(self) -> None:
        trainer, run_options = self.trainer, self.run_options
        if not run_options.sample_every or not trainer.workers.is_first:
            return
        subject = self._subject()
        width, height = video_size(trainer.model, trainer.config)
        settings = VideoSettings(
            prompt=run_options.sample_prompt.replace("{}", subject.trigger),
            seed=run_options.sample_seed,
            steps=run_options.sample_steps,
            fps=trainer.config.fps,
            width=width,
            height=height,
            guidance=self.guidance,
        )
        # K counts steps of a video to look at: of fewer steps, fewer are in the same range of noise
        first = max(1, round(run_options.recommended.k * run_options.sample_steps / STEPS))
        strength = replace(run_options.recommended, k=first if run_options.recommended.k else 0)
        applied = [AppliedSubject(subject, strength)]
        latent = generate(trainer.model, settings, applied, on_step=self.callbacks.on_sampled_step).latent
        with torch.no_grad():
            sample = Sample(trainer.done, trainer.model.decode(latent)[0])
        if self.manager is not None:
            try:
                self.manager.keep_pictures(trainer.history, sample)
            except OSError as error:
                log.warning("The sample at step %d could not be written: %s", trainer.done, error)
        if self.callbacks.on_sample is not None:
            self.callbacks.on_sample(sample)

    def _subject(self) -> Subject:
        trainer = self.trainer
        subject = trainer.learner.subject(trainer.config, trainer.model, trainer.done, self.picture)
        # each process has the batch of the settings
        training = {**subject.training, "processes": trainer.workers.size, **self.materials}
        training |= {"changes": self.manager.history} if self.manager is not None and self.manager.history else {}
        skipped = sum(step.is_skipped for step in trainer.history)
        training |= {"skipped_steps": skipped} if skipped else {}
        return replace(subject, recommended=self.run_options.recommended, training=training)

    def _save_after_a_stop(self) -> None:
        """Keep what was learned, unless an update broke off; after a wrong loss a checkpoint before it is better."""
        trainer, manager = self.trainer, self.manager
        if manager is None or not trainer.workers.is_first or not trainer.done or not trainer.is_whole():
            return
        if trainer.went_wrong and manager.saved_step:
            return
        try:
            manager.save(trainer, self._subject())
            manager.keep_pictures(trainer.history)
        except OSError as error:
            log.error("What was learned could not be written, the last checkpoint is still there: %s", error)
            return
        if self.callbacks.on_saved is not None:
            self.callbacks.on_saved(trainer.done, trainer.config.all_steps)


def _is_due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def check_dtype(dtype: torch.dtype) -> None:
    """Refuse to train in half precision: small gradients become zero in it, and large activations infinite.

    Raises:
        InputError: the dtype is float16.
    """
    if dtype == torch.float16:
        raise InputError(
            expected="a base model in bfloat16 or float32 for training",
            found="one in float16, whose range is too small for gradients",
            remedy="Use bfloat16, which needs no more memory.",
        )
