"""Prompts with subjects: V* goes into the text encoder, and a prompt without the token gets a warning."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from ..base_model.model import VideoCrafter2
from ..base_model.text import PromptTokenizer, encode_ids, learned_tokens
from ..errors import InputError
from .subject import Subject

log = logging.getLogger(__name__)


def missing_tokens(prompt: str, subjects: Sequence[Subject]) -> list[str]:
    """One warning for each subject whose token is not in the prompt, or only after the point where it is cut off."""
    held = tokenizer_of(subjects).placeholders_in(prompt)
    return [
        f"The prompt does not contain {subject.placeholder}, the token of an applied subject; write {subject.trigger!r}."
        for subject in subjects
        if subject.placeholder not in held
    ]


def tokenizer_of(subjects: Sequence[Subject]) -> PromptTokenizer:
    """A tokenizer that knows the subjects' tokens.

    Raises:
        InputError: two subjects have the same placeholder, or one is invalid.
    """
    placeholders = [subject.placeholder for subject in subjects]
    if len(set(placeholders)) < len(placeholders):
        raise InputError(
            expected="a different token for each subject",
            found=f"{', '.join(placeholders)}",
            remedy="Rename the second subject's token, for example to <new2>.",
        )
    return PromptTokenizer({subject.placeholder: len(subject.embedding) for subject in subjects})


def encode_prompts(model: VideoCrafter2, prompts: Sequence[str], subjects: Sequence[Subject] = ()) -> torch.Tensor:
    """Text embeddings ``(b, 77, d)`` of prompts in which each subject's placeholder stands for its V*.

    Raises:
        InputError: two subjects have the same placeholder.
    """
    tokenizer = tokenizer_of(subjects)
    with learned_tokens(model.text_encoder, [subject.embedding for subject in subjects]):
        return encode_ids(model.text_encoder, tokenizer(prompts))
