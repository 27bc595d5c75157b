"""What a benchmark compares: subjects × methods × training seeds × prompts × seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..diffusion.ddim import ETA
from ..diffusion.schedule import STEPS
from ..diffusion.strength import LAMBDA_L, Constant, TwoPhase
from ..errors import InputError
from ..training.config import PRESETS, TrainConfig

Strength = Constant | TwoPhase
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")  # used as a folder name


@dataclass(frozen=True)
class Method:
    """How a subject is trained and at what strength it is sampled."""

    name: str
    title: str
    preset: str | None
    """The training preset; None: no training, and prompts use the class word alone."""
    strength: Strength = field(default_factory=TwoPhase)
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the preset."""


METHODS = {
    method.name: method
    for method in (
        Method("base", "Base model, class word", None),
        Method("textual_inversion", "Textual inversion", "textual_inversion", Constant(1.0)),
        Method("custom_diffusion", "Custom Diffusion", "custom_diffusion", Constant(1.0)),
        Method("custom_diffusion_long", "Custom Diffusion*", "custom_diffusion_long", Constant(1.0)),
        Method("dreamvideo", "DreamVideo", "dreamvideo", Constant(1.0)),
        Method("dreamvideo_long", "DreamVideo*", "dreamvideo_long", Constant(1.0)),
        Method(
            "lora_cross_only", "CustomCrafter without self-attention", "paper", training={"method": "lora_cross_only"}
        ),
        Method("sslm", "CustomCrafter without DWVSS", "paper", Constant(LAMBDA_L)),
        Method("customcrafter", "CustomCrafter", "paper"),
    )
}
"""The paper's methods. It does not give the strength for SSLM alone; λl is used here."""


