"""Settings of a training run in a JSON or TOML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

PATHS = ("photos", "prior", "out", "base")
"""Settings that are paths: in a file they are meant from the file's own folder."""


def read_training_file(path: Path, known: set[str], option_names: Mapping[str, str]) -> dict[str, Any]:
    """Read settings by the names of the command line's options, with ``-`` or ``_`` between words.

    Args:
        path: ends in ``.json`` or ``.toml``.
        known: names of all settings.
        option_names: setting -> what its option is called, where that differs.

    Raises:
        InputError: no such file, neither JSON nor TOML, or a name that is no setting.
    """
    content = read_plain(path)
    called = {option: name for name, option in option_names.items()}
    settings = {called.get(name.replace("-", "_"), name.replace("-", "_")): value for name, value in content.items()}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(
            expected=f"settings in {path.name}: {', '.join(sorted(known))}",
            found=", ".join(unknown),
            remedy="Correct the name, or remove it.",
        )
    for name in PATHS:
        if isinstance(settings.get(name), str):
            settings[name] = str(path.parent / settings[name])
    return settings


def read_plain(path: Path) -> dict[str, Any]:
    """Names and values of a JSON or TOML file.

    Raises:
        InputError: no such file, or neither JSON nor TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else _toml(path, text)
    except OSError as error:
        raise InputError(expected=f"a settings file {path}", found=f"{error.strerror}", remedy="Check it.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(expected=f"valid JSON or TOML in {path.name}", found=f"{error}", remedy="Mend it.") from error
    if not isinstance(content, dict):
        raise InputError(expected=f"names and values in {path.name}", found="something else", remedy="Write an object.")
    return content


def _toml(path: Path, text: str) -> dict[str, Any]:
    if path.suffix != ".toml":
        raise InputError(expected="a file that ends in .json or .toml", found=path.name, remedy="Rename it.")
    try:
        import tomllib
    except ImportError as error:
        raise InputError(
            expected="Python 3.11 or newer to read TOML", found="an older one", remedy="Write the settings as JSON."
        ) from error
    return tomllib.loads(text)
