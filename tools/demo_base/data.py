"""Training batches of the demo base model, drawn as they are needed: a clip costs a tenth of a millisecond."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from customcrafter_core.base_model.text import PromptTokenizer, encode_ids
from customcrafter_core.demo import creatures as world
from customcrafter_core.demo.mosaic import cells_to_latents
from customcrafter_core.diffusion.schedule import NoiseSchedule

from .network import build_clear_text_encoder

FIRST_MOTIONS = {"left": 1.0, "right": 0.2, "up": 0.7, "down": 0.15, "still": 0.35}
"""Frequencies of the motions until direction is bound.

Direction is a parity of three things: word, frame and place. When one direction of each axis prevails, place over time
is learned first, and then the word has only to turn it around.
"""
FIRST_SPREAD = 0.4
"""Share of the places used until then: the fewer there are, the clearer is the mean clip that the first steps learn."""
FRAME_CAPTIONS, FRAMES_NAMED = world.CaptionNoise(no_motion=0.7, wrong_motion=0.0, no_name=0.05), 0.75
OBJECT_WEIGHT = 4.0
"""Weight of cells where the creature is at any time of the clip, against 1 for the rest. The best answer stays the same."""


@dataclass(frozen=True)
class Mix:
    """What batches are made of: two dials from 0 to 1, the second turned after the first (see `train.Dials`).

    Attributes:
        balance: from few places and FIRST_MOTIONS to all places and equal motions.
        doubt: from true captions and much pure noise to careless captions and none.
    """

    balance: float = 0.0
    doubt: float = 0.0

    @property
    def motions(self) -> dict[str, float]:
        """Relative frequency of each motion."""
        total = sum(FIRST_MOTIONS.values())
        equal = self.balance / len(FIRST_MOTIONS)
        return {name: (1 - self.balance) * share / total + equal for name, share in FIRST_MOTIONS.items()}

    @property
    def spread(self) -> float:
        """Share of the places used."""
        return FIRST_SPREAD + (1 - FIRST_SPREAD) * self.balance

    @property
    def pure_noise(self) -> float:
        """Share of clips whose input is nothing but noise."""
        return (0.5 - 0.2 * self.balance) * (1 - self.doubt)

    @property
    def high(self) -> float:
        """Share of the other clips' timesteps that are from 500 … 999; the rest are from 0 … 699."""
        return 0.65 - 0.3 * self.doubt

    @property
    def captions(self) -> world.CaptionNoise:
        """How careless captions are."""
        full = world.CaptionNoise()
        return replace(
            full,
            no_motion=full.no_motion * self.doubt,
            wrong_motion=full.wrong_motion * self.doubt,
            no_background=full.no_background * self.doubt,
        )


@dataclass(frozen=True)
class Batch:
    """Clean and noisy latents ``(b, 4, f, h, w)``, index of the caption, timestep and frame rate ``(b,)``, cell weights."""

    clean: torch.Tensor
    noisy: torch.Tensor
    caption: torch.Tensor
    timesteps: torch.Tensor
    fps: torch.Tensor
    weight: torch.Tensor


def all_captions() -> list[str]:
    """Every caption that the world can have, the empty one first."""
    nouns = [f"{name} {kind}".strip() for name in ("", *world.NAMES) for kind in world.KINDS]
    parts = itertools.product(nouns, ("", *world.MOTIONS), ("", *world.BACKGROUNDS))
    return ["", *(world.caption_for(*part) for part in parts)]


class Captions:
    """Text embeddings of all captions."""

    def __init__(self) -> None:
        captions = all_captions()
        self.index = {caption: i for i, caption in enumerate(captions)}
        with torch.no_grad():
            encoder, ids = build_clear_text_encoder(), PromptTokenizer()(captions)
            self.text = torch.cat([encode_ids(encoder, part) for part in ids.split(64)])

    def find(self, captions: list[str]) -> torch.Tensor:
        """Index of each caption ``(b,)``."""
        return torch.tensor([self.index[caption] for caption in captions])


def latents_of(cells: np.ndarray) -> torch.Tensor:
    """Cells ``(b, f, h, w, 3)`` to diffusion latents ``(b, 4, f, h, w)``."""
    return cells_to_latents(torch.from_numpy(cells))


def object_weights(scenes: Sequence[world.Scene], frames: int) -> torch.Tensor:
    """Weight of every cell in the loss, ``(b, 1, 1, h, w)`` with mean 1."""
    weight = np.ones((len(scenes), world.CELLS, world.CELLS), np.float32)
    for one, scene in zip(weight, scenes, strict=True):
        for x, y in scene.places(frames):
            one[y : y + world.GRID, x : x + world.GRID] = OBJECT_WEIGHT
    weight /= weight.mean((1, 2), keepdims=True)
    return torch.from_numpy(weight)[:, None, None]


@dataclass(frozen=True)
class Source:
    """Draws batches; each depends on its generator only."""

    captions: Captions
    schedule: NoiseSchedule

    def clips(self, rng: np.random.Generator, count: int, mix: Mix) -> Batch:
        """A batch of whole clips."""
        scenes = [world.sample_scene(rng, motion_weights=mix.motions, spread=mix.spread) for _ in range(count)]
        words = [world.noisy_caption(rng, scene, mix.captions) for scene in scenes]
        timesteps = np.where(rng.random(count) < mix.high, rng.integers(500, 1000, count), rng.integers(0, 700, count))
        pure = rng.random(count) < mix.pure_noise
        timesteps = np.where(pure, rng.integers(960, 1000, count), timesteps)
        return self._batch(rng, scenes, world.FRAMES, words, timesteps, pure)

    def frames(self, rng: np.random.Generator, count: int) -> Batch:
        """A batch of single frames: looks and the words for them are learned on these, ten times as many a second."""
        scenes = [
            world.sample_scene(rng, named_share=FRAMES_NAMED, motion_weights={"still": 1.0}) for _ in range(count)
        ]
        words = [world.noisy_caption(rng, scene, FRAME_CAPTIONS) for scene in scenes]
        # mostly where a mark is half seen, so that a name helps
        kinds = rng.choice(3, count, p=(0.25, 0.55, 0.2))
        timesteps = rng.integers(np.array([500, 200, 0])[kinds], np.array([1000, 700, 300])[kinds])
        return self._batch(rng, scenes, 1, words, timesteps, np.zeros(count, bool))

    def _batch(
        self,
        rng: np.random.Generator,
        scenes: Sequence[world.Scene],
        frames: int,
        words: list[str],
        timesteps: np.ndarray,
        pure: np.ndarray,
    ) -> Batch:
        clean = latents_of(np.stack([world.render_cells(scene, frames) for scene in scenes]))
        noise, t = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)), torch.from_numpy(timesteps)
        only_noise = torch.from_numpy(pure).view(-1, 1, 1, 1, 1)
        noisy = torch.where(only_noise, noise, self.schedule.add_noise(clean, noise, t))
        fps = torch.full_like(t, world.FPS)
        return Batch(clean, noisy, self.captions.find(words), t, fps, object_weights(scenes, frames))
