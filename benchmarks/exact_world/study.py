"""All cases of the study, and their videos, made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .cases import (
    BASE,
    COND,
    IDENTITIES,
    ONE_OF_EACH,
    PAIRS,
    VARIATIONS,
    VARIED,
    WIDE,
    Case,
    Videos,
    videos_of,
    ways_of,
)

LAW, GUIDED, PROMPT_ONLY = "no guidance", "guidance 12", "guidance 12, LoRA on the prompt only"
WIDELY = "all strengths"


@dataclass(frozen=True)
class Trial:
    """A case, why it is there, and the strengths that are tried."""

    group: str
    """`LAW`, `GUIDED`, `PROMPT_ONLY`, `WIDELY` or a variation."""
    case: Case
    pairs: tuple[tuple[float, float], ...] = PAIRS

    @property
    def key(self) -> str:
        """Unique, as a file name."""
        return f"{self.case.key}_{len(self.pairs)}"


def all_trials() -> list[Trial]:
    """The law with and without guidance, what may change it, and all strengths for two cases."""
    trials = [Trial(LAW, Case(identity)) for identity in IDENTITIES]
    trials += [Trial(GUIDED, Case(identity, cfg=12.0)) for identity in IDENTITIES]
    trials += [Trial(PROMPT_ONLY, Case(identity, cfg=12.0, lora_on=COND)) for identity in ONE_OF_EACH]
    trials += [Trial(WIDELY, case, pairs=WIDE) for case in (BASE, replace(BASE, cfg=12.0))]
    varied = [(name, identity) for name in VARIATIONS for identity in VARIED]
    return trials + [Trial(name, Case(identity, **VARIATIONS[name])) for name, identity in varied]


def videos_of_trial(trial: Trial, cache: Path) -> Videos:
    """The videos of a trial, from the cache or made now; ones of other ways are made again."""
    ways = ways_of(trial.case, trial.pairs)

    def make() -> dict[str, Any]:
        return vars(videos_of(trial.case, ways))

    path = cache / f"{trial.key}.npz"
    made = kept_or_made(path, make)
    if list(made["ways"]) != list(ways):
        path.unlink()
        made = kept_or_made(path, make)
    return Videos(list(ways), made["moves"], made["identity"], made["look"], float(made["blur"]))


def kept_or_made(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays in a file, which is made first where it is missing."""
    if not path.exists():
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, **make())
        part.replace(path)
    with np.load(path) as kept:
        return dict(kept)
