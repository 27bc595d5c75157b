"""Finds the command to run, and reports everything that goes wrong in one sentence, with exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from ..errors import InputError, is_out_of_memory
from . import benchmark, convert, demo, evaluate, generate, inspect_file, onset, study, sweep, train
from .terminal import Parser, printable, quiet_libraries, show_warnings

PROGRAM = "python -m customcrafter_core"
COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "generate": generate,
    "train": train,
    "sweep": sweep,
    "onset": onset,
    "inspect": inspect_file,
    "convert": convert,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "study": study,
}
DESCRIPTION = """\
Train a subject on a few photos and make videos of it that keep the motion of VideoCrafter2."""
EXAMPLES = f"""\
examples:
  {PROGRAM} demo
  {PROGRAM} train photos/ --base model.ckpt --class-word "teddy bear" --out teddy.safetensors
  {PROGRAM} generate --base model.ckpt --subject teddy.safetensors --prompt "<new1> teddy bear is running on grass"

For the options of a command: {PROGRAM} generate --help"""
WRONG_USE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; by default those of the process.

    Returns:
        The exit code: 0, 2 after one sentence on stderr, or 130 after an interrupt.
    """
    given = demo.with_subcommand(list(sys.argv[1:] if arguments is None else arguments))
    quiet_libraries()
    show_warnings()
    try:
        options = parser_for(given).parse_args(given)
        options.run(options)
    except SystemExit as leaving:  # argparse: --help, or an error it has already reported
        return int(leaving.code or 0)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return _tell("Interrupted. No half-written files are left behind.", INTERRUPTED)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:  # a bug, not wrong use: the traceback is needed
            raise
        return _tell(sentence, WRONG_USE)
    return 0


def sentence_of(error: BaseException) -> str | None:
    """The message for an error caused by the user or the machine; None for any other."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if is_out_of_memory(error):
        return "Out of memory: make the video smaller or shorter, reduce the batch size, or use --dtype bfloat16."
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{' '.join((error.strerror or str(error)).split())}{where}."
    return None


def parser_for(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the given command gets its options, because their defaults need heavy imports."""
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EXAMPLES)
    parsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    meant = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, command in COMMANDS.items():
        described = parsers.add_parser(
            name,
            usage=f"{PROGRAM} {name} {command.USAGE}",
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=command.EXAMPLES,
        )
        if name == meant:
            command.add_options(described)
    return parser


def _tell(sentence: str, code: int) -> int:
    print(printable(sentence), file=sys.stderr)
    return code
