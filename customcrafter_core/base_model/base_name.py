"""Say in words which base model a fingerprint belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from .config import VIDEOCRAFTER2
from .fingerprint import joined_widths, same_base, short, widths


def base_name(fingerprint: str, known: Mapping[str, str]) -> str:
    """The base model as far as its fingerprint tells, and the fingerprint in short.

    VideoCrafter2 is named by its size: a fine-tune of it has the same, but other numbers.

    Args:
        fingerprint: empty where none was recorded.
        known: fingerprint -> name of models that are told from others of their size.
    """
    if not fingerprint:
        return "not recorded"
    full = joined_widths(VIDEOCRAFTER2.unet.block_out_channels, VIDEOCRAFTER2.unet.cross_attention_dim)
    by_size = "VideoCrafter2 or one of its size" if widths(fingerprint) == full else "another model"
    name = next((name for one, name in known.items() if same_base(fingerprint, one)), by_size)
    return f"{name} ({short(fingerprint)})"
