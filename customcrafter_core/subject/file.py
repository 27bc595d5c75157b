"""Saves and loads subjects; each is one ``.safetensors`` file.

It contains the LoRA factors under names that ComfyUI's own LoRA loader reads, the learned token as ``emb_params``, any
identity adapters, and everything else as metadata.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..base_model.text import check_placeholder
from ..diffusion.strength import TwoPhase
from ..errors import InputError, some_names
from ..files.tensor_file import TensorFile, open_tensor_file, write_tensors
from .identity_adapter import IdentityAdapter
from .subject import LoRAFactors, Subject, check_tensors

METADATA_KEY = "customcrafter.subject"
THUMBNAIL_KEY = "customcrafter.thumbnail"
FORMAT = 1
PREFIX = "diffusion_model."
ADAPTER_PREFIX = "identity_adapter."
TOKEN = "emb_params"
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
FACTOR_NAME = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")


def save_subject(subject: Subject, path: str | Path) -> Path:
    """Save a subject; if that fails, an existing file is left as it was.

    Raises:
        InputError: the path does not end in ``.safetensors``, or the subject could not be loaded again.
        OSError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(expected="a file name that ends in .safetensors", found=path.name, remedy="Rename it.")
    check_placeholder(subject.placeholder)
    check_tensors(subject.factors, subject.embedding, subject.adapters)
    tensors = lora_tensors(subject)
    tensors |= {
        f"{ADAPTER_PREFIX}{name}.{part}": plain_tensor(value)
        for name, adapter in subject.adapters.items()
        for part, value in adapter.tensors().items()
    }
    tensors[TOKEN] = plain_tensor(subject.embedding)
    write_tensors(path, tensors, _metadata(subject))
    return path


def lora_tensors(subject: Subject) -> dict[str, torch.Tensor]:
    """All factors in float32, under the names that ComfyUI's LoRA loader reads."""
    named = {}
    for name, factors in subject.factors.items():
        named[f"{PREFIX}{name}.lora_A.weight"] = plain_tensor(factors.down)
        named[f"{PREFIX}{name}.lora_B.weight"] = plain_tensor(factors.up)
    return named


def plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy with its own memory: safetensors rejects tensors that share memory."""
    return tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)


def _metadata(subject: Subject) -> dict[str, str]:
    content = {
        "format": FORMAT,
        "placeholder": subject.placeholder,
        "class_word": subject.class_word,
        "rank": subject.rank,
        "targets": len(subject.factors),
        "adapters": len(subject.adapters),
        "steps": subject.steps,
        "base": subject.base,
        "lambda_s": subject.recommended.lambda_s,
        "lambda_l": subject.recommended.lambda_l,
        "k": subject.recommended.k,
        "training": dict(subject.training),
    }
    metadata = {"format": "pt", METADATA_KEY: json.dumps(content, sort_keys=True, default=str)}
    if subject.thumbnail:
        metadata[THUMBNAIL_KEY] = base64.b64encode(subject.thumbnail).decode()
    return metadata


def load_subject(path: str | Path) -> Subject:
    """Load a subject file, strictly.

    Raises:
        InputError: no such file, not a subject, a missing token, unknown names, inconsistent factors, or NaN.
    """
    with open_tensor_file(path) as file:
        content = _content(file)
        factors, adapters = _factors(file, content), _adapters(file, content)
        if TOKEN not in file.tensors:
            raise InputError(
                expected=f"a learned token ({TOKEN}) in {file.path.name}",
                found="none",
                remedy="The file is damaged; save the subject again.",
            )
        embedding = file.read(TOKEN)
    check_tensors(factors, embedding, adapters)
    return _subject(content, factors, embedding, adapters, file)


def is_subject(file: TensorFile) -> bool:
    """Whether the file's metadata says it is a subject."""
    return METADATA_KEY in file.metadata