@dataclass(frozen=True)
class SubjectEntry:
    """One subject of the benchmark."""

    name: str
    class_word: str
    photos: Path
    prior: Path | None = None
    prompts: tuple[str, ...] = ()
    """With ``{}`` in place of the subject; if empty, the benchmark's prompts are used."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Everything a benchmark needs besides the base model and the scorer."""

    title: str
    subjects: tuple[SubjectEntry, ...]
    methods: tuple[Method, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    training_seeds: tuple[int, ...] = (0,)
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings for all methods that override their presets."""
    steps: int = STEPS
    eta: float = ETA
    cfg: float = 0.0
    exact_tail: bool = False
    base: Path | None = None
    models: Mapping[str, Path] = field(default_factory=dict)
    """``clip``, ``dino``, ``raft``: paths of the scorers' models."""

    def train_config(self, method: Method, subject: SubjectEntry, training_seed: int) -> TrainConfig:
        """The settings with which a method trains a subject.

        Raises:
            InputError: an unknown setting or an invalid value.
        """
        assert method.preset is not None
        values = {**PRESETS[method.preset], **self.training, **method.training}
        return TrainConfig.from_metadata({**values, "class_word": subject.class_word, "seed": training_seed})

    def without_prior(self) -> list[str]:
        """Subjects without prior images although some method uses prior preservation; the paper always has them."""
        bare = [subject for subject in self.subjects if subject.prior is None]
        learned = [method for method in self.methods if method.preset is not None]
        preserves = any(self.train_config(method, subject, 0).prior_weight for method in learned for subject in bare)
        return [subject.name for subject in bare if preserves]

    def prompts_of(self, subject: SubjectEntry) -> tuple[str, ...]:
        """The subject's own prompts, or those of the benchmark."""
        return subject.prompts or self.prompts

    @classmethod
    def from_content(cls, content: Mapping[str, Any], folder: Path) -> BenchmarkConfig:
        """Read plain values from a JSON or TOML file.

        Args:
            content: the values.
            folder: the folder that paths are relative to.

        Raises:
            InputError: an unknown name, a value of the wrong type, or values that contradict each other.
        """
        reader = _Reader(folder)
        known: dict[str, Callable[[str, Any], Any]] = {
            "title": reader.text, "base": reader.path, "prompts": reader.prompts, "seeds": reader.numbers,
            "training_seeds": reader.numbers, "training": reader.table, "steps": reader.whole, "eta": reader.number,
            "cfg": reader.number, "exact_tail": reader.truth, "models": reader.models,
            "subjects": lambda name, value: tuple(reader.subject(entry) for entry in reader.entries(name, value)),
            "methods": lambda name, value: tuple(reader.method(entry) for entry in reader.entries(name, value)),
        }  # fmt: skip
        _refuse_unknown("the benchmark", content, known)
        values: dict[str, Any] = {
            "title": "Benchmark",
            "prompts": (),
            "subjects": (),
            "methods": tuple(METHODS.values()),
        }
        values |= {name: known[name](name, value) for name, value in content.items()}
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        """Refuse what would otherwise fail after hours.

        Raises:
            InputError: nothing to do, a duplicate name, a subject without prompts, or invalid training settings.
        """
        for kind, names in (
            ("subjects", [subject.name for subject in self.subjects]),
            ("methods", [method.name for method in self.methods]),
            ("seeds", list(self.seeds)),
            ("training_seeds", list(self.training_seeds)),
        ):
            if not names or len(set(names)) < len(names):
                found = "none" if not names else "a duplicate"
                raise InputError(expected=f"{kind}, each once", found=found, remedy="Correct the benchmark's settings.")
        for subject in self.subjects:
            if not self.prompts_of(subject):
                raise InputError(
                    expected=f"prompts for {subject.name}",
                    found="none",
                    remedy="Add prompts to it or to the benchmark.",
                )
            for method in self.methods:
                if method.preset is not None:
                    self.train_config(method, subject, 0)


def _refuse_unknown(place: str, content: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise InputError(
            expected=f"settings of {place}: {', '.join(known)}", found=", ".join(unknown), remedy="Correct the name."
        )


@dataclass(frozen=True)
class _Reader:
    """Converts plain values to what they mean."""

    folder: Path

    def _kind(self, name: str, value: Any, *kinds: type) -> Any:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(expected=f"{name} as {wanted}", found=f"{value!r:.80}", remedy="Correct it.")
        return value

    def text(self, name: str, value: Any) -> str:
        return str(self._kind(name, value, str))

    def whole(self, name: str, value: Any) -> int:
        return int(self._kind(name, value, int))

    def number(self, name: str, value: Any) -> float:
        return float(self._kind(name, value, int, float))

    def truth(self, name: str, value: Any) -> bool:
        return bool(self._kind(name, value, bool))

    def table(self, name: str, value: Any) -> dict[str, Any]:
        return dict(self._kind(name, value, dict))

    def path(self, name: str, value: Any) -> Path:
        return self.folder / self.text(name, value)

    def entries(self, name: str, value: Any) -> list[Any]:
        return list(self._kind(name, value, list))

    def numbers(self, name: str, value: Any) -> tuple[int, ...]:
        return tuple(self.whole(name, entry) for entry in self.entries(name, value))

    def prompts(self, name: str, value: Any) -> tuple[str, ...]:
        prompts = tuple(self.text(name, entry) for entry in self.entries(name, value))
        for prompt in prompts:
            if prompt.count("{}") < 1:
                raise InputError(
                    expected="prompts with {} for the subject",
                    found=repr(prompt),
                    remedy="Write, for example: a {} on grass.",
                )
        return prompts

    def models(self, name: str, value: Any) -> dict[str, Path]:
        table = self.table(name, value)
        _refuse_unknown(name, table, ("clip", "dino", "raft"))
        return {key: self.path(key, entry) for key, entry in table.items()}

    def name(self, value: Any) -> str:
        text = self.text("name", value)
        if not NAME.fullmatch(text):
            raise InputError(
                expected="a name of lowercase letters, digits, - and _",
                found=repr(text),
                remedy="Names are used as folder names; choose another.",
            )
        return text

    def subject(self, value: Any) -> SubjectEntry:
        table = self.table("a subject", value)
        _refuse_unknown("a subject", table, ("name", "class_word", "photos", "prior", "prompts"))
        for needed in ("name", "class_word", "photos"):
            if needed not in table:
                raise InputError(expected=f"{needed} for each subject", found="none", remedy="Add it.")
        return SubjectEntry(
            self.name(table["name"]),
            self.text("class_word", table["class_word"]),
            self.path("photos", table["photos"]),
            self.path("prior", table["prior"]) if "prior" in table else None,
            self.prompts("prompts", table.get("prompts", [])),
        )

    def method(self, value: Any) -> Method:
        """A method of `METHODS` by name, or a variation of one: ``{name, like, title, training, strength …}``."""
        table = {"name": value} if isinstance(value, str) else self.table("a method", value)
        weights = ("strength", "lambda_s", "lambda_l", "k")
        _refuse_unknown("a method", table, ("name", "like", "title", "training", *weights))
        name = self.name(table.get("name"))
        like = self.text("like", table.get("like", name))
        if like not in METHODS:
            raise InputError(
                expected=f"a method: {', '.join(METHODS)}", found=like, remedy="Use one of these names, or add like."
            )
        model = METHODS[like]
        given: dict[str, Any] = {key: table[key] for key in weights if key in table}
        strength = model.strength
        if "strength" in given:
            if len(given) > 1:
                raise InputError(
                    expected="either strength or lambda_s, lambda_l and k",
                    found=f"both in {name}",
                    remedy="Remove one.",
                )
            strength = Constant(self.number("strength", given["strength"]))
        elif given:
            strength = replace(strength if isinstance(strength, TwoPhase) else TwoPhase(), **given)
        title = self.text("title", table.get("title", model.title if like == name else name))
        training = {**model.training, **self.table("training", table.get("training", {}))}
        return Method(name, title, model.preset, strength, training)
