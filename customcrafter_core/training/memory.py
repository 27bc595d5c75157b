"""How much memory a training needs, known before its first step.

A step of each stage, the encoding of photos and the making of a sample video are counted, so that the figures follow the
method, the size of the model and the libraries as they are. What is decided by them, and what may be changed if memory is
short, is in `memory_plan`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..base_model.config import IMAGE_CHANNELS, PROMPT_LENGTH
from ..base_model.model import VideoCrafter2
from ..base_model.text import encode_ids
from ..diffusion.guidance import GuidanceBatch
from ..memory.counting import DryRun, allocator_reserve, tensors_of
from ..memory.free import gigabytes
from ..memory.sampling import decoding_memory, prediction_memory
from ..subject.subject import LoRAFactors, Subject
from .config import TrainConfig
from .examples import IMAGES_AT_ONCE, video_size
from .gradient_checkpointing import gradient_checkpointing
from .learner import TOKEN, Learner
from .objective import autocast

ADAM_MOMENTS = 2
_PEAKS: dict[tuple[Any, ...], int] = {}  # what was counted once: it takes seconds and depends on sizes only


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the model's device at the peak of training.

    Not counted: an allocator's gaps, which ``reserve`` allows for, and the driver.
    """

    weights: int
    """Of the base model's three networks, which are there already."""
    learned: int
    """What is learned, its gradients and AdamW's two moments, in float32."""
    activations: int
    """The most that the forward and backward pass of one step, of any stage, hold besides."""
    reserve: float
    """Bytes taken for each byte in use."""
    sampling: int = 0
    """The most that a sample video holds in the place of the activations; 0: none is made."""
    encoding: int = 0
    """The most that the encoding of photos, before the first step, holds in their place."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.learned + max(self.activations, self.sampling, self.encoding)

    @property
    def needed(self) -> int:
        """What has to be free beside the weights, the allocator's share included."""
        return round(self.reserve * (self.total - self.weights))

    def __str__(self) -> str:
        parts = [f"{part} {gigabytes(getattr(self, part))}" for part in ("weights", "learned", "activations")]
        others = [f"a sample video {gigabytes(self.sampling)}"] if self.sampling else []
        if self.encoding > max(self.activations, self.sampling):
            others.append(f"encoding photos {gigabytes(self.encoding)}")
        place = f", or in their place {' or '.join(others)}" if others else ""
        return f"{gigabytes(self.total)} GB: {', '.join(parts)}{place}"


def estimate_memory(model: VideoCrafter2, config: TrainConfig, *, has_prior: bool, recompute: bool) -> MemoryEstimate:
    """What training would need; nothing is allocated, and the model is not touched.

    Args:
        model: the base model, loaded.
        config: the settings.
        has_prior: whether each step also shows pictures of the class.
        recompute: whether activations are computed again instead of kept.
    """
    dry = DryRun()
    with dry.fake:
        learner = Learner.start(model, config, torch.Generator())
    stages = [_Stage(config.frames, config.batch, config.batch if has_prior else 0)]
    stages += [_Stage(1, config.token_videos, 0, token_alone=True)] if config.token_steps else []
    peaks = []
    for stage in stages:
        sizes = (config.method, config.rank, config.tokens, stage, *video_size(model, config))
        key = (model.config, model.dtype, sizes, recompute, model.device.type)
        if key not in _PEAKS:
            _PEAKS[key] = _count_step(model, config, stage, recompute=recompute)
        peaks.append(_PEAKS[key])
    held = [tensor.nbytes for tensor in learner.tensors().values()]
    moving = [parameter.nbytes for parameter in learner.parameters().values()]
    networks = (model.unet, model.text_encoder, model.vae)
    return MemoryEstimate(
        weights=sum(tensor.nbytes for network in networks for tensor in tensors_of(network)),
        learned=sum(held) + (1 + ADAM_MOMENTS) * sum(moving),
        activations=max(peaks),
        reserve=allocator_reserve(model.device),
        encoding=encoding_memory(model, config),
    )


