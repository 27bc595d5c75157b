"""What one step sees: noised videos with captions, drawn from the seed and the number of the step alone.

So a resumed run draws what an uninterrupted one would have, and so do several processes, each of which draws the whole
batch and takes its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from ..base_model.text import PromptTokenizer
from ..diffusion.schedule import NoiseSchedule
from .config import TrainConfig
from .examples import Examples, ExampleSets


@dataclass(frozen=True)
class Batch:
    """Noised videos of the subject, then as many of the prior."""

    noised: torch.Tensor
    """``(b, c, t, h, w)``"""
    noise: torch.Tensor
    """``(b, c, t, h, w)``, what the model has to find"""
    timesteps: torch.Tensor
    """``(b,)``"""
    ids: torch.Tensor
    """Token ids of the captions ``(b, 77)``"""
    mask: torch.Tensor
    """Where the loss counts ``(b, 1, 1, h, w)``"""

    def part(self, rank: int, size: int) -> Batch:
        """The share of one of several processes."""
        return Batch(*(getattr(self, entry.name)[rank::size] for entry in fields(self)))


@dataclass(frozen=True)
class BatchSource:
    """Draws the batches of a run."""

    config: TrainConfig
    sets: ExampleSets
    schedule: NoiseSchedule
    processes: int = 1

    def draw(self, step: int) -> list[Batch]:
        """The batches of a step: of the subject and, if the stage has one, of the prior."""
        in_token_stage = step < self.config.token_steps
        generator = seeded_generator(self.config.seed, step)
        chosen = [self.sets.subject]
        if self.sets.prior and not in_token_stage:
            chosen.append(self.sets.prior[step % len(self.sets.prior)])
        frames = 1 if in_token_stage else self.config.frames
        batch = self.config.token_videos if in_token_stage else self.config.batch
        has_offset = in_token_stage or not self.config.token_steps
        offset = self.config.offset_noise if has_offset else 0.0
        return [
            self._noised(examples, batch * self.processes * self.config.accumulate, frames, offset, generator)
            for examples in chosen
        ]

    def _noised(self, examples: Examples, count: int, frames: int, offset: float, generator: torch.Generator) -> Batch:
        index = torch.randint(len(examples), (count,), generator=generator)
        x0 = examples.draw(index, frames, generator)
        ids = self._captions([examples.captions[i] for i in index.tolist()], generator)
        noise = torch.randn(x0.shape, generator=generator)
        if offset:
            noise = noise + offset * torch.randn(*x0.shape[:3], 1, 1, generator=generator)
        timesteps = draw_timesteps(self.config, count, generator)
        noised = self.schedule.add_noise(x0, noise, timesteps)
        return Batch(noised, noise, timesteps, ids, examples.mask[index])

    def _captions(self, wordings: Sequence[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """One caption of each example ``(b, 77)``; some are left empty."""
        picks = torch.randint(1 << 30, (len(wordings),), generator=generator).tolist()
        ids = torch.stack([own[pick % len(own)] for own, pick in zip(wordings, picks, strict=True)])
        left_empty = torch.rand(len(wordings), generator=generator) < self.config.caption_dropout
        return torch.where(left_empty[:, None], PromptTokenizer()([""]), ids)


def draw_timesteps(config: TrainConfig, count: int, generator: torch.Generator) -> torch.Tensor:
    """Timesteps ``(n,)`` within the config's range, with density ``exp(bias · u)`` over it, u from 0 to 1."""
    first, last = config.timestep_range
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    bias = config.timestep_bias
    if bias:  # the inverse of the distribution function
        u = torch.log1p(u * np.expm1(bias)) / bias
    return (first + (u * (last - first + 1)).long()).clamp(max=last)


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator whose stream is as good as independent of that of any other numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
