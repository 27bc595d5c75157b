"""Read parts of a file one after another; the next ones come from the disk while one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch

BLOCK = 2**22  # bytes read at once: enough to keep a disk busy
AHEAD = 16  # blocks in memory at once


def read_ahead(path: Path, parts: Sequence[tuple[int, int]]) -> Generator[torch.Tensor]:
    """Read parts of a file, each of at most ``BLOCK`` bytes.

    Args:
        path: of the file.
        parts: (offset, length) in bytes, in the order wanted.

    Yields:
        The bytes of each part ``(length,)``, valid until the next one is asked for; fewer where the file ends early.

    Raises:
        OSError: the disk cannot be read.
    """
    memory = [torch.empty(BLOCK, dtype=torch.uint8) for _ in range(min(AHEAD, len(parts)))]
    waiting: deque[Future[torch.Tensor]] = deque()
    reader = ThreadPoolExecutor(1, "read-ahead")
    with path.open("rb", buffering=0) as file:
        try:
            for index in range(len(parts)):
                # the block handed out last is in use no more: its memory takes the newest part
                for later in range(index + len(waiting), min(index + len(memory), len(parts))):
                    waiting.append(reader.submit(_fill, file, memory[later % len(memory)], *parts[later]))
                yield waiting.popleft().result()
        finally:
            reader.shutdown(cancel_futures=True)


def _fill(file: BinaryIO, block: torch.Tensor, offset: int, length: int) -> torch.Tensor:
    """Read ``length`` bytes into the start of a block; they are fewer where the file ends."""
    file.seek(offset)
    done = 0
    while done < length and (read := file.readinto(block[done:length].numpy())):  # type: ignore[attr-defined]
        done += read
    return block[:done]
