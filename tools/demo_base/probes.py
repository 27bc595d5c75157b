"""What training is watched by: how much the network relies on a word, and how much of the marks it sees in the noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from customcrafter_core.demo import creatures as world
from customcrafter_core.demo.mosaic import latents_to_cells
from customcrafter_core.diffusion.schedule import NoiseSchedule

from .data import Captions, latents_of

SEED = 23

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From noisy latents ``(b, 4, f, h, w)``, timesteps ``(b,)``, text ``(b, 77, d)`` and frame rates ``(b,)`` to the noise."""


class Probes:
    """Fixed clips and noise; every call measures a network on them."""

    def __init__(
        self, captions: Captions, schedule: NoiseSchedule, count: int = 16, timesteps: Sequence[int] = (300,)
    ) -> None:

        rng = np.random.default_rng(SEED)
        moving = {"left": 1.0, "right": 1.0, "up": 1.0, "down": 1.0}
        self.captions, self.schedule, self.timesteps = captions, schedule, timesteps
        self.scenes = [world.sample_scene(rng, named_share=1.0, motion_weights=moving) for _ in range(count)]
        self.unnamed = [world.sample_scene(rng, named_share=0.0, motion_weights=moving) for _ in range(count)]

    @torch.no_grad()
    def __call__(self, unet: Denoiser) -> dict[str, float]:
        """Penalties are relative: 0 the word is not read, 1 its opposite doubles the error.

        ``way T``: opposite motion at timestep T; ``name T``: another name, error within the creature; ``marks T``: share of
        the variance of unnamed marks that is seen in the noisy clip, and ``frame T`` in a noisy single frame.
        """
        found = {f"way {t}": self.way(unet, t) for t in (980, 880, 400)}
        right = [s.caption for s in self.scenes]
        other = [
            replace(s, name=world.NAMES[(world.NAMES.index(s.name) + 5) % len(world.NAMES)]).caption
            for s in self.scenes
        ]
        for t in self.timesteps:
            found[f"name {t}"] = self._penalty(unet, t, right, other, inside=True)
        for t in (400, 200):
            found[f"marks {t}"] = self._marks(unet, t, world.FRAMES)
        found["frame 300"] = self._marks(unet, 300, 1)
        return found

    def way(self, unet: Denoiser, t: int) -> float:
        """Penalty of the opposite motion."""
        turned = [world.caption_for(s.noun, world.OPPOSITE[s.motion], s.background) for s in self.scenes]
        return self._penalty(unet, t, [s.caption for s in self.scenes], turned, inside=False)

    @torch.no_grad()
    def _penalty(self, unet: Denoiser, t: int, right: Sequence[str], wrong: Sequence[str], *, inside: bool) -> float:
        errors = []
        for words in (right, wrong):
            clean, found = self._predict(unet, self.scenes, words, t, world.FRAMES)
            error = (found - clean) ** 2
            errors.append(float(error[_inside(self.scenes, world.FRAMES)].mean() if inside else error.mean()))
        return errors[1] / errors[0] - 1

    def _marks(self, unet: Denoiser, t: int, frames: int) -> float:
        words = [world.caption_for(s.noun, s.motion if frames > 1 else "", s.background) for s in self.unnamed]
        clean, found = self._predict(unet, self.unnamed, words, t, frames)
        inside = _inside(self.unnamed, frames)
        return 1 - float(((found - clean)[inside] ** 2).mean()) / world.CONTRAST**2

    def _predict(
        self, unet: Denoiser, scenes: Sequence[world.Scene], words: Sequence[str], t: int, frames: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean cells and the predicted ones ``(b, f, h, w, 3)``."""
        cells = np.stack([world.render_cells(scene, frames) for scene in scenes])
        clean = latents_of(cells)
        timesteps = torch.full((len(clean),), t)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED))
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        text = self.captions.text[self.captions.find(list(words))]
        predicted = unet(noisy, timesteps, text, torch.full_like(timesteps, world.FPS))
        signal, sigma = float(self.schedule.signal[t]), float(self.schedule.noise[t])
        return torch.from_numpy(cells), latents_to_cells((noisy - sigma * predicted) / signal)


def _inside(scenes: Sequence[world.Scene], frames: int) -> torch.Tensor:
    """Cells of the creature in each frame: bool ``(b, f, h, w)``."""
    mask = np.zeros((len(scenes), frames, world.CELLS, world.CELLS), bool)
    for one, scene in zip(mask, scenes, strict=True):
        for frame, (x, y) in zip(one, scene.places(frames), strict=True):
            frame[y : y + world.GRID, x : x + world.GRID] = world.KINDS[scene.look.kind].inside
    return torch.from_numpy(mask)
