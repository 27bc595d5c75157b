"""Imports LoRA files from other programs and exports subjects to ComfyUI's formats.

Read: the authors' names (``…lora_up.weight`` on VideoCrafter2's module names), peft (``base_model.model.…lora_A``),
diffusers (``unet.…lora_A`` and ``unet.…lora.up``), kohya (``lora_unet_…``) and ComfyUI (``diffusion_model.…``).
Written: ComfyUI's LoRA and embedding files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..base_model.config import UNET_PREFIX
from ..base_model.key_tables import Table, rename, unet_table
from ..base_model.model import VideoCrafter2
from ..base_model.text import check_placeholder, tokenize
from ..errors import InputError, some_names
from ..files.tensor_file import TensorFile, open_tensor_file, write_tensors
from .file import TOKEN, lora_tensors, plain_tensor
from .subject import PLACEHOLDER, LoRAFactors, Subject, check_fits, check_tensors
from .targets import lora_targets

SUFFIX = re.compile(
    r"(?P<layer>.+?)[._](?:lora[._])?(?P<part>lora_A|lora_B|lora_down|lora_up|down|up)(?:\.default)?\.weight$"
)
DOWN_PARTS = {"lora_A", "lora_down", "down"}
PEFT = "base_model.model."
WRAPPERS = (PEFT, UNET_PREFIX, "diffusion_model.", "unet.", "model.")
KOHYA = "lora_unet_"
DIFFUSERS_METADATA = "lora_adapter_metadata"
UNCALLABLE = re.compile(r"[\s()\\<\[{}|]+")
"""Characters that end an embedding's name in a ComfyUI prompt, or mean a weight or a choice there."""


def import_lora(
    path: str | Path,
    model: VideoCrafter2,
    *,
    class_word: str,
    placeholder: str = PLACEHOLDER,
    token_file: str | Path | None = None,
) -> Subject:
    """Make a subject from another program's LoRA file.

    Args:
        path: the LoRA.
        model: the base model it was trained on.
        class_word: what the subject is, such as ``teddy bear``.
        placeholder: how V* is written in prompts.
        token_file: the learned token; without one, V* is the class word's own embedding, which is what the authors'
            training code amounts to.

    Raises:
        InputError: a name matches no target, or the factors or the token do not fit.
    """
    check_placeholder(placeholder)
    with open_tensor_file(path) as file:
        factors = read_factors(file, lora_targets(model.unet), unet_table(model.config.unet))
    embedding = class_embedding(model, class_word) if token_file is None else read_token(token_file)
    check_tensors(factors, embedding)
    subject = Subject(
        factors, embedding, placeholder=placeholder, class_word=class_word, training={"imported": Path(path).name}
    )
    check_fits(subject, model)
    return subject


def read_factors(file: TensorFile, targets: Mapping[str, object], table: Table) -> dict[str, LoRAFactors]:
    """Read LoRA factors under any of the known naming schemes; alpha is folded into the up factor.

    Args:
        file: an open LoRA file.
        targets: names of the layers that can have factors.
        table: VideoCrafter2's module names -> ours.

    Raises:
        InputError: a tensor matches no target or lacks its partner; the message lists them.
    """
    flat = {name.replace(".", "_"): name for name in targets}
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    unknown, twice = [], []
    for name in file.tensors:
        layer, part = _split(name)
        target = _target(layer, targets, table, flat)
        if target is None or part is None:
            unknown.append(name)
        elif part in pairs.setdefault(target, {}):
            twice.append(name)
        else:
            pairs[target][part] = file.read(name)
    half = sorted(name for name, pair in pairs.items() if not {"down", "up"} <= set(pair))
    if unknown or twice or half or not pairs:
        problems = [f"tensors that match no layer ({len(unknown)}): {some_names(unknown)}"] if unknown else []
        problems += [f"a factor that appears twice: {some_names(twice)}"] if twice else []
        problems += [f"only one factor for {some_names(half)}"] if half else []
        problems += [] if pairs else ["nothing that fits"]
        raise InputError(
            expected="LoRA factors for q, k and v of this base model's spatial attention",
            found=f"{'; '.join(problems)} in {file.path.name}",
            remedy="Use a LoRA that was trained on VideoCrafter2's spatial attention.",
        )
    config = _adapter_config(file)
    return {name: _factors(name, pair, config) for name, pair in sorted(pairs.items())}


def _split(name: str) -> tuple[str, str | None]:
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    match = SUFFIX.match(name)
    if match is None:
        return name, None
    return match["layer"], "down" if match["part"] in DOWN_PARTS else "up"


def _target(layer: str, targets: Mapping[str, object], table: Table, flat: Mapping[str, str]) -> str | None:
    if layer.startswith(KOHYA):
        return flat.get(layer.removeprefix(KOHYA))
    stripped = True
    while stripped:
        stripped = False
        for wrapper in WRAPPERS:
            if layer.startswith(wrapper):
                layer, stripped = layer.removeprefix(wrapper), True
    layer = layer.replace(".processor.", ".").removesuffix("_lora")
    for name in (layer, rename(layer, table)):
        if name in targets:
            return name
    return None


