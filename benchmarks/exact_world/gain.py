"""How much more a way moves than constants that are as much alike, with intervals; chosen on some looks, judged on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from customcrafter_core.intervals import LEVEL, Interval

DRAWS = 1000


def best_of_constants(given: np.ndarray, wanted: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The most that constants reach of one measure, alone or two mixed, with at least ``at`` of another.

    "Mixed" is drawing each video from one of two constants: a stricter bar than the constants' own curve. Where no
    constant has as much of the other measure, the one that has most of it counts.

    Args:
        given: by constant ``(…, c)``, such as identity.
        wanted: by constant ``(…, c)``, such as motion.
        at: of the first, to be reached ``(…, w)``.

    Returns:
        Of the second ``(…, w)``.
    """
    at = np.minimum(at, given.max(-1, keepdims=True))[..., None, None]
    less, more = given[..., None, :, None], given[..., None, None, :]
    # share of the constant that has more: as little as reaches `at`
    share = np.clip((at - less) / np.where(more > less, more - less, 1), 0, 1)
    mixed = wanted[..., None, :, None] + share * (wanted[..., None, None, :] - wanted[..., None, :, None])
    reaches = (more >= at) & (more > less) | (less >= at)
    return np.where(reaches, mixed, -np.inf).max((-1, -2))


def gains(given: np.ndarray, wanted: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """By way ``(…, w)``, what it has of ``wanted`` beyond the best constants that have as much of ``given``.

    ``constant (w,)`` says which ways are constants.
    """
    return wanted - best_of_constants(given[..., constant], wanted[..., constant], given)


def drawn_again(look: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Videos of looks drawn with replacement, and within each of them videos drawn with replacement ``(v,)``."""
    members = [np.flatnonzero(look == value) for value in np.unique(look)]
    chosen = [members[i] for i in rng.integers(len(members), size=len(members))]
    return np.concatenate([rng.choice(videos, len(videos)) for videos in chosen])


def gain_intervals(
    given: np.ndarray, wanted: np.ndarray, look: np.ndarray, constant: np.ndarray, which: Sequence[int], seed: int = 0
) -> list[Interval]:
    """`gains` of some ways, with 95 % intervals over looks and videos.

    Args:
        given: ``(w, v)``.
        wanted: ``(w, v)``.
        look: of each video ``(v,)``; every look has equally many.
        constant: which ways are constants ``(w,)``.
        which: the ways asked for.
        seed: of the draws.
    """
    rows = np.concatenate([np.flatnonzero(constant), np.asarray(which, int)])
    is_constant = np.arange(len(rows)) < constant.sum()
    rng = np.random.default_rng(seed)
    draws = np.stack([np.arange(len(look)), *(drawn_again(look, rng) for _ in range(DRAWS))])
    means = [values[rows][:, draws].mean(2).T for values in (given, wanted)]
    found = gains(means[0], means[1], is_constant)[:, constant.sum() :]
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Interval(float(m), float(a), float(b), len(look)) for m, a, b in zip(found[0], low, high, strict=True)]


def halves(look: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Videos of the looks to choose settings on, and of those to judge them on; looks are in random order already."""
    first = look < (look.max() + 1) // 2
    return np.flatnonzero(first), np.flatnonzero(~first)
