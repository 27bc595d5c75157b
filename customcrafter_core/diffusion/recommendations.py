"""Strengths to begin with, by what is wanted, as the study with exact denoisers has them (``benchmarks/exact_world.md``)."""

from __future__ import annotations

from .strength import TwoPhase

PRESETS = {
    "more motion": TwoPhase(0.0, 1.0, 16),
    "balanced": TwoPhase(0.0, 1.0, 10),
    "more likeness": TwoPhase(0.2, 1.0, 6),
    "the paper's": TwoPhase(),
}
"""For 50 steps with guidance, as VideoCrafter2 samples. K is the least certain of the three: Motion Onset measures it."""
