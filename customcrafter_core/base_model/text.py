"""Prompts to text embeddings, with learned tokens such as ``<new1>`` in them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import InputError
from .networks import text_tower

log = logging.getLogger(__name__)

TOKENIZER_FOLDER = Path(__file__).parent / "tokenizer"  # CLIP's byte pairs (MIT licence), shipped: nothing is fetched
PAD_ID = 0  # OpenCLIP pads with 0, not with the end token


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, without learned tokens; shared, so never add tokens to it."""
    return CLIPTokenizer.from_pretrained(TOKENIZER_FOLDER, local_files_only=True)


@cache
def _words() -> frozenset[str]:
    """CLIP's vocabulary; asking the tokenizer for it takes 30 ms each time."""
    return frozenset(clip_tokenizer().get_vocab())


def tokenize(text: str) -> list[int]:
    """CLIP's ids of a text, without start and end.

    Raises:
        InputError: the text cannot be written as UTF-8, as after reading it in another encoding.
    """
    check_text(text)
    return clip_tokenizer()(text, add_special_tokens=False).input_ids


def check_text(text: str) -> None:
    """Refuse text that holds bytes which are no UTF-8; Python reads them as lone surrogates.

    Raises:
        InputError: there is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            expected="text in UTF-8",
            found=ascii(text),
            remedy="Write it again, or set the terminal to UTF-8.",
        ) from error


class PromptTokenizer:
    """CLIP's tokenizer plus learned tokens; the ``i``-th vector of all learned tokens has id ``vocab_size + i``."""

    def __init__(self, placeholders: Mapping[str, int] | None = None, *, length: int = 77) -> None:
        """Args:
            placeholders: learned token, as written in prompts -> how many vectors it stands for.
            length: ids per prompt, start and end included.

        Raises:
            InputError: a placeholder is empty, contains spaces or already is a word of the vocabulary.
        """
        self.length = length
        self.placeholders = dict(placeholders or {})
        for placeholder in self.placeholders:
            check_placeholder(placeholder)
        self._ids: dict[str, list[int]] = {}
        next_id = clip_tokenizer().vocab_size
        for placeholder, count in self.placeholders.items():
            self._ids[placeholder] = list(range(next_id, next_id + count))
            next_id += count

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token ids ``(b, length)``; what does not fit is cut off with a warning."""
        return torch.tensor([self._encode(prompt) for prompt in prompts], dtype=torch.long)

    def _encode(self, prompt: str) -> list[int]:
        tokenizer = clip_tokenizer()
        ids = [i for piece in self.pieces(prompt) for i in piece]
        room = self.length - 2
        if len(ids) > room:
            log.warning("The prompt has %d tokens, %d fit; the end is cut off: %s", len(ids), room, prompt)
        ids = [tokenizer.bos_token_id, *ids[:room], tokenizer.eos_token_id]
        return ids + [PAD_ID] * (self.length - len(ids))

    def placeholders_in(self, prompt: str) -> set[str]:
        """The learned tokens that a prompt holds, before the place where it is cut off."""
        ids = [i for piece in self.pieces(prompt) for i in piece][: self.length - 2]
        return {placeholder for placeholder, own in self._ids.items() if set(own) <= set(ids)}

    def pieces(self, prompt: str) -> Iterator[list[int]]:
        """Ids of the stretches between learned tokens and of the learned tokens, in order; without start and end."""
        rest = prompt
        while rest:
            found = [(rest.find(p), -len(p), p) for p in self._ids if p in rest]
            if not found:
                yield tokenize(rest)
                return
            start, _, placeholder = min(found)
            if rest[:start]:
                yield tokenize(rest[:start])
            yield self._ids[placeholder]
            rest = rest[start + len(placeholder) :]


def check_placeholder(placeholder: str) -> None:
    """Refuse a learned token that prompts could not hold or that is an ordinary word.

    Raises:
        InputError: it is empty, contains spaces, is one token of CLIP's vocabulary or no UTF-8.
    """
    check_text(placeholder)
    if not placeholder or any(letter.isspace() for letter in placeholder):
        found = repr(placeholder)
    elif placeholder in _words() or f"{placeholder.lower()}</w>" in _words():
        found = f"{placeholder!r}, which already is a word of the text encoder"
    else:
        return
    raise InputError(expected="a new token without spaces", found=found, remedy="Use a token such as <new1>.")


class LearnedTokenEmbedding(nn.Module):
    """The text encoder's token table with learned rows behind it; only those can be trained."""

    def __init__(self, base: nn.Embedding, vectors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.base = base
        self.vectors = [vector for vector in vectors]  # not a ParameterList: they belong to the subjects

    @property
    def weight(self) -> torch.Tensor:
        """The base model's rows ``(vocab, d)``; transformers asks it for dtype and device."""
        return self.base.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up ids ``(b, n)``; returns ``(b, n, d)``."""
        vocabulary = self.base.num_embeddings
        embedded = self.base(ids.clamp(max=vocabulary - 1))
        if not self.vectors:
            return embedded
        learned = torch.cat([vector.to(embedded) for vector in self.vectors])
        index = (ids - vocabulary).clamp(min=0)
        return torch.where((ids >= vocabulary).unsqueeze(-1), learned[index], embedded)


@contextmanager
def learned_tokens(text_encoder: CLIPTextModel, vectors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Give the text encoder learned rows ``(n, d)`` each, behind its vocabulary, while the context lasts."""
    embeddings = text_tower(text_encoder).embeddings
    base = embeddings.token_embedding
    embeddings.token_embedding = LearnedTokenEmbedding(base, vectors)
    try:
        yield
    finally:
        embeddings.token_embedding = base


def encode_ids(text_encoder: CLIPTextModel, ids: torch.Tensor) -> torch.Tensor:
    """Text embeddings ``(b, n, d)`` of token ids ``(b, n)``: the penultimate layer, normed."""
    device = next(text_encoder.parameters()).device
    return text_encoder(input_ids=ids.to(device)).last_hidden_state
