"""What the study varies: the subject's identity, the clip, the schedule, the model, and the ways to set the strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from customcrafter_core.diffusion.schedule import STEPS
from customcrafter_core.diffusion.strength import LAMBDA_L, LAMBDA_S, Constant, K, TwoPhase, strengths_of

from .clips import DIRECTIONS, OPPOSITE, STILL, Identity
from .measures import measure
from .posterior import Prior, look_prior, path_prior
from .sampling import VIDEOCRAFTER2, Denoiser, Schedule, sample, schedule_of
from .world import World

LOOKS = 16
"""Of each case, where its identity has as many; else all, with more videos each."""
RIGHT = 0.98
"""How sure the subject is of each part of its look."""
BOTH, COND = "both", "prompt only"


@dataclass(frozen=True)
class Case:
    """One world and one way of sampling in it."""

    identity: Identity
    frames: int = 8
    travel: int = 7
    """Pixels a moving object travels, of 16."""
    spread: float = 0.7
    """Latents are pixel values times this."""
    schedule: str = VIDEOCRAFTER2
    steps: int = STEPS
    eta: float = 0.0
    eps: float = 0.02
    """How likely the subject still takes motion to be: the hardness of the freeze, soft at 0.05, hard at 0.0001."""
    disobedience: float = 1e-9
    """How likely the base takes motions to be that were not asked for."""
    said: float = 0.5
    """How sure the base is of each part of the look by the learned word alone; a half: the word says nothing."""
    cfg: float = 1.0
    lora_on: str = BOTH
    """With guidance: the LoRA changes both predictions, or that with the prompt only."""
    tempered: bool = False
    """Strength mixes the priors' logarithms instead of the predictions."""

    @property
    def key(self) -> str:
        """Unique, as a file name."""
        values = [str(value) for value in asdict(replace(self, identity=None)).values()][1:]  # type: ignore[arg-type]
        return "_".join([str(self.identity), *values]).replace(" ", "-")

    def world(self, asked: str) -> World:
        """Clips that stand still or move as asked; with guidance there is the opposite motion too."""
        motions = [STILL, asked] if self.cfg == 1 else [STILL, asked, OPPOSITE[asked]]
        return World(self.identity, motions, frames=self.frames, travel=self.travel, spread=self.spread)

    def denoiser(self, world: World, asked: str, look: torch.Tensor) -> Denoiser:
        """Base and subject for a prompt with a motion; ``look (b, n)`` is the subject's."""
        unasked = dict.fromkeys(world.motions, self.disobedience)
        base = Prior(path_prior(world, {**unasked, asked: 1}), look_prior(look, self.said))
        known = look_prior(look, RIGHT)
        subject = Prior(path_prior(world, {**unasked, STILL: 1 - self.eps, asked: self.eps}), known)
        if self.cfg == 1:
            return Denoiser(world, base, subject, tempered=self.tempered)
        unknown = base.look if self.said == 0.5 else torch.zeros_like(look)
        any_motion = Prior(path_prior(world, dict.fromkeys(world.motions, 1)), unknown)
        each = self.eps / (len(world.motions) - 1)
        still = Prior(path_prior(world, {**dict.fromkeys(world.motions, each), STILL: 1 - self.eps}), known)
        empty = still if self.lora_on == BOTH else None
        return Denoiser(world, base, subject, any_motion, empty, self.cfg, self.tempered)

    @property
    def levels(self) -> Schedule:
        """Its schedule."""
        return schedule_of(self.schedule, self.steps)

    def motion_to_noise(self) -> np.ndarray:
        """``sqrt(energy of motion) · signal / noise`` at the level of each step ``(steps,)``: how visible motion is."""
        energy = self.world("right").motion_energy("right")
        return np.array([level.signal / level.noise * energy**0.5 for level in self.levels.levels[:-1]])

    @property
    def ratio(self) -> float:
        """Energy of motion over that of one part of the identity."""
        world = self.world("right")
        return world.motion_energy("right") / world.one_part_energy()


BASE = Case(Identity("marks", 0.3))
IDENTITIES = [
    Identity(kind, contrast)
    for kind, contrasts in {
        "solid colour": (0.6, 0.3, 0.15), "two halves": (0.5, 0.25), "four quarters": (0.5, 0.25),
        "stripes": (0.6, 0.3), "rim": (0.6, 0.3), "eyes": (0.6, 0.3), "marks": (0.9, 0.6, 0.3, 0.15),
        "texture": (0.6, 0.3, 0.1),
    }.items()
    for contrast in contrasts
]  # fmt: skip
ONE_OF_EACH = [
    Identity("solid colour", 0.6), Identity("two halves", 0.5), Identity("four quarters", 0.25), Identity("stripes", 0.3),
    Identity("rim", 0.3), Identity("eyes", 0.3), Identity("marks", 0.3), Identity("texture", 0.3),
]  # fmt: skip
VARIED = [Identity("solid colour", 0.6), BASE.identity]
SHIFTS = (1, 3, 5, 8)
FLOWS = {
    f"flow matching, shift {shift}{said}": {"schedule": f"flow {shift}", **guidance}
    for said, guidance in {"": {}, ", guidance 5": {"cfg": 5.0}}.items()
    for shift in SHIFTS
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "4 frames": {"frames": 4}, "16 frames": {"frames": 16},
    "travels 3 pixels": {"travel": 3}, "travels 5 pixels": {"travel": 5},
    "latents twice as large": {"spread": 1.4}, "latents four times as large": {"spread": 2.8},
    "schedule without scale": {"schedule": "unscaled"},
    "eps 0.0001": {"eps": 1e-4}, "eps 0.001": {"eps": 1e-3}, "eps 0.05": {"eps": 0.05},
    "20 steps": {"steps": 20}, "100 steps": {"steps": 100}, "eta 1": {"eta": 1.0},
    "guidance 3": {"cfg": 3.0},
    "guidance 3, LoRA on the prompt only": {"cfg": 3.0, "lora_on": COND},
    "guidance 12, eta 1": {"cfg": 12.0, "eta": 1.0},
    "guidance 12, latents twice as large": {"cfg": 12.0, "spread": 1.4},
    "guidance 12, eps 0.0001": {"cfg": 12.0, "eps": 1e-4},
    "base disobeys 0.1 %": {"disobedience": 1e-3}, "the word knows 70 % of the look": {"said": 0.7},
    "strength mixes log priors": {"tempered": True},
    "strength mixes log priors, base disobeys 2 %": {"tempered": True, "disobedience": 0.02},
    **FLOWS,
    "flow matching, shift 8, 20 steps": {"schedule": "flow 8", "steps": 20},
}  # fmt: skip
"""Name -> what differs from `Case`'s defaults."""

