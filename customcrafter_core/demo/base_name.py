"""Say in words which base model a fingerprint belongs to."""

from __future__ import annotations

from functools import cache

from ..base_model.fingerprint import same_base, short, widths
from ..subject.file import load_subject
from . import demo_subject

VIDEOCRAFTER2 = "320-640-1280-1280-1024"  # widths in its fingerprint: the UNet's levels and the text


def base_name(fingerprint: str) -> str:
    """The base model as far as its fingerprint tells, and the fingerprint in short.

    VideoCrafter2 is named by its size: a fine-tune of it has the same, but other numbers.
    """
    if not fingerprint:
        return "not recorded"
    if same_base(fingerprint, _demo_fingerprint()):
        name = "the demo model"
    else:
        name = "VideoCrafter2 or one of its size" if widths(fingerprint) == VIDEOCRAFTER2 else "another model"
    return f"{name} ({short(fingerprint)})"


@cache
def _demo_fingerprint() -> str:
    return load_subject(demo_subject()).base