def _content(file: TensorFile) -> dict[str, Any]:
    if not is_subject(file):
        raise InputError(
            expected="a CustomCrafter subject",
            found=f"{file.path.name}, which has no subject metadata",
            remedy="To convert a LoRA from another program, run python -m customcrafter_core convert in this node pack's "
            "folder.",
        )
    try:
        content: dict[str, Any] = json.loads(file.metadata[METADATA_KEY])
        if content["format"] > FORMAT:
            raise InputError(
                expected=f"a subject of format {FORMAT}",
                found=f"format {content['format']} in {file.path.name}",
                remedy="It was saved by a newer version of CustomCrafter; please update.",
            )
        return content
    except InputError:
        raise
    except UNREADABLE as error:
        raise _bad_metadata(file, error) from error


def _bad_metadata(file: TensorFile, error: Exception) -> InputError:
    return InputError(
        expected=f"readable metadata {METADATA_KEY} in {file.path.name}",
        found=f"{type(error).__name__}: {error}",
        remedy="Save the subject again.",
    )


def _factors(file: TensorFile, content: Mapping[str, Any]) -> dict[str, LoRAFactors]:
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    unknown = []
    for name in file.tensors:
        match = FACTOR_NAME.fullmatch(name)
        if match:
            pairs.setdefault(match[1], {})[match[2]] = file.read(name)
        elif name != TOKEN and not name.startswith(ADAPTER_PREFIX):
            unknown.append(name)
    half = [name for name, pair in pairs.items() if len(pair) < 2]
    saved = content.get("targets")
    if unknown or half or len(pairs) != saved:
        problems = [f"unknown tensors: {some_names(unknown)}"] if unknown else []
        problems += [f"only one factor for {some_names(half)}"] if half else []
        problems += [f"only {len(pairs)} of the {saved} layers that were saved"] if len(pairs) != saved else []
        raise InputError(
            expected=f"pairs of LoRA factors and a token in {file.path.name}",
            found="; ".join(problems),
            remedy="The file is damaged; save the subject again.",
        )
    return {name: LoRAFactors(down=pair["A"], up=pair["B"]) for name, pair in sorted(pairs.items())}


def _adapters(file: TensorFile, content: Mapping[str, Any]) -> dict[str, IdentityAdapter]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name in file.tensors:
        if name.startswith(ADAPTER_PREFIX):
            block, _, part = name.removeprefix(ADAPTER_PREFIX).rpartition(".")
            parts.setdefault(block, {})[part] = file.read(name)
    saved, known = content.get("adapters", 0), {field.name for field in fields(IdentityAdapter)}
    odd = [block for block, tensors in parts.items() if set(tensors) != known]
    if odd or len(parts) != saved:
        raise InputError(
            expected=f"{saved} identity adapters with {', '.join(sorted(known))} in {file.path.name}",
            found=f"different ones in {some_names(odd)}" if odd else f"{len(parts)}",
            remedy="The file is damaged; save the subject again.",
        )
    return {block: IdentityAdapter(**tensors) for block, tensors in sorted(parts.items())}


def _subject(
    content: Mapping[str, Any],
    factors: dict[str, LoRAFactors],
    embedding: torch.Tensor,
    adapters: dict[str, IdentityAdapter],
    file: TensorFile,
) -> Subject:
    try:
        placeholder = str(content["placeholder"])
        check_placeholder(placeholder)
        return Subject(
            factors=factors,
            embedding=embedding,
            placeholder=placeholder,
            class_word=str(content["class_word"]),
            steps=int(content["steps"]),
            base=str(content["base"]),
            recommended=TwoPhase(float(content["lambda_s"]), float(content["lambda_l"]), content["k"]),
            training=dict(content["training"]),
            thumbnail=base64.b64decode(file.metadata.get(THUMBNAIL_KEY, ""), validate=True),
            adapters=adapters,
        )
    except InputError:
        raise
    except UNREADABLE as error:
        raise _bad_metadata(file, error) from error
