"""Settings of a training run, with the paper's values as defaults."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..base_model.config import VIDEOCRAFTER2, UNetConfig
from ..diffusion.schedule import TRAIN_TIMESTEPS
from ..errors import InputError
from ..subject.placeholder import PLACEHOLDER
from .augmentation import ANCHORS, AUTO, FITS
from .methods import METHODS

# The authors' captions; {} is the subject as prompts call it, or the class word for prior images.
CAPTIONS = ("video of a {}", "{}", "a static video of a {}", "a {}")
RESIZE = (0.4, 1.4)  # paper, supplement
PRIOR_PICTURES = 200  # paper
PRIOR_STEPS = 25  # of sampling each; half of what a video to look at gets

MAX_LR = 1.0  # of learning; far above what learns anything, far below what float32 cannot hold
MIN_RESIZE, MAX_RESIZE = 0.1, 4.0
MAX_INT = 2**63 - 1
LOSSES = ("mse", "l1")
LR_SCHEDULES = ("constant", "cosine", "linear")
GRADIENT_CHECKPOINTING = ("auto", "on", "off")
CHOICES: dict[str, tuple[str, ...]] = {
    "method": tuple(METHODS), "loss": LOSSES, "gradient_checkpointing": GRADIENT_CHECKPOINTING,
    "lr_schedule": LR_SCHEDULES, "fit": FITS, "crop_anchor": tuple(ANCHORS),
}  # fmt: skip
"""Settings that are one of a few words."""


def setting(text: str, default: Any) -> Any:
    """A field with its default and what it means, which the command line shows as help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """How a subject is learned. Sizes and fps of 0 mean the base model's own."""

    class_word: str = field(metadata={"help": "what the subject is, such as: teddy bear"})
    placeholder: str = setting("the learned token V* as prompts write it", PLACEHOLDER)
    method: str = setting(
        "what is trained: customcrafter as in the paper, the others as in what it is compared with", "customcrafter"
    )
    steps: int = setting("training steps; after too many the photos are known by heart", 10_000)
    token_steps: int = setting("steps before those in which V* alone is learned (DreamVideo's first stage)", 0)
    lr: float = setting(
        "learning rate: higher learns in fewer steps, too high spoils the pictures; the authors' run multiplied theirs to 2.4e-4",
        3e-5,
    )
    token_lr: float = setting("learning rate of V*; 0: the same as of all else", 0.0)
    lr_schedule: str = setting("course of the learning rate after the warm-up, over all steps", "constant")
    warmup_steps: int = setting("steps in which the learning rate rises from 0", 0)
    max_grad_norm: float = setting(
        "largest norm of the gradient; what is larger is scaled down to it; 0: as it is", 0.0
    )
    accumulate: int = setting(
        "batches whose gradients are added up for one step: as a batch so many times larger, in the memory of one", 1
    )
    weight_decay: float = setting("weight decay of AdamW: higher keeps what is learned smaller", 1e-2)
    rank: int = setting("rank of the LoRA factors: higher holds more detail, but learns the photos by heart sooner", 4)
    tokens: int = setting("vectors that V* consists of: more hold more detail, and take more of the prompt's room", 1)
    frames: int = setting("frames of the still video that a photo becomes: more take more time and memory", 4)
    batch: int = setting(
        "still videos per step, of the subject and of the prior each: more make steadier steps, and take more time and memory",
        1,
    )
    token_batch: int = setting(
        "still videos of one frame per step in which V* alone is learned; 0: as many as batch", 0
    )
    prior_weight: float = setting(
        "alpha, the weight of the prior's loss: higher keeps more of the class; 0: no prior (eq. 4)", 1.0
    )
    captions: tuple[str, ...] = setting("captions of photos without one of their own; {} is the subject", CAPTIONS)
    caption_dropout: float = setting("share of captions that are left empty, at random", 0.0)
    views: int = setting(
        "differently resized views of each photo, each encoded once: more are more varied, and take longer at the start",
        32,
    )
    resize: tuple[float, float] = setting(
        "smallest and largest factor of the resize augmentation; both 1: none", RESIZE
    )
    fit: str = setting(
        "photos of another shape than the video: cut them, show them whole on black that does not count, or auto: whole "
        "where more than a tenth would be cut off",
        AUTO,
    )
    crop_anchor: str = setting("what is kept of a photo that is cut", "center")
    mask_background: float = setting(
        "how much the loss counts outside a photo's mask, which is its transparency or a file such as cup.mask.png", 0.1
    )
    flip: bool = setting("mirror half of the views of the subject", False)
    loss: str = setting("how far a prediction is off; the authors' code has l1", "mse")
    min_snr_gamma: float = setting(
        "weigh the loss by min(SNR, gamma) / SNR, which lowers the weight of timesteps with little noise; 0: no", 0.0
    )
    timestep_range: tuple[int, int] = setting("first and last timestep that is trained", (0, TRAIN_TIMESTEPS - 1))
    timestep_bias: float = setting(
        "draw timesteps with density exp(bias · u), u from 0 to 1 over the range; 0: evenly", 0.0
    )
    offset_noise: float = setting("share of noise that is the same all over a frame", 0.0)
    gradient_checkpointing: str = setting(
        "recompute activations, which saves memory and takes longer; auto: where memory is short", "auto"
    )
    width: int = setting("width of the video in pixels; 0: the base model's own", 0)
    height: int = setting("height of the video in pixels; 0: the base model's own", 0)
    fps: int = setting("frame rate that the model is told; 0: the base model's own", 0)
    seed: int = setting("seed of everything random: the same one and the same settings give the same subject", 0)

    def __post_init__(self) -> None:
        from ..base_model.text import check_placeholder  # brings the networks, which the settings' names do not need

        check_placeholder(self.placeholder)
        if not self.class_word.strip():
            raise InputError(expected="a class word", found="none", remedy="Say what the subject is, such as: dog.")
        self._check_choices()
        self._check_numbers()
        if not METHODS[self.method].trains_token and not self.token_steps:
            raise InputError(
                expected=f"token_steps of 1 or more with method {self.method}, whose main stage leaves V* as it is",
                found="0, so that V* would never be learned",
                remedy=f"Use preset dreamvideo, or set token_steps; DreamVideo has {_DREAMVIDEO['token_steps']}.",
            )
        self._check_ranges()
        if not self.captions or any(caption.count("{}") != 1 for caption in self.captions):
            raise InputError(
                expected="captions with one {} each", found=f"{list(self.captions)}", remedy="Write: a photo of a {}."
            )

    def _check_choices(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    expected=f"{name}: {', '.join(known)}", found=f"{getattr(self, name)!r}", remedy="Choose one."
                )

    def _check_numbers(self) -> None:
        for name in ("steps", "rank", "tokens", "frames", "batch", "accumulate", "views"):
            if getattr(self, name) < 1:
                raise InputError(expected=f"{name} of 1 or more", found=f"{getattr(self, name)}", remedy="Raise it.")
        for name in ("token_steps", "token_batch", "warmup_steps", "width", "height", "fps", "seed"):
            if not 0 <= getattr(self, name) <= MAX_INT:
                raise InputError(expected=f"{name} of 0 or more", found=f"{getattr(self, name)}", remedy="Raise it.")
        for name, most in NUMBERS.items():
            value = getattr(self, name)
            if not math.isfinite(value) or not 0 <= value <= most or (name == "lr" and value == 0):
                at_most = "" if most == math.inf else f" of at most {most}"
                raise InputError(
                    expected=f"a positive, finite {name}{at_most}",
                    found=f"{value}",
                    remedy=f"The default is {_default(name)}.",
                )

    def _check_ranges(self) -> None:
        _check_range("resize", self.resize, MIN_RESIZE, MAX_RESIZE)
        _check_range("timestep_range", self.timestep_range, 0, TRAIN_TIMESTEPS - 1)
        if not abs(self.timestep_bias) <= 20:
            raise InputError(
                expected="a timestep_bias from -20 to 20", found=f"{self.timestep_bias}", remedy="0 draws evenly."
            )

    @property
    def all_steps(self) -> int:
        """Steps of all stages."""
        return self.token_steps + self.steps

    @property
    def token_videos(self) -> int:
        """Still videos of one frame per step in which V* alone is learned."""
        return self.token_batch or self.batch

    @property
    def trigger(self) -> str:
        """How captions call the subject."""
        return f"{self.placeholder} {self.class_word}"

    def as_metadata(self) -> dict[str, Any]:
        """All settings as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, content: Mapping[str, Any]) -> TrainConfig:
        """Settings from plain values, as a JSON or TOML file holds them.

        Raises:
            InputError: an unknown name, or a value of the wrong kind or out of range.
        """
        known = {entry.name: entry for entry in fields(cls)}
        unknown = sorted(set(content) - set(known))
        if unknown or "class_word" not in content:
            found = f"unknown: {', '.join(unknown)}" if unknown else "no class_word"
            raise InputError(
                expected="settings of a training run", found=found, remedy=f"They are: {', '.join(known)}."
            )
        return cls(**{name: convert_value(name, value, known[name].default) for name, value in content.items()})


# Names of numbers that are not negative -> the most they can be.
NUMBERS: dict[str, float] = {
    "lr": MAX_LR,
    "token_lr": MAX_LR,
    "weight_decay": math.inf,
    "max_grad_norm": math.inf,
    "prior_weight": math.inf,
    "min_snr_gamma": math.inf,
    "caption_dropout": 1.0,
    "mask_background": 1.0,
    "offset_noise": 1.0,
}


def _check_range(name: str, value: tuple[float, float], least: float, most: float) -> None:
    if len(value) != 2 or not all(math.isfinite(v) for v in value) or not least <= value[0] <= value[1] <= most:
        raise InputError(
            expected=f"{name}: two numbers within {least} to {most}, the smaller one first",
            found=f"{value}",
            remedy=f"The default is {_default(name)}.",
        )


def convert_value(name: str, value: Any, default: Any) -> Any:
    """A plain value as the type of the field's default: lists become tuples, whole numbers floats.

    Raises:
        InputError: it is of another type.
    """
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(convert_value(name, one, default[0]) for one in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = str if not isinstance(default, (bool, int, float, tuple)) else type(default)
    if type(value) is not kind:
        raise InputError(
            expected=f"{name} as {KIND_NAMES[kind]}",
            found=f"{value!r}",
            remedy=f"Write, for example: {json.dumps(EXAMPLES.get(name, default))}.",
        )
    return value


KIND_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}
EXAMPLES = {entry.name: entry.default for entry in fields(TrainConfig)} | {"class_word": "teddy bear"}


def _default(name: str) -> Any:
    return next(entry.default for entry in fields(TrainConfig) if entry.name == name)


# Named starting points. `quick` has the learning rate that the authors' run amounted to; weights of the loss and timesteps as
# in the paper, because none of those tried made subjects more alike on the demo world (benchmarks/presets.md). `demo` is for that
# world only: 1.4 billion parameters need far smaller steps. The others are the paper's baselines.
_DREAMVIDEO: dict[str, Any] = {
    "method": "dreamvideo",
    "token_steps": 3_000,
    "token_batch": 4,
    "token_lr": 1e-4,
    "lr": 1e-5,
    "offset_noise": 0.1,
    "prior_weight": 0.0,
}
DEMO = "demo"
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "quick": {"steps": 1_500, "lr": 2.4e-4},
    DEMO: {
        "steps": 300, "lr": 3e-3, "frames": 2, "batch": 4, "min_snr_gamma": 1.0, "views": 1, "resize": (1.0, 1.0),
    },
    "custom_diffusion": {"method": "custom_diffusion", "steps": 2_000, "lr": 1e-5},
    "custom_diffusion_long": {"method": "custom_diffusion", "steps": 10_000, "lr": 1e-5},
    "dreamvideo": {**_DREAMVIDEO, "steps": 800},
    "dreamvideo_long": {**_DREAMVIDEO, "steps": 3_000},
    "textual_inversion": {"method": "textual_inversion", "steps": 3_000, "lr": 1e-4, "prior_weight": 0.0},
}  # fmt: skip


def preset(name: str, class_word: str, **changes: Any) -> TrainConfig:
    """A config from a named preset with single values changed.

    Raises:
        InputError: no preset of that name, or a value out of range.
    """
    if name not in PRESETS:
        raise InputError(expected=f"a preset: {', '.join(PRESETS)}", found=name, remedy="Choose one of them.")
    return TrainConfig(class_word=class_word, **{**PRESETS[name], **changes})


def check_preset(name: str, unet: UNetConfig) -> None:
    """Refuse to learn a subject on the real model with the demo's settings, which would ruin it without a word.

    Args:
        name: of the preset.
        unet: of the base model.

    Raises:
        InputError: the preset is the demo's and the model VideoCrafter2.
    """
    if name == DEMO and unet == VIDEOCRAFTER2.unet:
        raise InputError(
            expected=f"a preset for VideoCrafter2: {', '.join(other for other in PRESETS if other != DEMO)}",
            found=f"{DEMO}, whose learning rate is {PRESETS[DEMO]['lr'] / _default('lr'):.0f} times the paper's",
            remedy="Choose another; demo is for the demo model.",
        )
