"""``convert``: checkpoints to safetensors, other programs' LoRAs to subjects, subjects to ComfyUI's own formats."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from .options import AUTO, add_base_options, add_force, check_folder, check_target, load_base
from .terminal import Progress, printable

USAGE = "IN OUT [options]"
SUMMARY = "convert a checkpoint, LoRA or subject to another format"
DESCRIPTION = """\
Convert a file to another format. What it becomes depends on what IN is:
  base checkpoint (.ckpt, .safetensors)  -> .safetensors with the same tensor names; OUT is a file
  LoRA from another program              -> CustomCrafter subject; OUT is a file
  subject, with --for-host               -> LoRA and embedding for ComfyUI's own nodes; OUT is a folder
IN is never changed."""
EXAMPLES = """\
examples:
  python -m customcrafter_core convert model.ckpt videocrafter2.safetensors --dtype float16
  python -m customcrafter_core convert lora.safetensors teddy.safetensors --base model.ckpt --class-word "teddy bear"
  python -m customcrafter_core convert teddy.safetensors for-comfyui/ --for-host"""
OF_A_LORA = ("class_word", "token", "token_file", "base")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    from ..subject.subject import PLACEHOLDER

    parser.set_defaults(run=run)
    parser.add_argument("source", metavar="IN", type=Path, help="the file to convert")
    parser.add_argument("target", metavar="OUT", type=Path, help="the new file, or a folder with --for-host")
    add_force(parser)
    parser.add_argument("--for-host", action="store_true", help="export a subject as a LoRA and an embedding")
    lora = parser.add_argument_group("for a LoRA from another program")
    lora.add_argument("--class-word", metavar="TEXT", help="what the subject is, such as: teddy bear")
    lora.add_argument("--token", metavar="TOKEN", help=f"how to write the subject in prompts (default: {PLACEHOLDER})")
    lora.add_argument(
        "--token-file", metavar="FILE", help="the learned token (default: the class word's own embedding)"
    )
    add_base_options(parser)


def run(options: argparse.Namespace) -> None:
    """Convert the file according to its kind."""
    from ..files.tensor_file import open_tensor_file
    from .file_kind import FileKind, kind_of

    with open_tensor_file(options.source) as file:
        kind = kind_of(file)
    if options.for_host and kind is not FileKind.SUBJECT:
        raise _misplaced("--for-host", "a subject", kind.value)
    if kind is not FileKind.LORA:
        _refuse_given(options, OF_A_LORA, "a LoRA from another program", kind.value)
    if kind is FileKind.SUBJECT and options.dtype != AUTO:
        raise _misplaced("--dtype", "a base model", kind.value)
    if kind is FileKind.BASE:
        _convert_base(options)
    elif kind is FileKind.LORA:
        _convert_lora(options)
    elif options.for_host:
        _export_subject(options)
    else:
        raise InputError(
            expected="--for-host with a subject",
            found="a subject without it",
            remedy="Add --for-host; a subject cannot be converted to anything else.",
        )


def _refuse_given(options: argparse.Namespace, names: Iterable[str], belongs_to: str, found: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise _misplaced(f"--{name.replace('_', '-')}", belongs_to, found)


def _misplaced(option: str, belongs_to: str, found: str) -> InputError:
    return InputError(expected=f"{belongs_to} with {option}", found=f"a {found}", remedy=f"Remove {option}.")


def _convert_base(options: argparse.Namespace) -> None:
    import torch

    from ..base_model.repacking import rewrite_checkpoint

    check_target(options.target, force=options.force, source=options.source)
    dtype = None if options.dtype == AUTO else getattr(torch, options.dtype)
    with Progress(f"Writing {options.target.name}", brief=True) as bar:
        print(rewrite_checkpoint(options.source, options.target, dtype=dtype, on_tensor=bar.show))


def _convert_lora(options: argparse.Namespace) -> None:
    from ..subject.file import save_subject
    from ..subject.formats import import_lora
    from ..subject.subject import PLACEHOLDER

    check_target(options.target, force=options.force, source=options.source)
    for name in ("base", "class_word"):
        if getattr(options, name) is None:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(expected=f"{flag} for a LoRA from another program", found="none", remedy=f"Add {flag}.")
    subject = import_lora(
        options.source,
        load_base(options),
        class_word=options.class_word,
        placeholder=options.token or PLACEHOLDER,
        token_file=options.token_file,
    )
    print(save_subject(subject, options.target))
    print(f'Use in prompts: "{subject.trigger}"')


def _export_subject(options: argparse.Namespace) -> None:
    from ..subject.file import load_subject
    from ..subject.formats import export_for_host, host_call, host_names

    subject = load_subject(options.source)
    folder: Path = options.target
    check_folder(folder)
    lora, embedding = (folder / f"{name}.safetensors" for name in host_names(options.source.stem))
    for path in (lora, embedding):
        check_target(path, force=options.force, source=options.source)
    export_for_host(subject, lora, embedding)
    print(f"{lora}  -> put into ComfyUI/models/loras, for Load LoRA")
    print(f"{embedding}  -> put into ComfyUI/models/embeddings")
    print(f'Use in prompts: "{printable(host_call(embedding.stem, subject.class_word))}"')
