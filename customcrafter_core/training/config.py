"""Settings of a training run, with the paper's values as defaults."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..base_model.text import check_placeholder
from ..errors import InputError
from ..subject.subject import PLACEHOLDER

# The authors' captions; {} is the subject as prompts call it, or the class word for prior images.
CAPTIONS = ("video of a {}", "{}", "a static video of a {}", "a {}")

LARGEST_RATE = 1.0  # of learning; far above what learns anything, far below what float32 cannot hold


@dataclass(frozen=True)
class TrainConfig:
    """How a subject is learned. Sizes and fps of 0 mean the base model's own."""

    class_word: str
    """What the subject is, such as ``teddy bear``."""
    placeholder: str = PLACEHOLDER
    """The learned token V* as prompts write it."""
    steps: int = 10_000
    lr: float = 3e-5
    """Of the LoRA factors; the paper's. The authors' run multiplied it to 2.4e-4."""
    token_lr: float = 0.0
    """Of V*; 0 means the same as ``lr``."""
    weight_decay: float = 1e-2
    rank: int = 4
    frames: int = 4
    """Frames of the still video a photo becomes."""
    batch: int = 1
    """Still videos per step."""
    prior_weight: float = 1.0
    """alpha in ``L = L_video + alpha · L_pr`` (eq. 4); without prior images there is no second term."""
    captions: tuple[str, ...] = CAPTIONS
    min_snr_gamma: float = 0.0
    """Weigh the loss by ``min(SNR, gamma) / SNR`` (Hang et al. 2023), which spares late timesteps; 0, the paper's: no weight."""
    width: int = 0
    height: int = 0
    fps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder)
        if not self.class_word.strip():
            raise InputError(expected="a class word", found="none", remedy="Say what the subject is, such as: dog.")
        for name in ("steps", "rank", "frames", "batch"):
            if getattr(self, name) < 1:
                raise InputError(expected=f"{name} of 1 or more", found=f"{getattr(self, name)}", remedy="Raise it.")
        for name in ("lr", "token_lr", "weight_decay", "prior_weight", "min_snr_gamma"):
            value = getattr(self, name)
            most = LARGEST_RATE if name in ("lr", "token_lr") else math.inf
            if not math.isfinite(value) or not 0 <= value <= most or (name == "lr" and value == 0):
                at_most = "" if most == math.inf else f" of at most {most}"
                raise InputError(
                    expected=f"a positive, finite {name}{at_most}",
                    found=f"{value}",
                    remedy=f"The default is {_default(name)}.",
                )
        if not self.captions or any(caption.count("{}") != 1 for caption in self.captions):
            raise InputError(
                expected="captions with one {} each", found=f"{list(self.captions)}", remedy="Write: a photo of a {}."
            )

    def as_metadata(self) -> dict[str, Any]:
        """All settings as plain values."""
        return {**asdict(self), "captions": list(self.captions)}


def _default(name: str) -> Any:
    return next(field.default for field in fields(TrainConfig) if field.name == name)


# Named starting points. `demo` was measured on the demo world only: 1.4 billion parameters need far smaller steps.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "demo": {"steps": 300, "lr": 1e-3, "frames": 2, "batch": 4, "min_snr_gamma": 1.0},
}


def preset(name: str, class_word: str, **changes: Any) -> TrainConfig:
    """A config from a named preset with single values changed.

    Raises:
        InputError: no preset of that name, or a value out of range.
    """
    if name not in PRESETS:
        raise InputError(expected=f"a preset: {', '.join(PRESETS)}", found=name, remedy="Choose one of them.")
    return TrainConfig(class_word=class_word, **{**PRESETS[name], **changes})
