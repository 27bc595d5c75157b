"""Sampling with exact denoisers: levels of noise, the strength of the subject, and all ways to set it at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from customcrafter_core.diffusion.ddim import Level, ddim_levels, ddim_step
from customcrafter_core.diffusion.schedule import NoiseSchedule

from .posterior import Prior, explained
from .world import World

VIDEOCRAFTER2, UNSCALED, FLOW = "VideoCrafter2", "unscaled", "flow"
ROWS = 256
"""Clips that are denoised together: small enough for the processor's cache."""

Predict = Callable[[torch.Tensor, Level, float], torch.Tensor]
"""``(noisy clips (b, r), level, strength) -> clean clips (b, r)``."""


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a run, from noise to the clean clip, one more than steps."""

    levels: list[Level]
    is_flow: bool = False

    @property
    def steps(self) -> int:
        """Predictions of a run."""
        return len(self.levels) - 1

    def step(self, x: torch.Tensor, x0: torch.Tensor, i: int, noise: torch.Tensor, eta: float) -> torch.Tensor:
        """From level ``i`` to the next, given the predicted clean ``x0``: DDIM, or Euler of the flow ``x' = n - x0``."""
        now, following = self.levels[i], self.levels[i + 1]
        eps = (x - now.signal * x0) / now.noise
        if self.is_flow:
            return x + (following.noise - now.noise) * (eps - x0)
        return ddim_step(x, eps, now, following, eta=eta, noise=lambda: noise)[0]


def schedule_of(name: str, steps: int) -> Schedule:
    """VideoCrafter2's schedule, the same without its scale, or ``flow S`` for flow matching with shift ``S``."""
    if name.startswith(FLOW):
        shift = float(name.removeprefix(FLOW))
        even = [1 - i / steps for i in range(steps + 1)]
        return Schedule([flow_level(shift * s / (1 + (shift - 1) * s)) for s in even], is_flow=True)
    schedule = NoiseSchedule.videocrafter2()
    if name == UNSCALED:
        schedule = NoiseSchedule(schedule.alphas_cumprod, torch.ones_like(schedule.scale))
    return Schedule(ddim_levels(schedule, schedule.ddim_timesteps(steps), exact_tail=True))


def flow_level(sigma: float) -> Level:
    """``x = (1 - sigma) x0 + sigma n``."""
    return Level(1 - sigma**2, 1 - sigma)


def sigma_of(level: Level) -> float:
    """Share of noise ``noise / (signal + noise)``: the sigma that flow matching has at the same ratio of the two."""
    return level.noise / (level.signal + level.noise)


@dataclass(frozen=True)
class Denoiser:
    """Base and subject, and what the subject's strength means between them."""

    world: World
    base: Prior
    subject: Prior
    base_empty: Prior | None = None
    """With the negative prompt; needed for guidance."""
    subject_empty: Prior | None = None
    """None: the LoRA does nothing to the negative prompt's prediction."""
    cfg: float = 1.0
    tempered: bool = False
    """Strength mixes the logarithms of the priors instead of the predictions."""

    def __call__(self, x: torch.Tensor, level: Level, strength: float) -> torch.Tensor:
        """The clean clips predicted from noisy ones ``(b, r)`` at a strength, with guidance."""
        by_look: dict[torch.Tensor, list[tuple[float, Prior]]] = {}
        for share, prior in self.mixture(strength):
            by_look.setdefault(prior.look, []).append((share, prior))
        x0 = torch.zeros_like(x)
        for look, members in by_look.items():  # what concerns looks is the same for all priors over paths
            again = look.repeat(len(x) // len(look), 1)  # the ways lie one behind the other, each with all videos
            fit, signs = explained(self.world, x, level.signal, level.noise, again)
            path = sum(share * torch.softmax(fit + prior.path, 1) for share, prior in members)
            x0 += self.world.clip(path, signs)
        return x0

    def mixture(self, strength: float) -> list[tuple[float, Prior]]:
        """The priors whose posterior means make up the prediction, with their shares, which add up to 1.

        A LoRA's effect to first order is ``(1 - strength) · base + strength · subject``.
        """
        parts = [(self.cfg, self.base, self.subject)]
        if self.base_empty is not None:
            parts.append((1 - self.cfg, self.base_empty, self.subject_empty or self.base_empty))
        if self.tempered:
            return [(share, base.towards(subject, strength)) for share, base, subject in parts]
        found = []
        for share, base, subject in parts:
            found += [(share * (1 - strength), base), (share * strength, subject)]
        return [(share, prior) for share, prior in found if share]


def sample(
    world: World,
    predict: Predict,
    schedule: Schedule,
    ways: Sequence[Sequence[float]],
    count: int,
    *,
    eta: float = 0.0,
    seed: int = 0,
) -> list[torch.Tensor]:
    """Sample the same videos in several ways; ways share their steps for as long as their strengths agree.

    Args:
        world: its clips.
        predict: the denoiser.
        schedule: levels of noise.
        ways: the strength at each step, by way.
        count: videos of each way.
        eta: of DDIM.
        seed: of all noise, the same for every way.

    Returns:
        The clips of each way ``(count, r)``.
    """
    generator = torch.Generator().manual_seed(seed)
    at_once = max(ROWS // count, 1)
    now = {(): world.noise(count, generator)}
    for i in range(schedule.steps):
        noise = world.noise(count, generator) if eta > 0 else torch.empty(0)
        following: dict[tuple[float, ...], torch.Tensor] = {}
        histories = list(dict.fromkeys(tuple(way[: i + 1]) for way in ways))
        for strength in dict.fromkeys(history[-1] for history in histories):
            same = [history for history in histories if history[-1] == strength]
            for group in (same[j : j + at_once] for j in range(0, len(same), at_once)):
                x = torch.cat([now[history[:-1]] for history in group])
                x0 = predict(x, schedule.levels[i], strength)
                x = schedule.step(x, x0, i, noise.repeat(len(group), 1), eta)
                following.update(zip(group, x.split(count), strict=True))
        now = following
    return [now[tuple(way)] for way in ways]
