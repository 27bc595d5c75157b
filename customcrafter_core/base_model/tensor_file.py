"""Named tensors in a file: ``.safetensors`` or a torch checkpoint, read one at a time and never executed.

Names, shapes and types are known before any data is read, so a file that does not fit is refused at once and a model
is filled without ever holding a second copy of its weights.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import InputError

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
# What Lightning stores beside the weights. The names stand in the pickle; they are replaced by an inert class and
# nothing of them is imported or called.
LIGHTNING_ROOTS = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.")
LIGHTNING_NAMES = {
    "collections.defaultdict", "typing.Any", "builtins.dict", "builtins.list", "builtins.int", "builtins.float",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "pathlib.PosixPath",
    "pathlib.WindowsPath",
}  # fmt: skip
SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies in the file: ``offset`` and ``stride`` as in torch, ``offset`` in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def span(self) -> int:
        """Bytes from the first element to behind the last one."""
        if 0 in self.shape:
            return 0
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


class TensorFile:
    """An open file of named tensors. Use as a context manager."""

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.tensors = tensors
        self.metadata = metadata
        self._file = path.open("rb")
        self._map: mmap.mmap | None = None
        size = path.stat().st_size
        beyond = [name for name, info in tensors.items() if info.offset + info.span > size]
        if beyond:
            self._file.close()
            raise _truncated(path, f"{len(beyond)} tensors reach beyond its end of {size:,} bytes")

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor into memory of its own."""
        info = self.tensors[name]
        buffer = torch.empty(info.span, dtype=torch.uint8)
        self._file.seek(info.offset)
        if self._file.readinto(buffer.numpy()) != info.span:
            raise _truncated(self.path, f"{name} ends early")
        return torch.as_strided(buffer.view(info.dtype), info.shape, info.stride)

    def map(self, name: str) -> torch.Tensor:
        """Give one tensor as a view of the memory-mapped file (private: writing to it never reaches the file)."""
        info = self.tensors[name]
        if info.span == 0 or info.offset % info.dtype.itemsize:
            return self.read(name)
        if self._map is None:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        count = info.span // info.dtype.itemsize
        flat = torch.frombuffer(self._map, dtype=info.dtype, count=count, offset=info.offset)
        return torch.as_strided(flat, info.shape, info.stride)

    def close(self) -> None:
        """Close the file; mapped tensors stay valid."""
        self._file.close()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_tensor_file(path: str | Path) -> TensorFile:
    """Open a ``.safetensors`` file or a torch checkpoint (``.ckpt``, ``.pt``, ``.bin``), told apart by content.

    Raises:
        InputError: no such file, not such a file, truncated, or a pickle that asks for code to be run.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise InputError(expected="a model file", found=f"{found} at {path}", remedy="Check the path.")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(ZIP_MAGIC) or head.startswith(PICKLE_MAGIC):
        return _open_torch(path)
    if len(head) >= 9 and head[8:9] == b"{":
        return _open_safetensors(path)
    raise InputError(
        expected="a .safetensors file or a torch checkpoint",
        found=f"{path.name}, which starts with {head[:8]!r}",
        remedy="A download page saved as a file, a Git LFS pointer or a text file looks like this: download it again.",
    )


def _truncated(path: Path, detail: str) -> InputError:
    return InputError(
        expected=f"all of {path.name}",
        found=f"a damaged or truncated file ({detail})",
        remedy="Download or copy it again.",
    )


def _open_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as checked:  # the library validates header, sizes and overlaps
            metadata = dict(checked.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _truncated(path, str(error)) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            raise InputError(
                expected="weights in float32, float16 or bfloat16",
                found=f"{name} in {entry['dtype']} in {path.name}",
                remedy="Use the original file; quantised files are not supported.",
            )
        shape = tuple(entry["shape"])
        stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        dtype = SAFETENSORS_DTYPES[entry["dtype"]]
        tensors[name] = TensorInfo(dtype, shape, stride, 8 + length + entry["data_offsets"][0])
    return TensorFile(path, tensors, metadata)


class _Inert:
    """Stands for an object of Lightning or OmegaConf; takes any arguments and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _inert_lightning_globals(path: Path) -> list[Any]:
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    refused = [name for name in names if name not in LIGHTNING_NAMES and not name.startswith(LIGHTNING_ROOTS)]
    if refused:
        raise InputError(
            expected="a checkpoint that holds only tensors and plain values",
            found=f"{path.name}, which asks to run {', '.join(sorted(refused))}",
            remedy="It was not run. Do not use this file; get the checkpoint from its original page.",
        )
    return [(_Inert, name) for name in names]


def _load_torch(path: Path, **options: Any) -> Any:
    try:
        stubs = _inert_lightning_globals(path) if zip_container(path) else []
        with torch.serialization.safe_globals(stubs):
            return torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        raise InputError(
            expected="a checkpoint that holds only tensors and plain values",
            found=f"{path.name}, refused by torch's safe reader: {str(error).splitlines()[0]}",
            remedy="It was not run. Use the .safetensors file of the model or get it from its original page.",
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, IndexError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise _truncated(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def zip_container(path: Path) -> bool:
    """Whether the file is a zip archive, torch's format since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == ZIP_MAGIC


def _open_torch(path: Path) -> TensorFile:
    content = _load_torch(path, map_location="meta", mmap=zip_container(path))
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            expected="a checkpoint with named tensors (a state_dict)",
            found=f"{type(content).__name__} without any in {path.name}",
            remedy="Use the model's checkpoint file.",
        )
    named = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    tensors = {}
    for name, value in named.items():
        start = getattr(value.untyped_storage(), "_checkpoint_offset", None)
        if start is None:
            return _MemoryTensorFile(path, _load_torch(path, map_location="cpu"))
        offset = start + int(value.storage_offset()) * value.dtype.itemsize
        tensors[name] = TensorInfo(value.dtype, tuple(value.shape), value.stride(), offset)
    return TensorFile(path, tensors, {})


class _MemoryTensorFile(TensorFile):
    """A checkpoint whose format (before torch 1.6) can only be read whole."""

    def __init__(self, path: Path, content: Any) -> None:
        state = content.get("state_dict", content)
        self._values = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
        infos = {name: TensorInfo(v.dtype, tuple(v.shape), v.stride(), 0) for name, v in self._values.items()}
        super().__init__(path, infos, {})

    def read(self, name: str) -> torch.Tensor:
        """Give one tensor; it already lies in memory."""
        return self._values[name]

    map = read
