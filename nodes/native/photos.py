"""IMAGEs as photos for training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ...customcrafter_core.errors import InputError
from ...customcrafter_core.training.photos import Photo, alpha_of, checked_mask, max_side, prepared

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels of an IMAGE -> how they are read."""


def photos_of(
    images: Sequence[torch.Tensor], texts: Sequence[str], what: str, masks: Sequence[torch.Tensor] = ()
) -> list[Photo]:
    """Photos of batches, which may differ in size.

    Args:
        images: IMAGEs ``(b, h, w, c)``, 0 … 1; transparent places become white, and do not count.
        texts: one text for each photo, or a single one with a line for each; nothing for captions as the method's.
        what: the photos are, for errors.
        masks: MASKs ``(b, h, w)``, 1 where the subject is: one for each photo, or none.

    Raises:
        InputError: a picture is too small or of another kind, or captions or masks do not fit.
    """
    frames, painted = [frame for batch in images for frame in batch], [mask for batch in masks for mask in batch]
    captions = captions_of(texts, len(frames), what)
    if painted and len(painted) != len(frames):
        raise InputError(
            expected=f"a mask for each of {len(frames)} {what}",
            found=f"{len(painted)}",
            remedy="Connect as many, or none.",
        )
    longest, photos = max_side(max(len(frames), 1)), []
    for i, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        name, picture = f"number {i + 1} of the {what}", _picture(frame, what)
        photo = prepared(picture, name, longest)
        mask = _picture(painted[i][..., None], "masks") if painted else alpha_of(picture)
        photos.append(Photo(photo, caption, checked_mask(mask, photo, f"the mask of {name}")))
    return photos


def captions_of(texts: Sequence[str], count: int, what: str) -> list[str]:
    """A caption for each of ``count`` photos; empty ones if no text says anything.

    Raises:
        InputError: another number of them.
    """
    single = texts[0] if len(texts) == 1 else None
    captions = [text.strip() for text in (texts if single is None else single.splitlines())]
    if not any(captions):
        return [""] * count
    if len(captions) != count:
        raise InputError(
            expected=f"a caption for each of {count} {what}",
            found=f"{len(captions)}",
            remedy="Write one line for each, an empty one where there is nothing to say; or none at all.",
        )
    return captions


def _picture(frame: torch.Tensor, what: str) -> Image.Image:
    """A frame ``(h, w, c)`` as a picture."""
    if frame.ndim != 3 or frame.shape[-1] not in MODES:
        raise InputError(
            expected=f"pictures as {what}", found=f"a tensor {tuple(frame.shape)}", remedy="Connect an image loader."
        )
    pixels = (frame.float().cpu().nan_to_num().clamp(0, 1) * 255).round().byte().numpy()
    mode = MODES[frame.shape[-1]]
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
