"""Named tensors in a file: ``.safetensors`` or a torch checkpoint, read one at a time and never executed.

Names, shapes and types are known before any data is read, so a file that does not fit is refused at once and a model
is filled without ever holding a second copy of its weights.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import InputError, damaged_file, some_names
from .read_ahead import BLOCK, read_ahead
from .torch_checkpoint import PICKLE_MAGIC, ZIP_MAGIC, data_start, is_zip, read_outline, read_whole

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

    @property
    def is_dense(self) -> bool:
        """Whether its numbers lie without gaps, in whatever order."""
        return self.span == math.prod(self.shape) * self.dtype.itemsize


class TensorFile:
    """An open file of named tensors. Use as a context manager."""

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.tensors = tensors
        self.metadata = metadata
        self._file = path.open("rb")
        self._map: mmap.mmap | None = None

    def in_order(self, names: Iterable[str]) -> list[str]:
        """The names as their tensors follow one another in the file: the order in which reading them is fastest."""
        return sorted(names, key=lambda name: (self.tensors[name].offset, name))

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor into memory of its own."""
        info = self.tensors[name]
        buffer = torch.empty(info.span, dtype=torch.uint8)
        self._file.seek(info.offset)
        if self._file.readinto(buffer.numpy()) != info.span:
            raise damaged_file(self.path, f"{name} ends early")
        return torch.as_strided(buffer.view(info.dtype), info.shape, info.stride)

    def blocks(self, names: Sequence[str]) -> Generator[torch.Tensor]:
        """Read tensors one after another, in blocks of numbers as they lie in the file: ``span`` bytes for each.

        Each block ``(n,)`` is of one tensor and valid until the next is asked for. While one is in use the next ones are
        read, which takes the disk's time out of the way if ``names`` are in the file's order.

        Raises:
            InputError: the file ends early.
        """
        parts = []
        for name in names:
            offset, span = self.tensors[name].offset, self.tensors[name].span
            parts += [(name, offset + begin, min(BLOCK, span - begin)) for begin in range(0, span, BLOCK)]
        with closing(read_ahead(self.path, [(offset, length) for _, offset, length in parts])) as read:
            for (name, _, length), block in zip(parts, read, strict=True):
                if len(block) != length:
                    raise damaged_file(self.path, f"{name} ends early")
                yield block.view(self.tensors[name].dtype)

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
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except (OSError, ValueError) as error:
        kinds = {FileNotFoundError: "no file", IsADirectoryError: "a folder"}
        found = next((text for kind, text in kinds.items() if isinstance(error, kind)), str(error))
        raise InputError(expected="a model file", found=f"{found} at {path}", remedy="Check the path.") from error
    if head[4:9] == b"\0\0\0\0{":  # the header's length in 8 bytes, of which the first may be the pickles' mark
        return _open_safetensors(path)
    if head.startswith(ZIP_MAGIC) or head.startswith(PICKLE_MAGIC):
        return _open_torch(path)
    raise InputError(
        expected="a .safetensors file or a torch checkpoint",
        found=f"{path.name}, which starts with {head[:8]!r}",
        remedy="A download page saved as a file, a Git LFS pointer or a text file looks like this: download it again.",
    )


def _open_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as checked:  # the library validates header, sizes and overlaps
            metadata = dict(checked.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise damaged_file(path, str(error)) from error
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
    return _complete(path, tensors, metadata)


def _open_torch(path: Path) -> TensorFile:
    content = read_outline(path) if is_zip(path) else read_whole(path)
    named = _named_tensors(path, content)
    tensors = {}
    for name, value in named.items():
        start = data_start(value)
        if start is None:
            return _MemoryTensorFile(path, _named_tensors(path, read_whole(path)) if is_zip(path) else named)
        offset = start + int(value.storage_offset()) * value.dtype.itemsize
        tensors[name] = TensorInfo(value.dtype, tuple(value.shape), value.stride(), offset)
    return _complete(path, tensors, {})


def _complete(path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> TensorFile:
    size = path.stat().st_size
    beyond = [name for name, info in tensors.items() if info.offset + info.span > size]
    if beyond:
        raise damaged_file(path, f"{len(beyond)} tensors reach beyond its end of {size:,} bytes")
    return TensorFile(path, tensors, metadata)


def _named_tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            expected="a checkpoint with named tensors (a state_dict)",
            found=f"{type(content).__name__} without any in {path.name}",
            remedy="Use the model's checkpoint file.",
        )
    named = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    sparse = [name for name, value in named.items() if value.layout is not torch.strided]
    if sparse:
        raise InputError(
            expected="dense weights", found=f"sparse ones: {some_names(sparse)}", remedy="Use the original file."
        )
    larger = [name for name, v in named.items() if v.numel() * v.dtype.itemsize > v.untyped_storage().nbytes()]
    if larger:  # one number that claims to be a thousand millions of them
        raise damaged_file(path, f"more numbers than it holds in {some_names(larger)}")
    return named


class _MemoryTensorFile(TensorFile):
    """A checkpoint that can only be read whole: of torch before 1.6, or packed again by another program."""

    def __init__(self, path: Path, values: dict[str, torch.Tensor]) -> None:
        self._values = values
        infos = {name: TensorInfo(v.dtype, tuple(v.shape), v.stride(), 0) for name, v in values.items()}
        super().__init__(path, infos, {})

    def read(self, name: str) -> torch.Tensor:
        """Give one tensor; it already lies in memory."""
        return self._values[name]

    def blocks(self, names: Sequence[str]) -> Generator[torch.Tensor]:
        """Give the numbers of each tensor as they lie in memory."""
        for name in names:
            info = self.tensors[name]
            if info.span:
                yield self._values[name].as_strided((info.span // info.dtype.itemsize,), (1,))

    map = read
