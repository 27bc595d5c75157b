"""How a run is watched and kept: settings that do not change what is learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..diffusion.strength import TwoPhase
from ..errors import InputError
from .config import setting


@dataclass(frozen=True)
class RunOptions:
    """When the state is kept and sample videos are made; none of it changes what is learned."""

    target: Path | None = None
    """The subject's file; beside it a folder with the state. None: nothing is written, nothing can be continued."""
    start_over: bool = False
    """Begin at step 0, whatever an earlier run with this target kept; that is forgotten when the first step is due."""
    checkpoint_every: int = setting(
        "steps between two checkpoints, each a subject file of its own; 0: only the last", 250
    )
    keep_checkpoints: int = setting("numbered checkpoints that are kept, the newest ones; 0: all", 10)
    sample_every: int = setting("steps between two sample videos; 0: none", 0)
    sample_prompt: str = setting("prompt of the sample videos, with {} for the subject", "a {}")
    sample_seed: int = setting("seed of the sample videos: all of a run start from the same noise", 0)
    sample_steps: int = setting("sampling steps of a sample video: more look better, and take longer", 25)
    recommended: TwoPhase = field(default_factory=TwoPhase)
    """What the subject recommends, and what its samples are made with."""

    def __post_init__(self) -> None:
        for name, least in (
            ("checkpoint_every", 0),
            ("keep_checkpoints", 0),
            ("sample_every", 0),
            ("sample_seed", 0),
            ("sample_steps", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(
                    expected=f"{name} of {least} or more", found=f"{getattr(self, name)}", remedy="Raise it."
                )
        if self.sample_prompt.count("{}") != 1:
            raise InputError(
                expected="a sample prompt with one {} for the subject",
                found=repr(self.sample_prompt),
                remedy="Write: a {} on the beach.",
            )
