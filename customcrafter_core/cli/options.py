"""Options shared by several commands, and what they resolve to."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .terminal import Progress

if TYPE_CHECKING:
    import torch

    from ..base_model.model import VideoCrafter2

AUTO = "auto"
DEVICES = ("cpu", "cuda", "mps", "xpu")  # devices with storage; torch has others, such as meta
LARGEST_SEED, LARGEST_COUNT = 2**63 - 1, 2**31 - 1


def field_of(config: type, name: str) -> Field[Any]:
    """A field of a dataclass, from which commands read their defaults."""
    return next(field for field in fields(config) if field.name == name)


def add_setting(
    parser: argparse._ActionsContainer,
    config: type,
    name: str,
    description: str,
    *,
    metavar: str = "N",
    or_own: bool = False,
) -> None:
    """Add the option for a field of a settings dataclass, with that field's default and its type.

    Args:
        parser: gets the option, ``--max-age`` for a field ``max_age``.
        config: the dataclass.
        name: the field's name.
        description: what it does; the default is appended unless it is 0 or empty, which mean none.
        metavar: name of the value in the help.
        or_own: the field's 0 means the base model's own value; here that is None, and a given value is at least 1.
    """
    default = field_of(config, name).default
    assert default is not MISSING, name
    flag = f"--{name.replace('_', '-')}"
    if or_own:
        kind = _at_least_one if isinstance(default, float) else kind_of_value(name, default, least=1)
        shown = f"{description} (default: the base model's own)"
        parser.add_argument(flag, type=kind, default=None, metavar=metavar, help=shown)
    elif isinstance(default, bool):
        parser.add_argument(flag, action="store_true", default=default, help=description)
    elif isinstance(default, Enum):
        kinds = type(default)
        parser.add_argument(
            flag, type=str, choices=[kind.value for kind in kinds], default=default.value,
            help=f"{description} (default: {default.value})",
        )  # fmt: skip
    else:
        shown = f"{description} (default: {default})" if default else description
        parser.add_argument(flag, type=kind_of_value(name, default), default=default, metavar=metavar, help=shown)


def kind_of_value(name: str, default: Any, *, least: int = -LARGEST_COUNT) -> Callable[[str], Any]:
    """The argparse type of a setting: that of its default, with integers limited to what torch accepts."""
    if name == "seed":
        return partial(_whole_number, least=0, most=LARGEST_SEED)
    return partial(_whole_number, least=least, most=LARGEST_COUNT) if type(default) is int else type(default)


def _whole_number(text: str, *, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}") from None
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"expected {max(least, 0)} to {most}, found {number}")
    return number


def _at_least_one(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, found {text!r}")
    return number


def add_base_options(parser: argparse.ArgumentParser, *, unset: str = AUTO) -> None:
    """Add ``--base``, ``--dtype`` and ``--device``; the last two are ``unset`` if they are not given."""
    from ..base_model.config import DTYPE_NAMES

    group = parser.add_argument_group("base model")
    group.add_argument(
        "--base",
        metavar="FILE",
        help="VideoCrafter2's model.ckpt, or the same weights as .safetensors (default: the built-in demo model)",
    )
    group.add_argument(
        "--dtype", choices=[AUTO, *DTYPE_NAMES], default=unset,
        help="precision of the weights (default: auto, which is float32 on the CPU and bfloat16 elsewhere)",
    )  # fmt: skip
    group.add_argument(
        "--device",
        default=unset,
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps (default: auto, which is a GPU if there is one)",
    )


def base_path(given: str | None) -> Path:
    """The given base checkpoint, or the demo's."""
    from ..demo import demo_checkpoint

    return demo_checkpoint() if given is None else Path(given)


def load_base(options: argparse.Namespace) -> VideoCrafter2:
    """Load the base model given by the options, with a progress bar.

    Raises:
        InputError: no such checkpoint or device.
    """
    from ..base_model.loading import load_videocrafter2

    path, device = base_path(options.base), device_of(options.device)
    with Progress(f"Loading {path.name}", brief=True) as bar:
        return load_videocrafter2(path, dtype=dtype_of(options.dtype, device), device=device, on_tensor=bar.show)


def base_record(options: argparse.Namespace, model: VideoCrafter2) -> dict[str, Any]:
    """The base model, precision and device that made something, for the JSON next to it."""
    return {
        "base": {"file": base_path(options.base).name, "fingerprint": json.loads(model.fingerprint)},
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }


def device_of(name: str) -> torch.device:
    """The device of that name; ``auto`` is the first GPU, else the CPU.

    Raises:
        InputError: there is no such device, or it is none of `DEVICES`.
    """
    import torch

    if name == AUTO:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in DEVICES:
            raise NotImplementedError(device.type)
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            expected=f"a device of this machine ({', '.join(DEVICES)}, optionally numbered, as in cuda:1)",
            found=repr(name),
            remedy="Use cpu, or remove --device.",
        ) from error


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; ``auto`` is float32 on the CPU, bfloat16 elsewhere.

    Raises:
        InputError: there is none of that name.
    """
    import torch

    from ..base_model.config import DTYPE_NAMES

    if name not in (AUTO, *DTYPE_NAMES):
        raise InputError(
            expected=f"dtype: {', '.join((AUTO, *DTYPE_NAMES))}", found=repr(name), remedy="Choose one of these."
        )
    if name == AUTO:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return getattr(torch, name)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``."""
    parser.add_argument("--force", action="store_true", help="replace the output if it already exists")


def check_target(target: Path, *, force: bool, source: Path | None = None) -> None:
    """Refuse, before any work is done, to write where something would be lost.

    Args:
        target: the file to write.
        force: an existing file may be replaced.
        source: the input file, which is never replaced.

    Raises:
        InputError: the target is the source, a folder, or exists, or does not end in ``.safetensors``.
        OSError: its folder cannot be made or written.
    """
    if target.suffix != ".safetensors":
        raise InputError(
            expected="an output name that ends in .safetensors",
            found=target.name,
            remedy=f"Use {target.stem}.safetensors.",
        )
    if target.is_dir():
        raise InputError(expected="a file to write", found=f"the folder {target}", remedy="Give a file name.")
    if target.exists() and source is not None and target.samefile(source):
        raise InputError(
            expected="different files as input and output",
            found=f"{target} for both",
            remedy="Choose another output name.",
        )
    if target.exists() and not force:
        raise InputError(
            expected="an output that does not exist yet",
            found=f"{target}",
            remedy="Choose another name or add --force.",
        )
    check_folder(target.parent)


def check_folder(folder: Path) -> None:
    """Check before hours of work that a folder can be created and written to; leaves nothing behind.

    Raises:
        InputError: there is a file of that name.
        OSError: the folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(expected="a folder to write into", found=f"the file {folder}", remedy="Give a folder.")
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    finally:
        for path in absent:  # innermost first
            with suppress(OSError):  # not created, or already in use by another process
                path.rmdir()
