"""Captions as people have them: text files in any usual encoding, with ``{}``, the token, the class word or none of them."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ..errors import InputError

SUFFIXES = (".txt", ".caption")
SUBJECT = "{}"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_TWO_LETTERS = re.compile("[\u00c0-\u00ff]{2}")  # of text in another encoding read as Windows-1252, rarely of its own


def read_caption(picture: Path) -> str:
    """The caption of a picture: the text file beside it, ``cup.txt`` or ``cup.caption``; empty if there is none.

    Raises:
        InputError: its encoding is not clear.
    """
    beside = sorted(path for path in picture.parent.iterdir() if is_caption_of(path, picture))
    return " ".join(decode_text(beside[0].read_bytes(), beside[0].name).split()) if beside else ""


def is_caption_of(path: Path, picture: Path) -> bool:
    """Whether a file is the caption of a picture, by its name."""
    return path.stem == picture.stem and path.suffix.lower() in SUFFIXES


def decode_text(content: bytes, name: str) -> str:
    """Text in UTF-8, UTF-16 or Windows-1252, as Windows programs save it.

    Raises:
        InputError: it is in another encoding, or in none.
    """
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content:  # UTF-16 without its mark: every other byte of Latin text is 0
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        text = _decode_unmarked(content) if encoding is None else content.decode(encoding)
        if "\0" in text:
            raise ValueError("binary content")
    except ValueError as error:
        raise InputError(
            expected=f"text in UTF-8 in {name}",
            found=f"another encoding ({error})",
            remedy="Save the file as UTF-8.",
        ) from error
    return text


def _decode_unmarked(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("cp1252")
        if _TWO_LETTERS.search(text):
            raise ValueError("neither UTF-8 nor Windows-1252") from None
        return text


def with_subject(caption: str, placeholder: str, class_word: str) -> str:
    """A caption of the subject as a pattern with ``{}`` for it.

    ``{}`` stays; else the token, alone or with the class word; else the first class word becomes ``{}``; else ``{}`` is
    put in front.
    """
    found = pattern(caption, placeholder, class_word)
    return found if SUBJECT in found else f"{SUBJECT}, {found}"


def pattern(caption: str, placeholder: str, class_word: str) -> str:
    """A caption with ``{}`` for the token or the class word, as it is if it has neither."""
    if SUBJECT in caption:
        return caption
    token, word = re.escape(placeholder), r"\s+".join(map(re.escape, class_word.split()))
    if placeholder in caption:
        return re.sub(rf"{token}(\s+{word}\b)?", SUBJECT, caption, flags=re.IGNORECASE)
    return re.sub(rf"(?<!\w){word}(?!\w)", SUBJECT, caption, count=1, flags=re.IGNORECASE)
