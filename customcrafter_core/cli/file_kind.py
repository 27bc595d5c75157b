"""What kind of file was given, told by what it says of itself and by the names in it."""

from __future__ import annotations

from enum import Enum

from ..files.tensor_file import TensorFile
from ..subject.file import is_subject


class FileKind(Enum):
    """The files this pack knows; what is neither subject nor LoRA is held against the base model."""

    BASE = "base model"
    SUBJECT = "subject"
    LORA = "LoRA"


def kind_of(file: TensorFile) -> FileKind:
    """The kind of an open file."""
    if is_subject(file):
        return FileKind.SUBJECT
    return FileKind.LORA if any("lora" in name for name in file.tensors) else FileKind.BASE
