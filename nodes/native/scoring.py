"""The models that score a video: the host's CLIP_VISION, or transformers' from the host's folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as memory
import torch
from transformers.utils import logging

from ...customcrafter_core.errors import InputError
from ...customcrafter_core.evaluation.encoders import as_images
from ...customcrafter_core.evaluation.scoring import Scorer, open_scorer
from .picture import as_image

if TYPE_CHECKING:
    from ...customcrafter_core.evaluation.metrics import Pictures

NEEDED = 3 * 2**30  # bytes: CLIP, DINO and RAFT with what they compute
PAPERS = (32, 768, 512)  # patch, width and projection of ViT-B/32


class HostClipVision:
    """The host's CLIP_VISION as an encoder of pictures; it knows no texts."""

    def __init__(self, vision: Any) -> None:
        """Args:
        vision: of Load CLIP Vision.

        Raises:
            InputError: an encoder of another kind, whose embeddings are not CLIP's.
        """
        projection = getattr(vision.model, "visual_projection", None)
        if not isinstance(projection, torch.nn.Linear):
            raise InputError(
                expected="a CLIP_VISION that is CLIP",
                found="another image encoder (SigLIP, DINOv2 or one without CLIP's projection)",
                remedy="Load a CLIP with Load CLIP Vision, or choose a folder with one in clip.",
            )
        self._vision = vision
        patch = vision.model.vision_model.embeddings.patch_embedding.weight.shape[-1]
        self.is_papers = (patch, projection.in_features, projection.out_features) == PAPERS
        """Whether its sizes are those of the paper's ViT-B/32."""

    def images(self, pictures: Pictures) -> torch.Tensor:
        """Embeddings ``(n, d)``, length 1, on the CPU, of frames ``(n, h, w, 3)`` or PIL images."""
        encoded = [self._vision.encode_image(as_image(image))["image_embeds"] for image in as_images(pictures)]
        return torch.nn.functional.normalize(torch.cat(encoded).float().cpu(), dim=-1)


def scorer_with(
    *, vision: Any = None, clip: Path | None = None, dino: Path | None = None, raft: Path | None = None, literal: bool
) -> Scorer:
    """The models that are given, on the host's device, for which its models make room.

    Raises:
        InputError: two CLIPs, or a folder or file that cannot be used.
    """
    if vision is not None and clip is not None:
        raise InputError(
            expected="one CLIP", found="a CLIP_VISION and a folder", remedy="Disconnect the one, or choose none."
        )
    device = memory.get_torch_device()
    if clip or dino or raft:
        memory.free_memory(NEEDED, device)
        logging.disable_progress_bar()
    scorer = open_scorer(clip=clip, dino=dino, raft_weights=raft, literal=literal, device=device)
    return scorer if vision is None else replace(scorer, clip=HostClipVision(vision))
