"""How much memory a training step needs, known before the first one, and what to change if there is less.

A step is made with tensors that have a shape but no content (PyTorch's meta device), and the bytes alive at each moment
are counted. So the count follows the method, the size of the model and the libraries as they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import psutil
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..base_model.geometry import PROMPT_LENGTH
from ..base_model.model import VideoCrafter2
from ..base_model.text import encode_ids
from ..errors import InputError
from .config import TrainConfig
from .examples import size_of
from .learner import Learner
from .recompute import recomputed

RESERVE = 1.15  # bytes an allocator takes for each byte in use: rounding, gaps, the workspace of convolutions
ADAM_MOMENTS = 2
_PEAKS: dict[tuple[Any, ...], int] = {}  # what was counted once: it takes seconds and depends on sizes only

# What autocast does, as PyTorch documents it: these run in half precision …
HALF: set[Any] = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, torch.bmm, F.scaled_dot_product_attention}
# … and these, on GPUs, in float32.
FULL_ON_GPU: set[Any] = {F.group_norm, F.layer_norm, F.softmax}

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the model's device at the peak of training.

    Not counted: an allocator's gaps (`RESERVE` allows for them), the driver, and decoding a sample video, which happens
    when no activations are held.
    """

    weights: int
    """Of the base model's three networks, which are there already."""
    learned: int
    """What is learned, its gradients and AdamW's two moments, in float32."""
    activations: int
    """The most that the forward and backward pass of one step hold besides."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.learned + self.activations

    @property
    def needed(self) -> int:
        """What has to be free beside the weights, the allocator's share included."""
        return round(RESERVE * (self.learned + self.activations))

    def __str__(self) -> str:
        parts = [f"{part} {gigabytes(getattr(self, part))}" for part in ("weights", "learned", "activations")]
        return f"{gigabytes(self.total)} GB: {', '.join(parts)}"


@dataclass(frozen=True)
class MemoryPlan:
    """How a run fits into memory."""

    estimate: MemoryEstimate
    recompute: bool
    """Whether activations are computed again in the backward pass instead of kept."""
    free: int

    def __str__(self) -> str:
        how = ", where activations are computed twice to save memory" if self.recompute else ""
        return f"Training takes about {self.estimate}{how}. Free beside the weights: {gigabytes(self.free)} GB."


def gigabytes(count: int) -> str:
    """Bytes in units of 10⁹, with two digits that count."""
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device, those included that PyTorch holds for reuse."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    module = torch.get_device_module(device)
    if device.type == "mps":
        return int(module.recommended_max_memory() - module.current_allocated_memory())
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def plan_memory(model: VideoCrafter2, config: TrainConfig, *, has_prior: bool, free: int) -> MemoryPlan:
    """Decide whether activations are kept or computed again.

    Args:
        model: the base model, loaded.
        config: the settings; with `TrainConfig.gradient_checkpointing` "auto" they are kept where they fit.
        has_prior: whether each step also shows pictures of the class.
        free: bytes that training may take.

    Raises:
        InputError: it does not fit; the message names settings that do.
    """
    for recompute in {"auto": (False, True), "on": (True,), "off": (False,)}[config.gradient_checkpointing]:
        estimate = estimate_memory(model, config, has_prior=has_prior, recompute=recompute)
        if estimate.needed <= free:
            return MemoryPlan(estimate, recompute, free)
    raise InputError(
        expected=f"{gigabytes(estimate.needed)} GB of free memory for this training",
        found=f"{gigabytes(free)} GB",
        remedy=_remedy(model, config, has_prior=has_prior, free=free),
    )


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
    sizes = (config.method, config.rank, config.tokens, config.frames, config.batch, *size_of(model, config))
    key = (model.geometry, model.dtype, sizes, has_prior, recompute, on_gpu)
    if key not in _PEAKS:
        _PEAKS[key] = _peak_of_step(shadow, learner, config, has_prior, recompute, on_gpu=on_gpu)
    held = [tensor.nbytes for tensor in learner.tensors().values()]
    moving = [parameter.nbytes for parameter in learner.parameters().values()]
    networks = (model.unet, model.text_encoder, model.vae)
    return MemoryEstimate(
        weights=sum(tensor.nbytes for network in networks for tensor in _tensors_of(network)),
        learned=sum(held) + (1 + ADAM_MOMENTS) * sum(moving),
        activations=_PEAKS[key],
    )


def _peak_of_step(
    shadow: VideoCrafter2, learner: Learner, config: TrainConfig, has_prior: bool, recompute: bool, *, on_gpu: bool
) -> int:
    """Bytes at the peak of one forward and backward pass of a model without content, besides what stays."""

    def kernels() -> AbstractContextManager[object]:
        return TrainingKernels(None if shadow.dtype == torch.float32 else shadow.dtype, on_gpu=on_gpu)

    for parameter in learner.parameters().values():  # gradients are counted with what is learned
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    staying = [*_tensors_of(shadow.unet), *_tensors_of(shadow.text_encoder), *learner.tensors().values()]
    with ExitStack() as stack:
        stack.enter_context(learner.attached(shadow))
        if recompute:
            stack.enter_context(recomputed(shadow.unet, again_in=kernels))
        stack.enter_context(torch.enable_grad())
        live = stack.enter_context(LiveBytes(staying))
        stack.enter_context(kernels())
        _step(shadow, config, has_prior)
    return live.peak