@dataclass(frozen=True)
class _Stage:
    """What a step of one of the stages shows."""

    frames: int
    subjects: int
    """Videos of the subject."""
    priors: int
    """Videos of the class, whose captions have no gradients."""
    token_alone: bool = False
    """Whether only V* is learned."""


def encoding_memory(model: VideoCrafter2, config: TrainConfig) -> int:
    """Bytes at the peak of encoding photos, besides the weights; as `estimate_memory`."""
    size = video_size(model, config)
    key = (model.config, model.dtype, model.device.type, size)
    if key not in _PEAKS:
        dry = DryRun()
        hollow = replace(model, vae=dry.copy(model.vae))
        with torch.no_grad(), dry.counted(tensors_of(hollow.vae)):
            hollow.encode_moments(torch.empty(IMAGES_AT_ONCE, IMAGE_CHANNELS, size[1], size[0]))
        _PEAKS[key] = dry.peak
    return _PEAKS[key]


def sample_memory(model: VideoCrafter2, config: TrainConfig, guidance: GuidanceBatch) -> int:
    """Bytes at the peak of making a sample video, besides the weights and what is learned; as `estimate_memory`.

    Args:
        model: the base model, loaded.
        config: the settings; the video has their size and the model's own number of frames.
        guidance: whether the two predictions of guidance are made together.
    """
    together = guidance is not GuidanceBatch.ONE_BY_ONE
    sizes = (config.method, config.rank, model.defaults, *video_size(model, config), together)
    key = (model.config, model.dtype, model.device.type, sizes)
    if key not in _PEAKS:
        _PEAKS[key] = _count_sample(model, config, guidance)
    return _PEAKS[key]


def _count_sample(model: VideoCrafter2, config: TrainConfig, guidance: GuidanceBatch) -> int:
    with DryRun().fake:
        learner = Learner.start(model, config, torch.Generator())
    factors = {name: LoRAFactors(pair.down.detach(), pair.up.detach()) for name, pair in learner.factors.items()}
    subject = Subject(factors, learner.embedding.detach(), adapters=learner.adapters)
    shape = model.latent_shape(*video_size(model, config), model.defaults.frames)
    prediction = prediction_memory(model, shape, [subject], guidance, cfg=model.defaults.cfg)
    return max(prediction, decoding_memory(model, shape))


def _count_step(model: VideoCrafter2, config: TrainConfig, stage: _Stage, *, recompute: bool) -> int:
    """Bytes at the peak of one forward and backward pass, besides what stays."""
    dry = DryRun()
    hollow = replace(model, unet=dry.copy(model.unet), text_encoder=dry.copy(model.text_encoder))
    with dry.fake:
        learner = Learner.start(hollow, config, torch.Generator())
    with ExitStack() as stack:
        for name, parameter in learner.parameters().items():  # gradients are counted with what is learned
            parameter.requires_grad_(name == TOKEN or not stage.token_alone)
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        staying = [*tensors_of(hollow.unet), *tensors_of(hollow.text_encoder), *learner.tensors().values()]
        stack.enter_context(learner.attached(hollow))
        if recompute:
            stack.enter_context(gradient_checkpointing(hollow.unet))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(dry.counted(staying))
        _step(hollow, config, stage)
    return dry.peak


def _step(model: VideoCrafter2, config: TrainConfig, stage: _Stage) -> None:
    """A training step on tensors without content."""
    videos, device = stage.subjects + stage.priors, model.device
    width, height = video_size(model, config)
    noise = torch.empty(model.latent_shape(width, height, stage.frames, videos), device=device)
    ids = torch.zeros(stage.subjects, PROMPT_LENGTH, dtype=torch.long)
    whole = torch.zeros(videos, dtype=torch.long, device=device)
    fixed = torch.empty(stage.priors, PROMPT_LENGTH, model.config.text.hidden_size, dtype=model.dtype, device=device)
    with autocast(model):
        text = torch.cat([encode_ids(model.text_encoder, ids).to(model.dtype), fixed])
        predicted = model.unet(noise.to(model.dtype), whole, text, timestep_cond=whole).sample
    (predicted.float() - noise).square().mean().backward()


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None
