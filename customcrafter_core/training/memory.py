"""How much memory a run needs, known before its first step.

A training step, the encoding of photos and the making of a sample video are done with tensors that have a shape but no
content (PyTorch's meta device), and the bytes alive at each moment are counted. So the count follows the method, the size of the model and the
libraries as they are. What is decided by it, and what may be changed if memory is short, is in `memory_plan`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..base_model.geometry import PROMPT_LENGTH
from ..base_model.model import FRAMES_AT_ONCE, VideoCrafter2
from ..base_model.text import encode_ids
from ..base_model.video_layers import layers_as_on
from ..diffusion.guidance import GuidanceBatch, GuidedUNet
from ..subject.adapter import lora_layers
from ..subject.identity_adapter import adapters_attached
from ..subject.subject import LoRAFactors
from .config import TrainConfig
from .examples import IMAGES_AT_ONCE, size_of
from .learner import TOKEN, Learner
from .recompute import recomputed

# Bytes an allocator takes for each byte in use: rounding, gaps, the workspace of convolutions. The heap of a process has
# more of them than a GPU's: 1.5 to 1.7 were measured (`python -m benchmarks training`).
RESERVE, RESERVE_OF_HEAP = 1.15, 1.7
ADAM_MOMENTS = 2
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_PEAKS: dict[tuple[Any, ...], int] = {}  # what was counted once: it takes seconds and depends on sizes only

# What autocast does, as PyTorch documents it: these run in half precision …
HALF: set[Any] = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, torch.bmm, F.scaled_dot_product_attention}
# … and these, on GPUs, in float32.
FULL_ON_GPU: set[Any] = {F.group_norm, F.layer_norm, F.softmax}

Network = TypeVar("Network", bound=nn.Module)


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


def gigabytes(count: int) -> str:
    """Bytes in units of 10⁹, with two digits that count."""
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device, those included that PyTorch holds for reuse."""
    if device.type == "cpu":
        return int(min(psutil.virtual_memory().available, free_in_groups()))
    module = torch.get_device_module(device)
    if device.type == "mps":
        return int(module.recommended_max_memory() - module.current_allocated_memory())
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def free_in_groups(mounted: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """Bytes that the control groups of this process, a container's for example, let it take; infinite without limits.

    Args:
        mounted: where Linux shows the groups of memory, version 1 or 2.
        own: the file that says in which groups the process is.
    """
    free = math.inf
    for line in _text_of(own).splitlines():
        number, _, path = line.partition(":")
        kinds, _, path = path.partition(":")
        if number != "0" and "memory" not in kinds.split(","):
            continue
        names = _GROUP_FILES[1] if number == "0" else _GROUP_FILES[0]
        root = mounted if number == "0" else mounted / "memory"
        group = root / path.strip("/")  # in a container the root may be this group itself
        for folder in (group, *group.parents):
            free = min(free, _free_in(folder, *names))
            if folder == root:
                break
    return free


# Names of: limit, use, the lines of memory.stat that count cached files, which are given up when memory is short.
_GROUP_FILES = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
)


