"""The paper's four metrics as pure functions (paper, Evaluation Metrics).

Each exists twice: on embeddings, where the formula is, and on frames ``(f, h, w, 3)``, values 0 … 1, with the encoder as
an argument. Embeddings have length 1, so a product of two is their cosine.
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
    """``1/f · Σ_i cos(frame_i, text)``; frames ``(f, d)``, text ``(d,)``."""
    return float((_unit(frames) @ _unit(text)).mean())


def image_similarity(frames: torch.Tensor, photos: torch.Tensor) -> float:
    """``1/(f·p) · Σ_i Σ_j cos(frame_i, photo_j)``; frames ``(f, d)``, photos ``(p, d)``."""
    return float((_unit(frames) @ _unit(photos).T).mean())


def consecutive_similarity(frames: torch.Tensor) -> float:
    """``1/(f-1) · Σ_i cos(frame_i, frame_{i+1})``; frames ``(f, d)``.

    Raises:
        InputError: a single frame.
    """
    if len(frames) < 2:
        raise InputError(
            expected="at least two frames for temporal consistency", found=f"{len(frames)}", remedy="Give a video."
        )
    frames = _unit(frames)
    return float((frames[:-1] * frames[1:]).sum(-1).mean())


def clip_t(
    frames: Frames,
    prompt: str,
    clip: ImageTextEncoder,
    *,
    placeholders: Sequence[str] = (PLACEHOLDER,),
    literal: bool = False,
) -> float:
    """CLIP-T: ``1/f · Σ_i cos(CLIP(frame_i), CLIP(prompt))``.

    Args:
        frames: of the video ``(f, h, w, 3)``.
        prompt: as it was sampled.
        clip: the paper's is ViT-B/32.
        placeholders: learned tokens; CLIP does not know them, so they are taken out of the prompt.
        literal: leave them in as text, as the authors' code does.
    """
    text = prompt if literal else without_tokens(prompt, placeholders)
    return text_similarity(clip.images(frames), clip.text(text))


def clip_i(frames: Frames, photos: Pictures, clip: ImageEncoder) -> float:
    """CLIP-I: ``1/(f·p) · Σ_i Σ_j cos(CLIP(frame_i), CLIP(photo_j))`` with the subject's photos."""
    return image_similarity(clip.images(frames), clip.images(photos))


def dino_i(frames: Frames, photos: Pictures, dino: ImageEncoder) -> float:
    """DINO-I: ``1/(f·p) · Σ_i Σ_j cos(DINO(frame_i), DINO(photo_j))``, class tokens; every frame with every photo."""
    return image_similarity(dino.images(frames), dino.images(photos))


def temporal_consistency(frames: Frames, clip: ImageEncoder) -> float:
    """T. Cons.: ``1/(f-1) · Σ_i cos(CLIP(frame_i), CLIP(frame_{i+1}))``.

    A still video has 1, so this must be read beside a measure of motion.
    """
    return consecutive_similarity(clip.images(frames))


def without_tokens(prompt: str, placeholders: Sequence[str] = (PLACEHOLDER,)) -> str:
    """The prompt without the learned tokens: ``a <new1> dog`` becomes ``a dog``."""
    for placeholder in placeholders:
        prompt = prompt.replace(placeholder, " ")
    return " ".join(prompt.split())


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeddings.double(), dim=-1)
