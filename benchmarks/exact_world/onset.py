"""Motion Onset on the exact base: measured as on a network, and then judged by the videos that each K really makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from customcrafter_core.diffusion.strength import TwoPhase, strengths_of
from customcrafter_core.experiments.motion_onset import fixed_shares, suggest_k

from .cases import Case, looks_of
from .clips import DIRECTIONS, STILL, Identity
from .measures import measure
from .posterior import Prior, path_prior, posterior_mean
from .sampling import Denoiser, Level, sample
from .world import World

BACKGROUND = 0.9
"""Of the frames, from -1 to 1."""
VIDEOS = 6
"""In each direction."""
MARKS = Identity("marks", 0.3)
TUNED = {
    "no guidance": Case(MARKS), "guidance 12": Case(MARKS, cfg=12.0), "guidance 12, eta 1": Case(MARKS, cfg=12.0, eta=1.0),
    "latents four times as large": Case(MARKS, spread=2.8), "flow matching, shift 5": Case(MARKS, schedule="flow 5"),
    "flow matching, shift 8, guidance 5": Case(MARKS, schedule="flow 8", cfg=5.0),
}  # fmt: skip
"""On these the rule was chosen."""
JUDGED = {
    "two halves ±0.25": Case(Identity("two halves", 0.25)), "eyes ±0.3": Case(Identity("eyes", 0.3)),
    "texture ±0.3, guidance 12": Case(Identity("texture", 0.3), cfg=12.0), "guidance 3": Case(MARKS, cfg=3.0),
    "guidance 12, latents twice as large": Case(MARKS, cfg=12.0, spread=1.4),
    "guidance 12, eps 0.0001": Case(MARKS, cfg=12.0, eps=1e-4), "16 frames": Case(MARKS, frames=16),
    "guidance 12, 20 steps": Case(MARKS, cfg=12.0, steps=20), "20 steps": Case(MARKS, steps=20),
    "schedule without scale": Case(MARKS, schedule="unscaled"), "eps 0.0001": Case(MARKS, eps=1e-4),
    "flow matching, shift 3": Case(MARKS, schedule="flow 3"), "flow matching, shift 8": Case(MARKS, schedule="flow 8"),
}  # fmt: skip
"""On these it is judged."""
ONSETS = TUNED | JUDGED


@dataclass(frozen=True)
class Onset:
    """What Motion Onset sees of each video of the base, and what becomes of it with the subject."""

    motion: np.ndarray
    """Share of the motion that is fixed after 1, 2, … steps ``(v, steps)``."""
    detail: np.ndarray
    """Of the detail ``(v, steps)``."""
    moves: np.ndarray
    """Whether it moves as asked with 0 → 1 and K = 0, 1, … steps ``(v, 1 + steps)``."""
    identity: np.ndarray
    """How much it is the subject with these Ks ``(v, 1 + steps)``."""


@torch.inference_mode()
def onset(case: Case) -> Onset:
    """Measure a case, in a world of all four directions: without its prompt the base knows neither motion nor look."""
    schedule = case.levels
    ways = [strengths_of(TwoPhase(0.0, 1.0, k), schedule.steps) for k in range(schedule.steps + 1)]
    parts: list[tuple[np.ndarray, ...]] = []
    for number, asked in enumerate(DIRECTIONS):
        world = World(case.identity, [STILL, *DIRECTIONS], frames=case.frames, travel=case.travel, spread=case.spread)
        look = looks_of(world.part_count)[:VIDEOS]
        denoiser = case.denoiser(world, asked, look)
        clips = sample(world, denoiser, schedule, ways, VIDEOS, eta=case.eta, seed=100 + number)
        seen = [measure(world, x, asked, look) for x in clips]
        drawn = [_frames(world, x, case.spread) for x in (*_held(case, world, denoiser, 100 + number), clips[-1])]
        for video in range(VIDEOS):
            motion, detail = fixed_shares((frames[video] for frames in drawn), drawn[-1][video])
            moves, identity = (np.array([float(getattr(s, n)[video]) for s in seen]) for n in ("moves", "identity"))
            parts.append((np.array(motion), np.array(detail), moves, identity))
    return Onset(*(np.stack(values) for values in zip(*parts, strict=True)))


def _held(case: Case, world: World, denoiser: Denoiser, seed: int) -> list[torch.Tensor]:
    """After each step but the last of a run of the base what the latent holds by itself: the clip without the prompt."""
    unknown = Prior(path_prior(world, dict.fromkeys(world.motions, 1)), torch.zeros(1, world.part_count))
    found: list[torch.Tensor] = []

    def predict(x: torch.Tensor, level: Level, strength: float) -> torch.Tensor:
        found.append(posterior_mean(world, x, level.signal, level.noise, unknown))
        return denoiser(x, level, strength)

    sample(world, predict, case.levels, [[0.0] * case.levels.steps], VIDEOS, eta=case.eta, seed=seed)
    return found[1:]  # the first is predicted from noise, after no step at all


def _frames(world: World, x: torch.Tensor, spread: float) -> torch.Tensor:
    """Clips ``(b, r)`` as pictures ``(b, f, h, w, 3)`` from 0 to 1."""
    return (world.pixels(x) / spread + BACKGROUND + 1) / 2


def half_share(motion: Sequence[float]) -> int:
    """Another rule: as `suggest_k`, but a step has to fix only half of its even share."""
    return int((np.asarray(motion) - 0.5 * np.arange(1, len(motion) + 1) / len(motion)).argmax()) + 1


RULES: dict[str, Callable[[Sequence[float]], int]] = {"knee": suggest_k, "half": half_share}


def onset_summary(name: str, measured: Onset) -> dict[str, Any]:
    """The best K for all videos of a case, and what each rule makes of each video with the K it suggests for it.

    The best has the largest sum of motion and identity; those within 0.05 of it are as good.
    """
    motion, identity = measured.moves.mean(0), measured.identity.mean(0)
    total = motion + identity
    good = np.flatnonzero(total >= total.max() - 0.05)
    best = int(total.argmax())
    found: dict[str, Any] = {
        "case": name, "tuned": name in TUNED, "videos": len(measured.moves), "steps": measured.motion.shape[1],
        "best": {"k": best, "range": [int(good[0]), int(good[-1])], "motion": motion[best], "identity": identity[best]},
    }  # fmt: skip
    videos = np.arange(len(measured.moves))
    for rule, suggest in RULES.items():
        ks = np.array([suggest(curve) for curve in measured.motion])
        moves, alike = measured.moves[videos, ks].mean(), measured.identity[videos, ks].mean()
        found[rule] = {
            "median": float(np.median(ks)), "low": int(ks.min()), "high": int(ks.max()),
            "motion": moves, "identity": alike, "lost": total.max() - moves - alike,
        }  # fmt: skip
    return found