CONSTANTS = tuple(i / 10 for i in range(11))
BETWEEN = (0.05, 0.925, 0.95, 0.975)
"""Constants beside them with guidance, which multiplies the share of the base, or that of the subject, by the scale."""
PAIRS = ((0.0, 1.0), (0.2, 1.0), (0.4, 0.8))
"""λs and λl of the two phases."""
WIDE = tuple((s, l) for s in (0.0, 0.1, 0.2, 0.3, 0.4) for l in (0.6, 0.8, 0.9, 1.0))  # noqa: E741
VISIBILITIES = (1.4, 1.7, 2, 2.5, 3, 4, 5, 6, 7.5, 10)
"""The Ks tried: the steps before motion is as visible as this, so that they fit every world and schedule."""

Way = Constant | TwoPhase


def ks_of(case: Case) -> list[int]:
    """Ks to be tried: one or more steps for each phase."""
    visible = case.motion_to_noise()
    found = {int((visible < value).sum()) for value in VISIBILITIES}
    return sorted(k for k in found if 1 <= k < case.levels.steps)


def paper_way(steps: int, factor: int = 1) -> TwoPhase:
    """The paper's strengths and its share of the steps, or that times a factor."""
    return TwoPhase(LAMBDA_S, LAMBDA_L, max(round(factor * K * steps / STEPS), 1))


def ways_of(case: Case, pairs: Sequence[tuple[float, float]] = PAIRS) -> dict[str, Way]:
    """Constants and two phases, by name."""
    constants = CONSTANTS if case.cfg == 1 else sorted(CONSTANTS + BETWEEN)
    ways: list[Way] = [Constant(strength) for strength in constants]
    ways += [TwoPhase(lambda_s, lambda_l, k) for lambda_s, lambda_l in pairs for k in ks_of(case)]
    ways += [paper_way(case.steps), paper_way(case.steps, 2)]
    return {name_of(way): way for way in ways}


def name_of(way: Way) -> str:
    """As the page writes it."""
    if isinstance(way, Constant):
        return f"constant {way.strength:g}"
    return f"{way.lambda_s:g} → {way.lambda_l:g}, K {way.k}"


def looks_of(parts: int, seed: int = 0) -> torch.Tensor:
    """Different looks in random order, `LOOKS` or all there are, ``(looks, parts)`` of ±1."""
    rng = np.random.default_rng(seed)
    if 2**parts <= LOOKS:
        bits = np.array(list(np.ndindex(*(2,) * parts)))
    else:
        bits = np.zeros((0, parts), int)
        while len(bits) < LOOKS:
            bits = np.unique(np.concatenate([bits, rng.integers(2, size=(1, parts))]), axis=0)
    return torch.from_numpy(rng.permutation(bits) * 2 - 1).float()


@dataclass(frozen=True)
class Videos:
    """What the videos of a case show, by way and video ``(w, v)``; ``look`` says whose video it is ``(v,)``."""

    ways: list[str]
    moves: np.ndarray
    identity: np.ndarray
    look: np.ndarray
    blur: float
    """The largest of all."""


@torch.inference_mode()
def videos_of(case: Case, ways: dict[str, Way]) -> Videos:
    """Sample every way: each look in all four directions, with the same noise for all ways."""
    schedule = case.levels
    strengths = [strengths_of(way, schedule.steps) for way in ways.values()]
    looks = looks_of(case.world("right").part_count)
    each = LOOKS // len(looks)
    member = np.repeat(np.arange(len(looks)), each)
    parts = []
    for number, asked in enumerate(DIRECTIONS):
        world = case.world(asked)
        look = looks[member]
        denoiser = case.denoiser(world, asked, look)
        clips = sample(world, denoiser, schedule, strengths, len(look), eta=case.eta, seed=number)
        parts.append([measure(world, weights, asked, look) for weights in clips])
    moves, identity = (
        np.concatenate([np.stack([getattr(seen, name).numpy() for seen in part]) for part in parts], 1)
        for name in ("moves", "identity")
    )
    blur = max(float(seen.blur.max()) for part in parts for seen in part)
    return Videos(list(ways), moves, identity, np.tile(member, len(DIRECTIONS)), blur)
