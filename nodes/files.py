"""The files that nodes list, read and write: those that ship with the pack, and the host's folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..customcrafter_core.demo import demo_checkpoint, demo_subject
from ..customcrafter_core.errors import InputError
from ..customcrafter_core.files.names import file_inside

BUILT_IN = {
    "checkpoints": ("customcrafter_demo", demo_checkpoint()),
    "loras": ("customcrafter_demo_subject", demo_subject()),
}
"""Files that ship with the pack, listed among those of the host's folders. Saved workflows contain these names."""
SUFFIX = ".safetensors"


def subject_names() -> list[str]:
    """The built-in subject and all files in the host's LoRA folders; whether one is a subject shows when it is loaded."""
    return [name for name in choices("loras") if name == BUILT_IN["loras"][0] or name.endswith(SUFFIX)]


def choices(folder: str) -> list[str]:
    """Files to choose from: what ships with the pack, then the host's folder."""
    return [BUILT_IN[folder][0], *folder_paths.get_filename_list(folder)]


def chosen_file(folder: str, name: str) -> Path:
    """The path of a listed file.

    Raises:
        InputError: there is no file of that name.
    """
    path = _path_of(folder, name)
    if path is None:
        raise InputError(
            expected=f"a file in ComfyUI's {folder} folder", found=repr(name), remedy="Choose one from the list."
        )
    return path


def saved_at(folder: str, name: str | None) -> int:
    """When a listed file was last saved, so that the host reruns a node after the file changes.

    0 if there is no such file, or if the name comes from another node.
    """
    path = None if name is None else _path_of(folder, name)
    return path.stat().st_mtime_ns if path is not None else 0


def _path_of(folder: str, name: str) -> Path | None:
    built_in, path = BUILT_IN[folder]
    found = path if name == built_in else folder_paths.get_full_path(folder, name)
    return None if found is None else Path(found)


def new_file(folder: Path, stem: str, overwrite: bool) -> Path:
    """A path for a new file directly in a folder.

    Raises:
        InputError: the name is not a plain file name, leads out of the folder, or is taken.
    """
    path = file_inside(folder, stem, SUFFIX)
    if path.exists() and not overwrite:
        raise InputError(
            expected="a new file name",
            found=f"{path.name}, which exists",
            remedy="Choose another name, or turn on overwrite.",
        )
    return path
