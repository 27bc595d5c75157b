"""The loss of a batch: error of the predicted noise, where the loss counts (paper, eq. 1 and 3)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ..base_model.model import VideoCrafter2
from ..base_model.text import clip_tokenizer, encode_ids
from .batches import Batch
from .config import TrainConfig


class Captions:
    """Text embeddings of captions; those without a learned token are encoded once."""

    def __init__(self, model: VideoCrafter2) -> None:
        self._model = model
        self._fixed: dict[bytes, torch.Tensor] = {}

    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings ``(b, 77, d)`` of token ids ``(b, 77)``."""
        learned = (ids >= clip_tokenizer().vocab_size).any(1)
        rows = [torch.empty(0)] * len(ids)
        if learned.any():
            encoded = encode_ids(self._model.text_encoder, ids[learned]).to(self._model.dtype)
            for place, row in zip(learned.nonzero().flatten().tolist(), encoded, strict=True):
                rows[place] = row
        for place in (~learned).nonzero().flatten().tolist():
            rows[place] = self._encode_once(ids[place])
        return torch.stack(rows)

    @torch.no_grad()
    def _encode_once(self, ids: torch.Tensor) -> torch.Tensor:
        key = ids.numpy().tobytes()
        if key not in self._fixed:
            self._fixed[key] = encode_ids(self._model.text_encoder, ids[None])[0].to(self._model.dtype)
        return self._fixed[key]


def compute_losses(
    model: VideoCrafter2, captions: Captions, config: TrainConfig, batches: list[Batch]
) -> list[torch.Tensor]:
    """Losses ``[L_video]`` or ``[L_video, L_pr]`` of a step, in one forward pass.

    Each video counts the same, whatever share of it its mask leaves.
    """
    device = model.device
    noised = torch.cat([batch.noised for batch in batches]).to(device, model.dtype)
    timesteps = torch.cat([batch.timesteps for batch in batches])
    weights = _weights(model, config, timesteps).to(device, torch.float32)
    noise, mask = (torch.cat([getattr(batch, name) for batch in batches]).to(device) for name in ("noise", "mask"))
    on_device = timesteps.to(device)  # all copies come first: each waits for what a GPU has to do
    with autocast(model):
        text = captions.encode(torch.cat([batch.ids for batch in batches]))
        fps = torch.full((len(noised),), config.fps or model.defaults.fps, device=device)
        predicted = model.unet(noised, on_device, text, timestep_cond=fps).sample
    difference = predicted.float() - noise
    error = difference.abs() if config.loss == "l1" else difference.square()
    each = (error.mean((1, 2), keepdim=True) * mask).sum((1, 2, 3, 4)) / mask.sum((1, 2, 3, 4))
    return list((each * weights).unflatten(0, (len(batches), -1)).mean(1))


def _weights(model: VideoCrafter2, config: TrainConfig, timesteps: torch.Tensor) -> torch.Tensor:
    """Weight of each video's loss ``(b,)``: min-SNR (Hang et al. 2023), or 1."""
    if not config.min_snr_gamma:
        return torch.ones(len(timesteps))
    snr = (model.schedule.signal[timesteps] / model.schedule.noise[timesteps]) ** 2
    return snr.clamp(max=config.min_snr_gamma) / snr


def autocast(model: VideoCrafter2) -> AbstractContextManager[object]:
    """Computes learned float32 tensors in the model's half precision; nothing for a float32 model."""
    if model.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(model.device.type, model.dtype)
