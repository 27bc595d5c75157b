"""VideoCrafter2's text encoder as a CLIP, which can learn tokens such as ``<new1>``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import ClipTarget

from ...customcrafter_core.base_model.config import PROMPT_LENGTH, TextConfig
from ...customcrafter_core.base_model.model import VideoCrafter2
from ...customcrafter_core.base_model.networks import text_tower
from ...customcrafter_core.base_model.text import PAD_ID, PromptTokenizer, clip_tokenizer
from ...customcrafter_core.errors import InputError
from ...customcrafter_core.subject.subject import Subject
from .. import host

TOKENS = "customcrafter_tokens"  # in a CONDITIONING: the learned tokens its prompt held
TEXT = "customcrafter_text"  # in a CONDITIONING: the very tensor that TOKENS is about
EATEN, EMBEDDING = "()\\", "embedding:"  # the host's prompt syntax
NAME = "h"  # the host's name of OpenCLIP's ViT-H


class LearnedWords:
    """The tokenizer under the host's own: where a learned token stands it gives vectors instead of ids."""

    def __init__(self, learned: Mapping[str, torch.Tensor]) -> None:
        """Args: learned: token, as written in prompts -> its vectors ``(n, d)``."""
        self.learned = dict(learned)
        self._pieces = PromptTokenizer({token: len(rows) for token, rows in self.learned.items()}).pieces
        self._rows = [_named(row, token) for token, rows in self.learned.items() for row in rows]

    def __call__(self, text: str) -> dict[str, list[Any]]:
        """Ids and vectors of a text, with start and end."""
        words = clip_tokenizer()
        ids = [number for piece in self._pieces(text) for number in piece]
        known = words.vocab_size
        inner = [self._rows[number - known] if number >= known else number for number in ids]
        return {"input_ids": [words.bos_token_id, *inner, words.eos_token_id]}

    def __getattr__(self, name: str) -> Any:
        return getattr(clip_tokenizer(), name)


def _named(row: torch.Tensor, token: str) -> torch.Tensor:
    row = row.detach().float().cpu().clone()
    row.customcrafter_token = token  # read again by TextTower, after the host passed it on
    return row


class HostTokenizer(SDTokenizer):
    """The host's prompt syntax (weights, ``embedding:NAME``) over CLIP's words and learned tokens."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None, *, width: int) -> None:
        super().__init__(
            pad_with_end=False,
            embedding_directory=embedding_directory,
            embedding_size=width,
            embedding_key=f"clip_{NAME}",
            tokenizer_data=tokenizer_data or {},
        )
        self.tokenizer = LearnedWords({})


class OpenClipTower(SDClipModel):
    """OpenCLIP's text tower of any size; its last layer here is VideoCrafter2's penultimate one."""

    def __init__(self, config: TextConfig, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        words = clip_tokenizer()
        config = {
            "num_hidden_layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.num_attention_heads,
            "intermediate_size": config.intermediate_size,
            "hidden_act": "gelu",
            "max_position_embeddings": PROMPT_LENGTH,
            "eos_token_id": words.eos_token_id,
        }
        special = {"start": words.bos_token_id, "end": words.eos_token_id, "pad": PAD_ID}
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            special_tokens=special,
            model_options=model_options or {},
        )


class TextTower(SD1ClipModel):
    """The text encoder; its conditioning also says which learned tokens the prompt held."""

    def encode_token_weights(self, token_weight_pairs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Conditioning ``(1, n, d)``, pooled, and what else the host shall keep with it."""
        out = super().encode_token_weights(token_weight_pairs)
        pairs = [pair for chunk in token_weight_pairs[self.clip_name] for pair in chunk]
        tokens = {getattr(token, "customcrafter_token", None) for token, *_ in pairs} - {None}
        extra = out[2] if len(out) > 2 else {}
        return (*out[:2], {**extra, TOKENS: tuple(sorted(tokens)), TEXT: out[0]})


def may_hold(text: torch.Tensor, more: Mapping[str, Any], token: str) -> bool:
    """Whether a conditioning can hold a learned token.

    Nodes that mix prompts (ConditioningConcat, ConditioningAverage) keep the marks of one of them only: their result
    is another tensor than the one marked, and is given the benefit of the doubt.
    """
    return TOKENS in more and (token in more[TOKENS] or more.get(TEXT) is not text)


def make_clip(base: VideoCrafter2, dtype: torch.dtype | None) -> comfy.sd.CLIP:
    """A CLIP with the text encoder of a loaded base model.

    Args:
        base: its text encoder in float32.
        dtype: the weights are held in; by default what the host prefers.
    """
    config = base.config.text
    target = ClipTarget(
        partial(SD1Tokenizer, clip_name=NAME, tokenizer=partial(HostTokenizer, width=config.hidden_size)),
        partial(TextTower, clip_name=NAME, clip_model=partial(OpenClipTower, config)),
    )
    prefix = f"clip_{NAME}.transformer."
    state = {f"{prefix}text_model.{name}": value for name, value in text_tower(base.text_encoder).state_dict().items()}
    state[f"{prefix}text_projection.weight"] = torch.eye(config.hidden_size)  # pooled text, which this model never uses
    options = {} if dtype is None else {"dtype": dtype}
    return host.make_clip(target, state, folder_paths.get_folder_paths("embeddings"), options)


def learn_token(clip: comfy.sd.CLIP, token: str, rows: torch.Tensor) -> comfy.sd.CLIP:
    """A CLIP that also knows a learned token.

    Args:
        clip: of Load VideoCrafter2.
        token: as written in prompts.
        rows: its vectors ``(n, d)``.

    Raises:
        InputError: another model's CLIP, or another subject already has this token.
    """
    learned = learned_by(clip)
    if learned is None:
        raise InputError(
            expected="the CLIP of Load VideoCrafter2", found="another one", remedy="Connect that node's CLIP output."
        )
    check_token(token)
    if token in learned and not torch.equal(learned[token].float().cpu(), rows.float().cpu()):
        raise InputError(
            expected="a token of its own for each subject",
            found=f"two subjects called {token}",
            remedy="Give one of them another token in its Load Subject node, such as <new2>.",
        )
    clone = clip.clone()
    clone.tokenizer = copy.copy(clip.tokenizer)
    replaced = copy.copy(getattr(clip.tokenizer, f"clip_{NAME}"))
    replaced.tokenizer = LearnedWords({**learned, token: rows})
    setattr(clone.tokenizer, f"clip_{NAME}", replaced)
    return clone


def teach(clip: comfy.sd.CLIP, subject: Subject) -> comfy.sd.CLIP:
    """A CLIP with a subject's token; see `learn_token`."""
    return learn_token(clip, subject.placeholder, subject.embedding)


def learned_by(clip: comfy.sd.CLIP) -> dict[str, torch.Tensor] | None:
    """The tokens that a CLIP was taught, with their vectors; None if it is another model's CLIP."""
    inner = getattr(clip.tokenizer, f"clip_{NAME}", None)
    words = getattr(inner, "tokenizer", None)
    return words.learned if isinstance(words, LearnedWords) else None


def check_token(token: str) -> None:
    """Refuse a learned token that the host's prompts would read as something else.

    Raises:
        InputError: it holds a sign of the prompt syntax.
    """
    if any(sign in token for sign in EATEN) or token.startswith(EMBEDDING):
        raise InputError(
            expected=f"a token without {', '.join(EATEN)} and not starting with {EMBEDDING}, which prompts read as "
            "weights and names of embeddings",
            found=repr(token),
            remedy="Give it another token, such as <new1>; Load Subject can do that for a subject.",
        )