def _step(model: VideoCrafter2, config: TrainConfig, has_prior: bool) -> None:
    """The tensors of a training step, on the meta device; those of the prior have captions without gradients."""
    videos = config.batch * (2 if has_prior else 1)
    width, height = size_of(model, config)
    with torch.device("meta"):
        noise = torch.empty(model.latent_shape(width, height, config.frames, videos))
        ids = torch.zeros(config.batch, PROMPT_LENGTH, dtype=torch.long)
        timesteps, fps = torch.zeros(videos, dtype=torch.long), torch.zeros(videos, dtype=torch.long)
        fixed = torch.empty(videos - config.batch, PROMPT_LENGTH, model.geometry.text.width, dtype=model.dtype)
    text = torch.cat([encode_ids(model.text_encoder, ids).to(model.dtype), fixed])
    predicted = model.unet(noise.to(model.dtype), timesteps, text, timestep_cond=fps).sample
    (predicted.float() - noise).square().mean().backward()


def without_content(network: Network) -> Network:
    """A copy whose tensors have no content and take no memory."""
    memo: dict[int, Any] = {}
    for tensor in _tensors_of(network):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return deepcopy(network, memo)


def _tensors_of(network: nn.Module) -> Iterator[torch.Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations inside the context made and that are still alive."""

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        """Args:
        known: tensors that are not counted; operations hand out views of them.
        """
        super().__init__()
        self.now = self.peak = 0
        self._counted = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in [result] if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._counted:
            self._counted.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size


class TrainingKernels(TorchFunctionMode):
    """Lets operations without content keep what they keep in training.

    Attention keeps inputs, output and one number for each row, as the kernels for CPU and GPU do; without this there
    would be a table of all pairs of positions. Autocast, which the meta device does not know, changes dtypes.
    """

    def __init__(self, half: torch.dtype | None, *, on_gpu: bool) -> None:
        """Args:
        half: of autocast; None: there is none.
        on_gpu: whether norms run in float32 under autocast.
        """
        super().__init__()
        self._dtypes: dict[Any, torch.dtype] = {}
        if half is not None:
            self._dtypes = dict.fromkeys(HALF, half) | dict.fromkeys(FULL_ON_GPU if on_gpu else (), torch.float32)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function with the inputs and the kernel that training would use."""
        kwargs = kwargs or {}
        dtype = self._dtypes.get(func)
        if dtype is not None:
            args, kwargs = tree_map(lambda value: _as_dtype(value, dtype), (tuple(args), kwargs))
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


def _as_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` by a kernel that keeps no table of pairs."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output: torch.Tensor = kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return output


def _remedy(model: VideoCrafter2, config: TrainConfig, *, has_prior: bool, free: int) -> str:
    """The mildest change of each setting that would fit, or how much the smallest of all would need.

    Activations grow about as the pixels of a step do; what may fit by this rule is estimated before it is named.
    """
    again = {"gradient_checkpointing": "auto"} if config.gradient_checkpointing == "off" else {}

    def needed(changes: Mapping[str, Any]) -> int:
        return estimate_memory(model, replace(config, **changes), has_prior=has_prior, recompute=True).needed

    def mildest(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
        for changes in candidates:
            share = _pixels(model, replace(config, **changes)) / _pixels(model, config)
            if share * unchanged <= free and (bytes_needed := needed(changes)) <= free:
                return [f"{_words({**again, **changes})} ({gigabytes(bytes_needed)} GB)"]
        return []

    unchanged = needed({})
    if again and unchanged <= free:
        return f"This would fit: {_words(again)} ({gigabytes(unchanged)} GB)."
    sizes = _smaller_sizes(model, config)
    kinds = [[{name: n} for n in _halvings(getattr(config, name))] for name in ("frames", "batch")]
    together = {"frames": 1, "batch": 1} | (sizes[-1] if sizes else {})
    fitting = [words for candidates in (*kinds, sizes) for words in mildest(candidates)] or mildest([together])
    if fitting:
        return f"Any of these would fit: {'; '.join(fitting)}."
    return f"Even {_words({**again, **together})} would need {gigabytes(needed(together))} GB; use a larger device."


def _smaller_sizes(model: VideoCrafter2, config: TrainConfig) -> list[dict[str, int]]:
    """About three quarters and half of the video's width and height that every level of the UNet divides, if any."""
    unit = model.geometry.pixels_per_latent * 2 ** (len(model.geometry.unet.channels) - 1)
    own = size_of(model, config)
    sizes = [tuple(int(side * share) // unit * unit for side in own) for share in (0.75, 0.5)]
    return [{"width": width, "height": height} for width, height in sizes if width and height]


def _pixels(model: VideoCrafter2, config: TrainConfig) -> int:
    """Of one step, the prior's not counted."""
    width, height = size_of(model, config)
    return width * height * config.frames * config.batch


def _halvings(number: int) -> list[int]:
    """Half of a number, half of that, and so on down to 1."""
    return [number >> i for i in range(1, number.bit_length())]


def _words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())
