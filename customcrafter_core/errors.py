"""The one kind of error that bad input raises."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Bad input from the user: what was expected, what was found, what to do.

    Raised before anything is changed or written, so the caller only has to show the message.
    """

    def __init__(self, *, expected: str, found: str, remedy: str) -> None:
        self.expected, self.found, self.remedy = expected, found, remedy
        super().__init__(f"Expected {expected}; found {found}. {remedy}")


FULL = ("allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says when a CPU's memory, a GPU's, or that of its libraries is full."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device is full: torch has a class for it, but often only a text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in FULL)


def some_names(names: list[str], limit: int = 8) -> str:
    """List names for a message: all of them up to ``limit``, then how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def damaged_file(path: Path, detail: str) -> InputError:
    """The error for a file whose bytes do not hang together."""
    return InputError(
        expected=f"all of {path.name}",
        found=f"a damaged or truncated file ({detail})",
        remedy="Download or copy it again.",
    )
