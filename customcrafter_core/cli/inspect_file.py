"""``inspect``: read a whole file, show what it contains and whether this pack can use it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .options import base_path
from .terminal import Progress, printable

if TYPE_CHECKING:
    from ..base_model.model import VideoCrafter2
    from ..files.tensor_file import TensorFile
    from ..subject.subject import LoRAFactors, Subject

USAGE = "FILE [--base FILE]"
SUMMARY = "show what a checkpoint, subject or LoRA file contains"
DESCRIPTION = """\
Read a whole file and show what it contains: a base checkpoint, a trained subject, or a LoRA
from another program. The exit code is 0 if CustomCrafter can use the file; otherwise it is 2,
with a one-sentence error."""
EXAMPLES = """\
examples:
  python -m customcrafter_core inspect model.ckpt
  does the subject fit this base model?
  python -m customcrafter_core inspect teddy.safetensors --base model.ckpt"""

Facts = Iterator[tuple[str, str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="a .safetensors file or a torch checkpoint")
    parser.add_argument("--base", metavar="FILE", help="also check that a subject or LoRA fits this base model")


def run(options: argparse.Namespace) -> None:
    """Print the facts as a table."""
    from ..files.tensor_file import open_tensor_file
    from .file_kind import FileKind, kind_of

    path = Path(options.file)
    with open_tensor_file(path) as file:
        kind = kind_of(file)
        if kind is FileKind.SUBJECT:
            facts = list(_subject_facts(path, options.base))
        elif kind is FileKind.LORA:
            facts = list(_lora_facts(file, options.base))
        elif options.base is not None:
            raise InputError(
                expected="a subject or a LoRA with --base", found=f"neither in {path.name}", remedy="Remove --base."
            )
        else:
            facts = list(_base_facts(file))
    for name, value in [("file", f"{path} ({_size(path.stat().st_size)})"), *facts]:
        print(f"{name:<16}{printable(value)}")


def _base_facts(file: TensorFile) -> Facts:
    from ..base_model.checking import check_checkpoint
    from ..demo.base_name import base_name

    with Progress(f"Reading {file.path.name}", brief=True) as bar:
        facts = check_checkpoint(file, bar.show)
    unet, text, vae = facts.config.unet, facts.config.text, facts.config.vae
    attends = ", ".join(str(level + 1) for level, attends in enumerate(unet.attends) if attends)
    yield "kind", "VideoCrafter2 base model"
    yield "parameters", f"{sum(facts.parameters):,} in {', '.join(_name(dtype) for dtype in facts.dtypes)}"
    yield (
        "UNet",
        f"{facts.parameters[0]:,} parameters; channels {_dashed(unet.block_out_channels)}, {unet.layers_per_block} blocks per level,"
        f" attention on levels {attends} with head size {unet.attention_head_dim}, text width {unet.cross_attention_dim}",
    )
    yield (
        "text encoder",
        f"{facts.parameters[1]:,} parameters; {text.num_hidden_layers} layers of width {text.hidden_size},"
        f" {text.num_attention_heads} heads",
    )
    yield (
        "autoencoder",
        f"{facts.parameters[2]:,} parameters; channels {_dashed(vae.block_out_channels)},"
        f" {vae.latent_channels} latent channels, {facts.config.pixels_per_latent} pixels per latent",
    )
    made = facts.defaults
    yield "made for", f"{made.width}x{made.height} pixels, {made.frames} frames, {made.fps} frames per second"
    yield "base model", base_name(facts.fingerprint)
    yield "usable", f"yes; all {facts.tensors:,} tensors read, all fit and are finite"


def _subject_facts(path: Path, base: str | None) -> Facts:
    from ..demo.base_name import base_name
    from ..subject.file import load_subject

    subject = load_subject(path)
    weights = subject.recommended
    yield "kind", "subject"
    yield "trigger", subject.trigger
    yield "class word", subject.class_word or "none"
    yield "token", f"{subject.placeholder}, {len(subject.embedding)} x {subject.embedding.shape[1]}"
    yield "LoRA", _lora(subject.factors)
    yield "trained", f"{subject.steps:,} steps"
    yield "base model", base_name(subject.base)
    yield "recommended", f"lambda_s {weights.lambda_s}, lambda_l {weights.lambda_l}, K {weights.k}"
    yield "training", ", ".join(f"{name} {value}" for name, value in subject.training.items()) or "not recorded"
    yield "usable", f"yes; {_fits(subject, base)}all tensors read and finite"


def _lora_facts(file: TensorFile, base: str | None) -> Facts:
    from ..base_model.checking import check_numbers

    check_numbers(file)
    fits = "VideoCrafter2" if base is None else base_path(base).name
    yield "kind", "LoRA from another program"
    yield "LoRA", _lora(_lora_of_videocrafter2(file) if base is None else _lora_of_base(file, base))
    yield "usable", f"yes, after convert; fits {fits}, all tensors read and finite"


def _lora_of_videocrafter2(file: TensorFile) -> Mapping[str, LoRAFactors]:
    """The factors, checked against the full-size network without loading any weights."""
    import torch

    from ..base_model.config import VIDEOCRAFTER2
    from ..base_model.key_tables import unet_table
    from ..base_model.networks import build_unet
    from ..subject.formats import read_factors
    from ..subject.targets import lora_targets

    with torch.device("meta"):
        targets = lora_targets(build_unet(VIDEOCRAFTER2.unet))
    factors = read_factors(file, targets, unet_table(VIDEOCRAFTER2.unet))
    for name, pair in factors.items():
        found, width = (pair.up.shape[0], pair.down.shape[-1]), tuple(targets[name].weight.shape)
        if found != width:
            raise InputError(
                expected="LoRA factors with the widths of VideoCrafter2's layers",
                found=f"{name} {found[0]}x{found[1]} instead of {width[0]}x{width[1]}",
                remedy="If it is for another base model, give that with --base.",
            )
    return factors


def _lora_of_base(file: TensorFile, base: str) -> Mapping[str, LoRAFactors]:
    from ..subject.formats import import_lora

    return import_lora(file.path, _load(base), class_word="subject").factors


def _fits(subject: Subject, base: str | None) -> str:
    """Check the subject against a base model, if one is given; returns a phrase that says it fits."""
    from ..subject.subject import check_fits

    if base is None:
        return ""
    check_fits(subject, _load(base))
    return f"fits {base_path(base).name}, "


def _load(base: str) -> VideoCrafter2:
    from ..base_model.loading import load_videocrafter2

    path = base_path(base)
    with Progress(f"Loading {path.name}", brief=True) as bar:
        return load_videocrafter2(path, on_tensor=bar.show)


def _lora(factors: Mapping[str, LoRAFactors]) -> str:
    count = sum(pair.down.numel() + pair.up.numel() for pair in factors.values())
    return f"rank {max((pair.rank for pair in factors.values()), default=0)} on {len(factors)} layers, {count:,} parameters"


def _dashed(numbers: tuple[int, ...]) -> str:
    return "-".join(str(number) for number in numbers)


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"