def _free_in(group: Path, limit: str, use: str, cached: tuple[str, ...]) -> float:
    """What one group has left; infinite if it has no limit, or is not shown."""
    most, used = _text_of(group / limit).strip(), _text_of(group / use).strip()
    if not most.isdecimal() or not used.isdecimal():  # "max", or absent
        return math.inf
    counts = dict(line.split(" ", 1) for line in _text_of(group / "memory.stat").splitlines() if " " in line)
    files = sum(int(counts[name]) for name in cached if counts.get(name, "").isdecimal())
    return max(int(most) - int(used) + files, 0)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


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
        key = (model.geometry, model.dtype, sizes, recompute, on_gpu)
        if key not in _PEAKS:
            _PEAKS[key] = _peak_of_step(shadow, learner, config, stage, recompute, on_gpu=on_gpu)
        peaks.append(_PEAKS[key])
    held = [tensor.nbytes for tensor in learner.tensors().values()]
    moving = [parameter.nbytes for parameter in learner.parameters().values()]
    networks = (model.unet, model.text_encoder, model.vae)
    return MemoryEstimate(
        weights=sum(tensor.nbytes for network in networks for tensor in _tensors_of(network)),
        learned=sum(held) + (1 + ADAM_MOMENTS) * sum(moving),
        activations=max(peaks),
        reserve=RESERVE if on_gpu else RESERVE_OF_HEAP,
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
    key = (model.geometry, model.dtype, model.device.type, size)
    if key not in _PEAKS:
        shadow = replace(model, vae=without_content(model.vae))
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            live = stack.enter_context(LiveBytes(_tensors_of(shadow.vae)))
            stack.enter_context(TrainingKernels(None, on_gpu=False))
            channels = model.geometry.vae.image_channels
            shadow.encode_moments(torch.empty(IMAGES_AT_ONCE, channels, size[1], size[0], device="meta"))
        _PEAKS[key] = live.peak
    return _PEAKS[key]


def sampling_memory(model: VideoCrafter2, config: TrainConfig, guidance: GuidanceBatch) -> int:
    """Bytes at the peak of making a sample video, besides the weights and what is learned; as `estimate_memory`.

    Args:
        model: the base model, loaded.
        config: the settings; the video has their size and the model's own number of frames.
        guidance: whether the two predictions of guidance are made together.
    """
    together = guidance is not GuidanceBatch.ONE_BY_ONE
    sizes = (config.rank, model.defaults, *size_of(model, config))
    key = (model.geometry, model.dtype, model.device.type, config.method, sizes, together)
    if key not in _PEAKS:
        networks = {name: without_content(getattr(model, name)) for name in ("unet", "vae")}
        shadow = replace(model, **networks)
        learner = Learner.start(replace(model, unet=shadow.unet), config, torch.Generator())
        with layers_as_on(model.device):
            _PEAKS[key] = _peak_of_sampling(shadow, learner, size_of(model, config), guidance)
    return _PEAKS[key]


def _peak_of_sampling(shadow: VideoCrafter2, learner: Learner, size: tuple[int, int], guidance: GuidanceBatch) -> int:
    """Bytes at the peak of one prediction or of decoding a few frames, by a model without content."""
    own, factors = shadow.defaults, {n: LoRAFactors(f.down.detach(), f.up.detach()) for n, f in learner.factors.items()}
    adapters = {name: adapter.to(shadow.device, shadow.dtype) for name, adapter in learner.adapters.items()}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(lora_layers(shadow.unet, {"sample": factors}, dtype=shadow.dtype))
        stack.enter_context(adapters_attached(shadow.unet, adapters, [1.0]))
        live = stack.enter_context(LiveBytes([*_tensors_of(shadow.unet), *_tensors_of(shadow.vae)]))
        stack.enter_context(TrainingKernels(None, on_gpu=False))
        latent = torch.empty(shadow.latent_shape(*size, own.frames), device=shadow.device)
        text = torch.empty(1, PROMPT_LENGTH, shadow.geometry.text.width, device=shadow.device)
        GuidedUNet(shadow.unet, text, text, cfg=own.cfg, fps=own.fps, batch=guidance)(latent, 0)
        shadow.vae.decode(latent[0].transpose(0, 1)[:FRAMES_AT_ONCE].to(shadow.vae.dtype))
    return live.peak


def _peak_of_step(
    shadow: VideoCrafter2, learner: Learner, config: TrainConfig, stage: _Stage, recompute: bool, *, on_gpu: bool
) -> int:
    """Bytes at the peak of one forward and backward pass of a model without content, besides what stays."""

    def kernels() -> AbstractContextManager[object]:
        return TrainingKernels(None if shadow.dtype == torch.float32 else shadow.dtype, on_gpu=on_gpu)

    hooks = []
    for name, parameter in learner.parameters().items():  # gradients are counted with what is learned
        parameter.requires_grad_(name == TOKEN or not stage.token_alone)
        if parameter.requires_grad:
            hooks.append(parameter.register_post_accumulate_grad_hook(_drop_gradient))
    staying = [*_tensors_of(shadow.unet), *_tensors_of(shadow.text_encoder), *learner.tensors().values()]
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
        fixed = torch.empty(stage.priors, PROMPT_LENGTH, model.geometry.text.width, dtype=model.dtype)
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
