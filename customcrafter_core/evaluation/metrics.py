"""The formulas of the paper's four metrics (paper, Evaluation Metrics), on embeddings of frames, photos and prompt.

Metrics of one formula differ in the encoder: `scoring` chooses it, `encoders` has the paper's. Embeddings need not have
length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from ..errors import InputError
from ..output.pixels import Frames
from ..subject.subject import PLACEHOLDER

if TYPE_CHECKING:
    from PIL.Image import Image

    Pictures = Frames | Sequence[Image]


class ImageEncoder(Protocol):
    """Turns pictures, frames ``(n, h, w, 3)`` or PIL images, into embeddings ``(n, d)`` of length 1."""

    def images(self, pictures: Pictures) -> torch.Tensor:
        """Embeddings of pictures."""


@runtime_checkable
class ImageTextEncoder(ImageEncoder, Protocol):
    """An encoder that puts texts ``(d,)``, length 1, into the same space."""

    def text(self, text: str) -> torch.Tensor:
        """Embedding of a text."""


def text_similarity(frames: torch.Tensor, text: torch.Tensor) -> float:
    """``1/f · Σ_i cos(frame_i, text)``; frames ``(f, d)``, text ``(d,)``.

    CLIP-T is this with CLIP's embeddings.
    """
    return float((_unit(frames) @ _unit(text)).mean())


def image_similarity(frames: torch.Tensor, photos: torch.Tensor) -> float:
    """``1/(f·p) · Σ_i Σ_j cos(frame_i, photo_j)``, every frame with every photo; frames ``(f, d)``, photos ``(p, d)``.

    CLIP-I is this with CLIP's embeddings, DINO-I with the class tokens of DINO.
    """
    return float((_unit(frames) @ _unit(photos).T).mean())


def consecutive_similarity(frames: torch.Tensor) -> float:
    """``1/(f-1) · Σ_i cos(frame_i, frame_{i+1})``; frames ``(f, d)``.

    T. Cons. is this with CLIP's embeddings. A still video has 1, so it must be read beside a measure of motion.

    Raises:
        InputError: a single frame.
    """
    if len(frames) < 2:
        raise InputError(
            expected="at least two frames for temporal consistency", found=f"{len(frames)}", remedy="Give a video."
        )
    frames = _unit(frames)
    return float((frames[:-1] * frames[1:]).sum(-1).mean())


def without_tokens(prompt: str, placeholders: Sequence[str] = (PLACEHOLDER,)) -> str:
    """The prompt without the learned tokens, which CLIP does not know: ``a <new1> dog`` becomes ``a dog``."""
    for placeholder in placeholders:
        prompt = prompt.replace(placeholder, " ")
    return " ".join(prompt.split())


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeddings.double(), dim=-1)
