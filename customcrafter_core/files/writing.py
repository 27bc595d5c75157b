"""Files that are complete or absent."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and move it there at the end; a failure leaves what was there before.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors leaves its files readable to their owner alone
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a whole file at once.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write plain values as readable JSON.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    return write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def free_stem(folder: Path, name: str) -> str:
    """``name-0001`` or the next number of which ``folder`` holds no file yet, so that nothing is overwritten."""
    prefix = f"{name}-"
    taken = [path.name.removeprefix(prefix)[:4] for path in folder.glob(f"{prefix}[0-9][0-9][0-9][0-9]*")]
    return f"{prefix}{max((int(number) for number in taken), default=0) + 1:04d}"