@dataclass(frozen=True)
class _AdapterConfig:
    """What peft and diffusers store about a LoRA outside its tensors."""

    alpha: float | None = None
    use_rslora: bool = False

    def scale(self, rank: int) -> float:
        return 1.0 if self.alpha is None else self.alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _adapter_config(file: TensorFile) -> _AdapterConfig:
    """Read alpha from diffusers' metadata or from peft's ``adapter_config.json`` next to the file, if present."""
    beside = file.path.with_name("adapter_config.json")
    stored = file.metadata.get(DIFFUSERS_METADATA)
    try:
        if stored is not None:
            config = {name.removeprefix("unet."): value for name, value in json.loads(stored).items()}
        elif beside.is_file() and any(PEFT in name for name in file.tensors):
            config = json.loads(beside.read_text())
        else:
            return _AdapterConfig()
        found = {name: config[name] for name in ("use_dora", "alpha_pattern") if config.get(name)}
        alpha = float(config["lora_alpha"])
        if not math.isfinite(alpha) or found:
            raise ValueError(str(found or {"lora_alpha": alpha}))
        return _AdapterConfig(alpha, bool(config.get("use_rslora")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        raise InputError(
            expected=f"a plain LoRA with a number as lora_alpha in {'its metadata' if stored else beside.name}",
            found=f"{type(error).__name__}: {error}",
            remedy="Merge alpha into the factors when saving the LoRA, or save it for ComfyUI.",
        ) from error


def _factors(name: str, pair: Mapping[str, torch.Tensor], config: _AdapterConfig) -> LoRAFactors:
    down, up, alpha = pair["down"].float(), pair["up"].float(), pair.get("alpha")
    rank = max(len(down), 1) if down.ndim else 1
    if alpha is None:
        return LoRAFactors(down=down, up=up * config.scale(rank))
    if alpha.numel() != 1:
        raise InputError(
            expected="a single number as alpha",
            found=f"{name} alpha of shape {tuple(alpha.shape)}",
            remedy="Export the LoRA again.",
        )
    return LoRAFactors(down=down, up=up * (float(alpha) / rank))


def class_embedding(model: VideoCrafter2, class_word: str) -> torch.Tensor:
    """The text encoder's own embedding ``(1, d)`` of a class word; the mean if it is several tokens; as `class_rows`."""
    return class_rows(model, class_word).mean(0, keepdim=True)


def class_rows(model: VideoCrafter2, class_word: str) -> torch.Tensor:
    """The text encoder's own rows ``(n, d)`` of a class word of ``n`` tokens.

    Raises:
        InputError: the class word is empty or not valid UTF-8.
    """
    ids = tokenize(class_word)
    if not ids:
        raise InputError(
            expected="a class word", found=repr(class_word), remedy="Write what the subject is, such as: dog."
        )
    table = model.text_encoder.get_input_embeddings().weight
    return table[torch.tensor(ids, device=table.device)].float().cpu()


def read_token(path: str | Path) -> torch.Tensor:
    """Read a learned token ``(n, d)`` from a file with one tensor: ComfyUI's, diffusers' or the authors' format.

    Raises:
        InputError: there is not exactly one tensor.
    """
    with open_tensor_file(path) as file:
        if len(file.tensors) != 1:
            raise InputError(
                expected="a token file with a single tensor",
                found=f"{len(file.tensors)} in {file.path.name}",
                remedy="Check that this is the file of a learned token.",
            )
        token = file.read(next(iter(file.tensors))).float()
    return token.reshape(1, -1) if token.ndim == 1 else token


def check_exportable(subject: Subject) -> None:
    """Refuse a subject that ComfyUI has no format for.

    Raises:
        InputError: the subject is not a LoRA and a token.
    """
    if not subject.factors:
        raise InputError(
            expected="a subject with a LoRA",
            found="one with identity adapters" if subject.adapters else "a token alone",
            remedy="Save it without export and use it with the CustomCrafter nodes.",
        )


def host_names(stem: str) -> tuple[str, str]:
    """Names, without suffix, of the LoRA and the embedding that a subject is exported to.

    Args:
        stem: the subject's own file name without suffix; characters that end a name in prompts become ``_``.
    """
    plain = UNCALLABLE.sub("_", stem)
    return f"{plain}-lora", f"{plain}-token"


def host_call(embedding: str, class_word: str) -> str:
    """What to write in a ComfyUI prompt to use an exported subject."""
    return " ".join(f"embedding:{embedding} {class_word}".split())


def export_for_host(subject: Subject, lora_path: str | Path, embedding_path: str | Path) -> None:
    """Write a LoRA and an embedding file that ComfyUI's own nodes read.

    Args:
        subject: the subject.
        lora_path: the LoRA for LoraLoader; ends in ``.safetensors``.
        embedding_path: the embedding, written ``embedding:NAME`` in prompts; ends in ``.safetensors``.

    Raises:
        InputError: the subject is not a LoRA and a token.
    """
    check_exportable(subject)
    write_tensors(Path(lora_path), lora_tensors(subject), {"format": "pt"})
    write_tensors(Path(embedding_path), {TOKEN: plain_tensor(subject.embedding)}, {"format": "pt"})
