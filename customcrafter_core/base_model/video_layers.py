"""The UNet's layers over frames, arranged for memory and speed; weights, names and results are diffusers' own.

Activations lie in memory as ``(b, t, h, w, c)``, which torch calls channels-last: every linear layer and every attention,
within frames or along time, then reads them as they lie, and convolutions need no reordering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from einops import rearrange
from torch import nn

# A transformer block's widest result has 8 numbers for each of its inputs (the gated feed-forward). Slices are as long
# as this many bytes of it allow: what a CPU's cache still helps with, and enough to keep a GPU busy.
SLICE_BYTES = {"cpu": 2**25, "cuda": 2**29}
WIDEST = 8
SHORTEST_SLICE = 2048  # positions; with fewer, fetching the weights costs more than slicing saves
_STANDS_FOR: dict[str, str] = {}  # type of a device -> the type it is treated as


@contextmanager
def layers_as_on(device: torch.device) -> Iterator[None]:
    """Let tensors without content, on the meta device, be treated as on another one: to count what it would do."""
    _STANDS_FOR["meta"] = device.type
    try:
        yield
    finally:
        del _STANDS_FOR["meta"]


def use_video_layers(unet: UNet3DConditionModel) -> None:
    """Let a UNet built by diffusers run on these layers; its weights stay where they are."""
    for module in unet.modules():
        if type(module) in _OURS:
            module.__class__ = _OURS[type(module)]
        if isinstance(module, TemporalConvolution):
            module.flatten_kernels()
    unet.__class__ = VideoUNet


class VideoUNet(UNet3DConditionModel):
    """The UNet; where it is and its type are asked for at every step, and diffusers walks through all modules for it."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.conv_in.weight.device


class TemporalConvolution(TemporalConvLayer):
    """Four convolutions over three frames each, as flat ones over ``(t, h · w)``: torch has faster code for two axes."""

    def flatten_kernels(self) -> None:
        """Turn the kernels ``(o, i, 3, 1, 1)`` into ``(o, i, 3, 1)``, the same numbers."""
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4):
            solid = stage[-1]
            with torch.device("meta"):
                flat = nn.Conv2d(solid.in_channels, solid.out_channels, (3, 1), padding=(1, 0))
            flat.weight, flat.bias = nn.Parameter(solid.weight.detach().squeeze(-1)), solid.bias
            stage[-1] = flat

    def forward(self, hidden_states: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
        """``(b · t, c, h, w)`` to the same shape."""
        width = hidden_states.shape[-1]
        x = _as_video(hidden_states, num_frames)
        x = x + self.conv4(self.conv3(self.conv2(self.conv1(x))))
        return rearrange(x, "b c t (h w) -> (b t) c h w", w=width)


class SpatialTransformer(Transformer2DModel):
    """Attention within each frame and to the text, a few frames at a time."""

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **unused: Any
    ) -> tuple[torch.Tensor]:
        """``(b · t, c, h, w)`` and text ``(b · t, n, d)`` to the first shape."""
        x = rearrange(hidden_states, "f c h w -> f (h w) c")
        positions = x.shape[1]

        def some(frames: slice) -> torch.Tensor:
            part = hidden_states[frames]
            tokens = self.proj_in(rearrange(self.norm(part), "f c h w -> f (h w) c"))
            text = None if encoder_hidden_states is None else encoder_hidden_states[frames]
            for block in self.transformer_blocks:
                tokens = block(tokens, encoder_hidden_states=text)
            return self.proj_out(tokens) + x[frames]

        out = _in_slices(some, x, positions)
        return (rearrange(out, "f (h w) c -> f c h w", w=hidden_states.shape[-1]),)


class TemporalTransformer(TransformerTemporalModel):
    """Attention along time at each place, some places at a time."""

    def forward(self, hidden_states: torch.Tensor, num_frames: int = 1, **unused: Any) -> tuple[torch.Tensor]:
        """``(b · t, c, h, w)`` to the same shape."""
        width = hidden_states.shape[-1]
        video = _as_video(hidden_states, num_frames)
        normed, videos = rearrange(self.norm(video), "b c t p -> p b t c"), len(video)
        x = rearrange(video, "b c t p -> p b t c")

        def some(places: slice) -> torch.Tensor:
            tokens = self.proj_in(rearrange(normed[places], "p b t c -> (p b) t c"))
            for block in self.transformer_blocks:
                tokens = block(tokens)
            return rearrange(self.proj_out(tokens), "(p b) t c -> p b t c", b=videos) + x[places]

        out = _in_slices(some, x, videos * num_frames)
        return (rearrange(out, "(h w) b t c -> (b t) c h w", w=width),)


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    TemporalConvLayer: TemporalConvolution,
    Transformer2DModel: SpatialTransformer,
    TransformerTemporalModel: TemporalTransformer,
}


def _as_video(frames: torch.Tensor, count: int) -> torch.Tensor:
    """``(b · t, c, h, w)`` as ``(b, c, t, h · w)``, channels last in memory; a view where they are already."""
    frames = frames.contiguous(memory_format=torch.channels_last)
    return rearrange(frames, "(b t) c h w -> b c t (h w)", t=count)


def _in_slices(some: Callable[[slice], torch.Tensor], x: torch.Tensor, positions: int) -> torch.Tensor:
    """A result in the shape and order in memory of ``x``, computed some rows at a time unless gradients are wanted.

    Args:
        some: computes the rows of a slice.
        x: ``(rows, …, c)``.
        positions: in a row.
    """
    position = WIDEST * x.shape[-1] * x.element_size()
    fitting = _slice_bytes(x.device) // position
    rows = max(fitting, SHORTEST_SLICE) // positions or 1
    if torch.is_grad_enabled() or rows >= len(x):
        return some(slice(None))
    out = torch.empty_like(x)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        out[part] = some(part)
    return out


def _slice_bytes(device: torch.device) -> int:
    return SLICE_BYTES.get(_STANDS_FOR.get(device.type, device.type), SLICE_BYTES["cuda"])
