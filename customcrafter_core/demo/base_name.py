"""Say in words which base model a fingerprint belongs to, with the demo's own among those that are known."""

from __future__ import annotations

from functools import cache

from ..base_model.fingerprint import describe_base
from ..subject.file import load_subject
from . import demo_subject


def base_name(fingerprint: str) -> str:
    """As `describe_base`, which stands below the demo and so is told of its model."""
    return describe_base(fingerprint, {_demo_fingerprint(): "the demo model"})


@cache
def _demo_fingerprint() -> str:
    return load_subject(demo_subject()).base
