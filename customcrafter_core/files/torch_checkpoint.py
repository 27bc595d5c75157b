"""Torch checkpoints (``.ckpt``, ``.pt``, ``.bin``): what they hold and where it lies, without running code in them.

Only torch's restricted unpickler reads them. Lightning and OmegaConf store objects of their own beside the weights;
those are replaced by inert ones and nothing of these libraries is imported or called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import _weights_only_unpickler

from ..errors import InputError, damaged_file

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LIGHTNING_ROOTS = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.")
LIGHTNING_NAMES = {
    "collections.defaultdict", "typing.Any", "builtins.dict", "builtins.list", "builtins.int", "builtins.float",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "pathlib.PosixPath",
    "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
}  # fmt: skip
LARGEST_RATIO = 20  # of an archive's content to its size; weights do not even shrink to half
ALWAYS_FITS = 10**8  # bytes of content that are read whatever they were packed into
DICTIONARIES = {"defaultdict", "AttributeDict"}  # the unpickler fills in their items


class _Inert:
    """Stands for an object of Lightning or OmegaConf; takes any arguments and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDictionary:
    """Stands for a dictionary class of theirs: a plain one takes its place."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def is_zip(path: Path) -> bool:
    """Whether the file is a zip archive, torch's format since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == ZIP_MAGIC


def read_whole(path: Path) -> Any:
    """Read a checkpoint of any age into memory.

    Raises:
        InputError: it is damaged or asks for code to be run.
    """

    def read() -> Any:
        with path.open("rb") as file:  # a path that ends in .safetensors would make torch choose another reader
            return torch.load(file, weights_only=True, map_location="cpu")

    stubs = _stubs(_guarded(path, lambda: _pickle_of(path))) if is_zip(path) else []
    with torch.serialization.safe_globals(stubs):
        return _guarded(path, read)


def read_outline(path: Path) -> Any:
    """Read a zip checkpoint with its tensors on the meta device; `data_start` says where their bytes lie.

    Raises:
        InputError: it is damaged or asks for code to be run.
    """

    def read() -> Any:
        pickled = _pickle_of(path)
        with (
            zipfile.ZipFile(path) as archive,
            path.open("rb") as file,
            torch.serialization.safe_globals(_stubs(pickled)),
        ):
            return _OutlineUnpickler(pickled, archive, file).load()

    return _guarded(path, read)


def data_start(tensor: torch.Tensor) -> int | None:
    """Offset in the file of a tensor's storage; None if its bytes do not lie there as they are."""
    return getattr(tensor.untyped_storage(), "customcrafter_start", None)


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except pickle.UnpicklingError as error:
        raise InputError(
            expected="a checkpoint that holds only tensors and plain values",
            found=f"{path.name}, refused by torch's safe reader: {_reason(error)}",
            remedy="It was not run. Use the .safetensors file of the model or get it from its original page.",
        ) from error
    except Exception as error:  # damaged bytes can make the reader fail in any way
        raise damaged_file(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    """The sentence of torch's long message that says what is wrong, without its advice to load the file unsafely."""
    text = re.sub(
        r"^Weights only load failed.*?(WeightsUnpickler error:|\n\n)", "", str(error), flags=re.DOTALL
    ).strip()
    return re.split(r"\n|\. (?=[A-Z])", text)[0] or type(error).__name__


def _root(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl"):
            return name.removesuffix("data.pkl")
    raise ValueError("a zip archive without data.pkl")


def _pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        content = sum(entry.file_size for entry in archive.infolist())
        if content > max(LARGEST_RATIO * path.stat().st_size, ALWAYS_FITS):
            raise ValueError(f"packed so that it would fill {content:,} bytes")
        return archive.read(f"{_root(archive)}data.pkl")


def _stubs(pickled: bytes) -> list[Any]:
    """Classes under the names of Lightning's objects, for torch's list of what the unpickler may make."""
    try:
        used = {str(arg).replace(" ", ".", 1) for code, arg, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
    except Exception:  # damaged: the unpickler says how
        used = set()
    stubs: list[Any] = []
    for full_name in LIGHTNING_NAMES | {name for name in used if name.startswith(LIGHTNING_ROOTS)}:
        module, _, name = full_name.rpartition(".")
        kind = _InertDictionary if name in DICTIONARIES else _Inert
        stubs.append(type(name, (kind,), {"__module__": module}))
    return stubs


class _OutlineUnpickler(_weights_only_unpickler.Unpickler):
    """Torch's restricted unpickler, with storages on the meta device that know where their bytes lie in the file."""

    def __init__(self, pickled: bytes, archive: zipfile.ZipFile, file: BinaryIO) -> None:
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self._archive, self._file, self._root = archive, file, _root(archive)
        order = f"{self._root}byteorder"
        self._little_endian = order not in archive.namelist() or archive.read(order) == b"little"

    def persistent_load(self, pid: Any) -> torch.storage.TypedStorage:
        """The storage of a pickled id."""
        _, kind, key, _, count = pid
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        size = count * dtype.itemsize
        entry = self._archive.getinfo(f"{self._root}data/{key}")
        if entry.file_size < size:
            raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes instead of {size:,}")
        storage = torch.UntypedStorage(size, device="meta")
        if entry.compress_type == zipfile.ZIP_STORED and self._little_endian:
            self._file.seek(entry.header_offset + 26)  # this header's lengths; the archive's directory has others
            name_length, extra_length = struct.unpack("<HH", self._file.read(4))
            start = entry.header_offset + 30 + name_length + extra_length
            storage.customcrafter_start = start  # type: ignore[attr-defined]
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
