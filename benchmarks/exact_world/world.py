"""All clips there are, and what a denoiser needs to know of them.

A clip is ``base(path) + Σ s_i · part_i(path)`` with signs ``s_i = ±1``: the path says where the object is in each frame, the
signs are its look. Clips are relative to the background and in units of the latent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .clips import COLOUR, DISC, OBJECT, SIDE, STILL, Identity, parts_of, paths


class World:
    """Clips as coordinates ``(b, r)`` in an orthonormal basis of the space that all of them span.

    The space is small: `r` is 50 to 500, of thousands of pixels. Noise outside of it tells nothing about the clip, and DDIM
    is linear, so denoising and sampling need the coordinates only. In them, too, noise is standard normal.
    """

    def __init__(
        self, identity: Identity, motions: Sequence[str], *, frames: int = 8, travel: int = 7, spread: float = 0.7
    ) -> None:
        """Args:
        identity: what the looks differ in.
        motions: that there are, ``still`` among them.
        frames: of a clip.
        travel: of a moving object, in pixels.
        spread: what pixel values are multiplied by to be latents.
        """
        where = [(motion, path) for motion in motions for path in paths(motion, frames, travel)]
        pictures = identity.contrast * parts_of(identity.kind)
        self.motions = [motion for motion, _ in where]
        self.path_count, self.part_count = len(where), len(pictures)
        self.frame_shape = (frames, SIDE, SIDE, 3)
        base = np.zeros((self.path_count, *self.frame_shape), np.float32)
        parts = np.zeros((self.path_count, self.part_count, *self.frame_shape), np.float32)
        for i, (_, path) in enumerate(where):
            for frame, (x, y) in enumerate(path):
                base[i, frame, y : y + OBJECT, x : x + OBJECT] = DISC[..., None] * np.array(COLOUR)
                parts[i, :, frame, y : y + OBJECT, x : x + OBJECT] = pictures
        drawn = spread * torch.from_numpy(np.concatenate([base[:, None], parts], 1)).reshape(-1, base[0].size)
        energy, vectors = torch.linalg.eigh((drawn @ drawn.T).double())
        spans = energy > 1e-6 * energy[-1]
        size = energy[spans].sqrt()
        templates = (vectors[:, spans] * size).float().unflatten(0, (self.path_count, 1 + self.part_count))
        self.base = templates[:, 0].contiguous()
        """Coordinates of each path's base ``(p, r)``."""
        self.parts = templates[:, 1:].contiguous()
        """Coordinates of each path's parts ``(p, n, r)``."""
        self.basis = (vectors[:, spans] / size).float().T @ drawn
        """Orthonormal ``(r, pixels)``."""
        self.base_energy = self.base.square().sum(1)
        """``|base|²`` by path ``(p,)``."""
        self.part_energy = self.parts.square().sum(2)
        """``|part|²`` by path and part ``(p, n)``."""
        self.base_on_part = (self.base[:, None] * self.parts).sum(2)
        """Inner products of a path's base with its parts ``(p, n)``."""

    def products(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inner products of clips ``(b, r)`` with the bases ``(b, p)`` and with the parts ``(b, p, n)``."""
        on_parts = x @ self.parts.flatten(0, 1).T
        return x @ self.base.T, on_parts.unflatten(1, (self.path_count, self.part_count))

    def clip(self, path: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        """The clip ``(b, r)`` with weights of the paths ``(b, p)`` and, given the path, mean signs ``(b, p, n)``."""
        return path @ self.base + (path[..., None] * signs).flatten(1) @ self.parts.flatten(0, 1)

    def noise(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Standard normal noise ``(count, r)``."""
        return torch.randn(count, len(self.basis), generator=generator)

    def pixels(self, x: torch.Tensor) -> torch.Tensor:
        """Clips ``(b, r)`` drawn, relative to the background, ``(b, f, h, w, 3)``."""
        return (x @ self.basis).unflatten(1, self.frame_shape)

    def of(self, motion: str) -> torch.Tensor:
        """Which paths make a motion ``(p,)``."""
        return torch.tensor([name == motion for name in self.motions])

    def motion_energy(self, motion: str) -> float:
        """Mean squared distance of a moving clip to the still one nearest to it, both without look."""
        base = self.base.double()
        return float(torch.cdist(base[self.of(motion)], base[self.of(STILL)]).square().min(1).values.mean())

    def one_part_energy(self) -> float:
        """Mean squared distance of two clips that differ in the sign of one part."""
        return float(4 * self.part_energy.mean())
