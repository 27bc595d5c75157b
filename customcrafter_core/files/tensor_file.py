"""Named tensors in a file: ``.safetensors`` or a torch checkpoint, mapped into memory and never executed.

Names, shapes and types are known before any number is read, so a file that does not fit is refused at once and a model
is filled without ever holding a second copy of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InputError, damaged_file, some_names
from .torch_checkpoint import PICKLE_MAGIC, ZIP_MAGIC, open_checkpoint
from .writing import replacing

Tensors = dict[str, torch.Tensor]
KNOWN_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip


class TensorFile:
    """An open file of named tensors. Use as a context manager: Windows replaces no file that is mapped."""

    def __init__(self, path: Path, read: Callable[[], tuple[Tensors, dict[str, str]]]) -> None:
        self.path, self._read = path, read
        self.tensors, self.metadata = read()
        """The tensors lie on the CPU; writing to one never reaches the file."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor in memory of its own."""
        return self.tensors[name].clone()

    def release_pages(self) -> None:
        """Map the file again: what was read of it so far counts as memory of this process no longer.

        Tensors taken before stay valid, and keep what they lie in.
        """
        self.tensors = {}
        self.tensors = self._read()[0]

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tensors = {}


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
        opened = TensorFile(path, lambda: _read_safetensors(path))
    elif head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        read = open_checkpoint(path)
        opened = TensorFile(path, lambda: (read(), {}))
    else:
        raise InputError(
            expected="a .safetensors file or a torch checkpoint",
            found=f"{path.name}, which starts with {head[:8]!r}",
            remedy="A download page saved as a file, a Git LFS pointer or a text file looks like this: download it again.",
        )
    foreign = [f"{name} in {value.dtype}" for name, value in opened.tensors.items() if value.dtype not in KNOWN_DTYPES]
    if foreign:
        raise InputError(
            expected="weights in float32, float16 or bfloat16",
            found=f"{some_names(foreign)} in {path.name}",
            remedy="Use the original file; quantised files are not supported.",
        )
    return opened


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:  # the library validates header, sizes and overlaps
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # older versions fail in their own ways at types that torch does not have
        raise damaged_file(path, str(error)) from error


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a ``.safetensors`` file; a failure leaves what was there before.

    Args:
        path: the new file.
        tensors: contiguous, each in memory of its own.
        metadata: texts stored beside them.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata=dict(metadata))
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(f"{path} cannot be written: {error}") from error
