"""Torch checkpoints (``.ckpt``, ``.pt``, ``.bin``), read by torch's restricted unpickler, which runs no code in them.

Lightning and OmegaConf store objects of their own beside the weights, which torch refuses. Inert ones take their place;
nothing of these libraries is imported or called.
"""

from __future__ import annotations

import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, damaged_file, some_names

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
FOREIGN_GLOBAL = re.compile(rb"c((?:pytorch_lightning|lightning|lightning_fabric|omegaconf)\.[\w.]+)\n(\w+)\n")
"""How a pickle names a class."""
OTHER_GLOBALS = {
    "collections.defaultdict", "typing.Any", "builtins.dict", "builtins.list", "builtins.int", "builtins.float",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "pathlib.PosixPath",
    "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
}  # fmt: skip
"""What Lightning's and OmegaConf's objects hold."""
DICTIONARIES = {"defaultdict", "AttributeDict"}  # the unpickler fills in their items


class _Inert:
    """Stands for an object of another library; takes any arguments and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDictionary:
    """Stands for a dictionary class of theirs: a plain one takes its place."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def open_checkpoint(path: Path) -> Callable[[], dict[str, torch.Tensor]]:
    """Look at a checkpoint and give what reads its tensors: mapped into memory, or whole if it is of torch before 1.6.

    Raises:
        InputError: it is damaged or packed. Reading raises it for a pickle that asks for code to be run, and for one
            without named, dense tensors.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
    pickled = _read_pickle(path) if is_zip else b""
    names = {b".".join(match).decode() for match in FOREIGN_GLOBAL.findall(pickled)} | OTHER_GLOBALS
    stand_ins: list[Any] = [_stand_in(name) for name in names]
    mapped = is_zip and path.suffix != ".safetensors"  # by that name torch would choose another reader

    def read() -> dict[str, torch.Tensor]:
        try:
            with path.open("rb") as file, torch.serialization.safe_globals(stand_ins):
                content = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # damaged bytes can make the reader fail in any way
            if type(error).__name__ != "UnpicklingError":
                raise damaged_file(path, _reason(error)) from error
            raise InputError(
                expected="a checkpoint that holds only tensors and plain values",
                found=f"{path.name}, refused by torch's safe reader: {_reason(error)}",
                remedy="It was not run. Use the .safetensors file of the model or get it from its original page.",
            ) from error
        return _named_tensors(path, content)

    return read


def _read_pickle(path: Path) -> bytes:
    """The pickle in a checkpoint; torch maps what is packed as if it were not."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("packed by another program; torch stores weights as they are")
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return archive.read(name)
    except StopIteration:
        raise damaged_file(path, "a zip archive without data.pkl") from None
    except Exception as error:
        raise damaged_file(path, str(error)) from error


def _stand_in(full_name: str) -> type:
    module, _, name = full_name.rpartition(".")
    return type(name, (_InertDictionary if name in DICTIONARIES else _Inert,), {"__module__": module})


def _reason(error: Exception) -> str:
    """The sentence of torch's long message that says what is wrong, without its advice to load the file unsafely."""
    advice = r"^Weights only load failed.*(WeightsUnpickler error:|from a trusted source\.)"
    text = re.sub(advice, "", str(error), flags=re.DOTALL).strip()
    return re.split(r"\n|\. (?=[A-Z])", text)[0] or type(error).__name__


def _named_tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            expected="a checkpoint with named tensors (a state_dict)",
            found=f"{type(content).__name__} without any in {path.name}",
            remedy="Use the model's checkpoint file.",
        )
    named = {str(name): value.detach() for name, value in state.items() if isinstance(value, torch.Tensor)}
    odd = [name for name, value in named.items() if value.layout is not torch.strided or value.device.type != "cpu"]
    if odd:
        raise InputError(
            expected="dense weights", found=f"sparse or absent ones: {some_names(odd)}", remedy="Use the original file."
        )
    larger = [name for name, v in named.items() if v.numel() * v.dtype.itemsize > v.untyped_storage().nbytes()]
    if larger:  # one number that claims to be a thousand millions of them
        raise damaged_file(path, f"more numbers than it holds in {some_names(larger)}")
    return named
