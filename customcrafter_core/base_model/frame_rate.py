"""The frame-rate embedding, the one part of VideoCrafter2's network that diffusers' UNet does not have."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn


class FrameRateTimestepEmbedding(TimestepEmbedding):
    """``time_mlp(t) + fps_mlp(sinusoid(fps))``; takes the place of ``UNet3DConditionModel.time_embedding``.

    The frame rate reaches it through the UNet's own ``timestep_cond`` argument, an integer tensor ``(b,)`` in frames
    per second, so diffusers' forward stays as it is. Source: VideoCrafter2, ``fps_cond`` of its 3-D UNet.
    """

    def __init__(self, in_channels: int, time_embed_dim: int) -> None:
        super().__init__(in_channels, time_embed_dim)
        # flip_sin_to_cos=True, downscale_freq_shift=0: what the UNet uses for its timesteps
        self.fps_proj = Timesteps(in_channels, True, 0)
        self.fps_embedding = TimestepEmbedding(in_channels, time_embed_dim)

    def forward(self, sample: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Embed timesteps and frame rate.

        Args:
            sample: sinusoidal timestep features ``(b, in_channels)``.
            condition: frames per second ``(b,)``, required.

        Returns:
            ``(b, time_embed_dim)``.

        Raises:
            ValueError: the frame rate is missing; the network was trained with one at every step.
        """
        if condition is None:
            raise ValueError(
                "VideoCrafter2 needs a frame rate: pass timestep_cond=tensor of frames per second, shape (b,)."
            )
        fps = self.fps_proj(condition).to(sample.dtype)
        return super().forward(sample) + self.fps_embedding(fps)


def zero_frame_rate_output(embedding: FrameRateTimestepEmbedding) -> None:
    """Make the frame rate start without effect, as the original does before training."""
    nn.init.zeros_(embedding.fps_embedding.linear_2.weight)
    nn.init.zeros_(embedding.fps_embedding.linear_2.bias)
