"""CLIP and DINO from local folders in the layout of transformers; nothing is ever downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from PIL import Image

from ..errors import InputError
from ..output.pixels import to_bytes

if TYPE_CHECKING:
    from .metrics import Pictures

PICTURES_AT_ONCE = 16
CLIP_NAME, DINO_NAME = "CLIP ViT-B/32", "DINO ViT-S/16"
CLIP_SOURCE, DINO_SOURCE = "openai/clip-vit-base-patch32", "facebook/dino-vits16"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER = (("tokenizer.json", "vocab.json"), ("tokenizer.json", "merges.txt"))


class ClipEncoder:
    """CLIP's image and text towers with their projections."""

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        """Args:
        folder: as `CLIP_SOURCE` is published, or another CLIP of that kind.
        device: where it computes, in float32.

        Raises:
            InputError: files are absent, which are named, or the folder holds another kind of model.
        """
        config = _check_folder(Path(folder), "clip", CLIP_NAME, CLIP_SOURCE, more=TOKENIZER)
        options: dict[str, Any] = {"local_files_only": True}
        self._model = transformers.CLIPModel.from_pretrained(folder, **options)
        self._model.float().eval().requires_grad_(False).to(device)
        self._tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, **options)
        self._prepare = _pil_processor("CLIPImageProcessor").from_pretrained(folder, **options)
        self._device = torch.device(device)
        vision = config["vision_config"]
        found = (vision.get("patch_size", 32), vision.get("hidden_size", 768), config.get("projection_dim", 512))
        self.is_papers = found == (32, 768, 512)
        """Whether its sizes are those of the paper's ViT-B/32."""

    @torch.inference_mode()
    def images(self, pictures: Pictures) -> torch.Tensor:
        """Embeddings ``(n, d)``, length 1, on the CPU, of frames ``(n, h, w, 3)`` or PIL images."""
        parts = []
        for pixels in _prepared(pictures, self._prepare):
            pooled = self._model.vision_model(pixels.to(self._device)).pooler_output
            parts.append(self._model.visual_projection(pooled).cpu())
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    @torch.inference_mode()
    def text(self, text: str) -> torch.Tensor:
        """Embedding ``(d,)``, length 1, on the CPU; what is behind CLIP's last position is cut off."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], truncation=True, max_length=length, return_tensors="pt").to(self._device)
        pooled = self._model.text_model(**tokens).pooler_output
        return torch.nn.functional.normalize(self._model.text_projection(pooled)[0].cpu(), dim=-1)


class DinoEncoder:
    """DINO's vision transformer; the embedding is the class token behind the last norm."""

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        """Args:
        folder: as `DINO_SOURCE` is published.
        device: where it computes, in float32.

        Raises:
            InputError: files are absent, which are named, or the folder holds another kind of model, such as DINOv2.
        """
        config = _check_folder(Path(folder), "vit", DINO_NAME, DINO_SOURCE)
        options: dict[str, Any] = {"local_files_only": True}
        self._model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False, **options)
        self._model.float().eval().requires_grad_(False).to(device)
        self._prepare = _pil_processor("ViTImageProcessor").from_pretrained(folder, **options)
        self._device = torch.device(device)
        self.is_papers = (config.get("patch_size"), config.get("hidden_size")) == (16, 384)
        """Whether its sizes are those of the paper's ViT-S/16."""

    @torch.inference_mode()
    def images(self, pictures: Pictures) -> torch.Tensor:
        """Embeddings ``(n, d)``, length 1, on the CPU, of frames ``(n, h, w, 3)`` or PIL images."""
        parts = [
            self._model(pixels.to(self._device)).last_hidden_state[:, 0].cpu()
            for pixels in _prepared(pictures, self._prepare)
        ]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def _pil_processor(name: str) -> Any:
    """The image processor that computes by Pillow: from transformers 5 on it has a name of its own.

    The other one computes by torchvision, and gives slightly other numbers.
    """
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def _prepared(pictures: Pictures, prepare: Any) -> list[torch.Tensor]:
    images = as_images(pictures)
    chunks = [images[start : start + PICTURES_AT_ONCE] for start in range(0, len(images), PICTURES_AT_ONCE)]
    return [prepare(chunk, return_tensors="pt")["pixel_values"] for chunk in chunks]


def as_images(pictures: Pictures) -> list[Image.Image]:
    """Frames ``(n, h, w, 3)``, values 0 … 1, or PIL images, as RGB images.

    Raises:
        InputError: none, another shape, or NaN.
    """
    if isinstance(pictures, (np.ndarray, torch.Tensor)):
        return [Image.fromarray(frame) for frame in to_bytes(pictures)]
    if not pictures:
        raise InputError(expected="at least one picture", found="none", remedy="Give the subject's photos.")
    return [picture.convert("RGB") for picture in pictures]


def files_of(folder: Path) -> list[Path]:
    """The files of a model's folder that decide what it computes, in a fixed order."""
    weights = [file for file in WEIGHTS if (folder / file).is_file()][:1]  # the first one is read
    names = [
        "config.json",
        "preprocessor_config.json",
        *weights,
        *sorted({file for group in TOKENIZER for file in group}),
    ]
    return [folder / name for name in names if (folder / name).is_file()]


def _check_folder(
    folder: Path, kind: str, name: str, source: str, *, more: Sequence[Sequence[str]] = ()
) -> dict[str, Any]:
    """The config of a model's folder, in which every group of alternative files must have one member."""
    remedy = f"Copy the files of {source} there; this program downloads nothing by itself."
    if not folder.is_dir():
        raise InputError(expected=f"a folder with {name}", found=f"nothing at {folder}", remedy=remedy)
    groups = [("config.json",), ("preprocessor_config.json",), WEIGHTS, *more]
    absent = [" or ".join(group) for group in groups if not any((folder / file).is_file() for file in group)]
    if absent:
        raise InputError(expected=f"{name} in {folder}", found=f"no {', no '.join(absent)} there", remedy=remedy)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(
            expected=f"the settings of {name}", found=f"no JSON in {folder / 'config.json'}", remedy=remedy
        ) from error
    if found != kind:
        raise InputError(expected=f"{name} in {folder}", found=f"a model of type {found!r}", remedy=remedy)
    return dict(config)
