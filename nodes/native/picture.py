"""Charts as IMAGEs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ...customcrafter_core.output.chart import Held, strength_chart


def strength_picture(lines: Sequence[Sequence[Held]]) -> torch.Tensor:
    """Lines of strengths, one for each step, several or None for a gap, as ``(1, h, w, 3)``, 0 … 1."""
    return as_image(strength_chart(lines))


def as_image(image: Image.Image) -> torch.Tensor:
    """A picture in RGB as an IMAGE ``(1, h, w, 3)``, 0 … 1."""
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).unsqueeze(0)
