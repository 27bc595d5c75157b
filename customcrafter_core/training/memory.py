"""How much memory a training needs, known before its first step.

A step of each stage, the encoding of photos and the making of a sample video are counted, so that the figures follow the
method, the size of the model and the libraries as they are. What is decided by them, and what may be changed if memory is
short, is in `memory_plan`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..base_model.config import IMAGE_CHANNELS, PROMPT_LENGTH
from ..base_model.model import VideoCrafter2
from ..base_model.text import encode_ids
from ..diffusion.guidance import GuidanceBatch
from ..memory.counting import DeviceKernels, LiveBytes, reserve_of, tensors_of, without_content
from ..memory.free import gigabytes
from ..memory.sampling import decoding_memory, prediction_memory
from ..subject.subject import LoRAFactors, Subject
from .config import TrainConfig
from .examples import IMAGES_AT_ONCE, size_of
from .learner import TOKEN, Learner
from .recompute import recomputed

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
    shadow = replace(model, unet=without_content(model.unet))
    learner = Learner.start(shadow, config, torch.Generator())  # V* starts from the real text encoder
    shadow.text_encoder = without_content(model.text_encoder)
    on_gpu = model.device.type != "cpu"
    stages = [_Stage(config.frames, config.batch, config.batch if has_prior else 0)]
    stages += [_Stage(1, config.token_videos, 0, token_alone=True)] if config.token_steps else []
    peaks = []
    for stage in stages:
        sizes = (config.method, config.rank, config.tokens, stage, *size_of(model, config))
        key = (model.config, model.dtype, sizes, recompute, on_gpu)
        if key not in _PEAKS:
            _PEAKS[key] = _peak_of_step(shadow, learner, config, stage, recompute, on_gpu=on_gpu)
        peaks.append(_PEAKS[key])
    held = [tensor.nbytes for tensor in learner.tensors().values()]
    moving = [parameter.nbytes for parameter in learner.parameters().values()]
    networks = (model.unet, model.text_encoder, model.vae)
    return MemoryEstimate(
        weights=sum(tensor.nbytes for network in networks for tensor in tensors_of(network)),
        learned=sum(held) + (1 + ADAM_MOMENTS) * sum(moving),
        activations=max(peaks),
        reserve=reserve_of(model.device),
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
    size = size_of(model, config)
    key = (model.config, model.dtype, model.device.type, size)
    if key not in _PEAKS:
        shadow = replace(model, vae=without_content(model.vae))
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            live = stack.enter_context(LiveBytes(tensors_of(shadow.vae)))
            stack.enter_context(DeviceKernels(None, on_gpu=False))
            channels = IMAGE_CHANNELS
            shadow.encode_moments(torch.empty(IMAGES_AT_ONCE, channels, size[1], size[0], device="meta"))
        _PEAKS[key] = live.peak
    return _PEAKS[key]


def sample_memory(model: VideoCrafter2, config: TrainConfig, guidance: GuidanceBatch) -> int:
    """Bytes at the peak of making a sample video, besides the weights and what is learned; as `estimate_memory`.

    Args:
        model: the base model, loaded.
        config: the settings; the video has their size and the model's own number of frames.
        guidance: whether the two predictions of guidance are made together.
    """
    together = guidance is not GuidanceBatch.ONE_BY_ONE
    sizes = (config.method, config.rank, model.defaults, *size_of(model, config), together)
    key = (model.config, model.dtype, model.device.type, sizes)
    if key not in _PEAKS:
        _PEAKS[key] = _sample_peak(model, config, guidance)
    return _PEAKS[key]


def _sample_peak(model: VideoCrafter2, config: TrainConfig, guidance: GuidanceBatch) -> int:
    learner = Learner.start(replace(model, unet=without_content(model.unet)), config, torch.Generator())
    factors = {name: LoRAFactors(pair.down.detach(), pair.up.detach()) for name, pair in learner.factors.items()}
    subject = Subject(factors, learner.embedding.detach(), adapters=learner.adapters)
    shape = model.latent_shape(*size_of(model, config), model.defaults.frames)
    prediction = prediction_memory(model, shape, [subject], guidance, cfg=model.defaults.cfg)
    return max(prediction, decoding_memory(model, shape))


def _peak_of_step(
    shadow: VideoCrafter2, learner: Learner, config: TrainConfig, stage: _Stage, recompute: bool, *, on_gpu: bool
) -> int:
    """Bytes at the peak of one forward and backward pass of a model without content, besides what stays."""

    def kernels() -> AbstractContextManager[object]:
        return DeviceKernels(None if shadow.dtype == torch.float32 else shadow.dtype, on_gpu=on_gpu)

    hooks = []
    for name, parameter in learner.parameters().items():  # gradients are counted with what is learned
        parameter.requires_grad_(name == TOKEN or not stage.token_alone)
        if parameter.requires_grad:
            hooks.append(parameter.register_post_accumulate_grad_hook(_drop_gradient))
    staying = [*tensors_of(shadow.unet), *tensors_of(shadow.text_encoder), *learner.tensors().values()]
    with ExitStack() as stack:
        stack.enter_context(learner.attached(shadow))
        if recompute:
            stack.enter_context(recomputed(shadow.unet, again_in=kernels))
        stack.enter_context(torch.enable_grad())
        live = stack.enter_context(LiveBytes(staying))
        stack.enter_context(kernels())
        _step(shadow, config, stage)
    for hook in hooks:
        hook.remove()
    return live.peak


def _step(model: VideoCrafter2, config: TrainConfig, stage: _Stage) -> None:
    """The tensors of a training step, on the meta device."""
    videos = stage.subjects + stage.priors
    width, height = size_of(model, config)
    with torch.device("meta"):
        noise = torch.empty(model.latent_shape(width, height, stage.frames, videos))
        ids = torch.zeros(stage.subjects, PROMPT_LENGTH, dtype=torch.long)
        timesteps, fps = torch.zeros(videos, dtype=torch.long), torch.zeros(videos, dtype=torch.long)
        fixed = torch.empty(stage.priors, PROMPT_LENGTH, model.config.text.hidden_size, dtype=model.dtype)
    text = torch.cat([encode_ids(model.text_encoder, ids).to(model.dtype), fixed])
    predicted = model.unet(noise.to(model.dtype), timesteps, text, timestep_cond=fps).sample
    (predicted.float() - noise).square().mean().backward()


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None
