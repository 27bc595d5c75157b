"""Names for new files that come from people or saved workflows."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError

MAX_NAME_BYTES = 120  # what is written beside a file has longer names, and file systems end at 255
FORBIDDEN = re.compile(r'[/\\<>:"|?*]')
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
"""Windows takes these for devices, whatever the folder and the ending."""


def file_inside(folder: Path, stem: str, suffix: str) -> Path:
    """A path right in a folder, for a new file; the same names are good on every system.

    Args:
        folder: where the file belongs; may itself be a link.
        stem: the name without its ending.
        suffix: the ending, such as ``.safetensors``.

    Raises:
        InputError: the name is empty, long or hidden, holds what a path or a device is made of, or is that of a link that
            leads out of the folder.
    """
    problem = _problem(stem)
    path = folder / f"{stem}{suffix}"
    if problem is None and path.resolve().parent != folder.resolve():
        problem = "a link that leads out of the folder"
    if problem is not None:
        raise InputError(
            expected="a plain file name",
            found=f"{stem[:MAX_NAME_BYTES]!r}, {problem}",
            remedy="Write a name such as my_dog.",
        )
    return path


def _problem(stem: str) -> str | None:
    """What is wrong with a name, whatever folder it is for."""
    checks = {
        "which is empty": not stem,
        "which starts with a dot": stem.startswith("."),
        "which ends with a dot or a space": stem.endswith((".", " ")),
        "a part of a path": FORBIDDEN.search(stem) is not None,
        "with characters that cannot be seen": not stem.isprintable(),
        "the name of a device": DEVICES.fullmatch(stem) is not None,
        f"longer than {MAX_NAME_BYTES} bytes": len(stem.encode(errors="surrogatepass")) > MAX_NAME_BYTES,
    }
    return next((problem for problem, found in checks.items() if found), None)
