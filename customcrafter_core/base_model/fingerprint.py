"""Tell one base model from another by a few numbers that survive a change of dtype."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from diffusers import UNet3DConditionModel

from .config import VIDEOCRAFTER2

SAMPLED = ("conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight")
NUMBERS = 8
TOLERANCE = 0.03  # relative; bfloat16 moves the numbers by about 0.003, other training by about 1


def fingerprint(unet: UNet3DConditionModel) -> str:
    """A short text: the network's widths and `NUMBERS` projections of some of its weights.

    Each weight tensor is multiplied with fixed pseudo-random signs, so that any training of it shows.
    """
    numbers = torch.zeros(NUMBERS, dtype=torch.float64)
    for name in SAMPLED:
        weight = unet.get_parameter(name).detach().flatten().to("cpu", torch.float64)
        signs = (
            torch.randint(0, 2, (NUMBERS, weight.numel()), generator=torch.Generator().manual_seed(len(name))) * 2 - 1
        )
        numbers += (signs.double() @ weight) / weight.norm().clamp(min=1e-12)
    config = unet.config
    sizes = joined_widths(config.block_out_channels, config.cross_attention_dim)
    return json.dumps({"widths": sizes, "numbers": [round(number, 5) for number in numbers.tolist()]})


def joined_widths(channels: Sequence[int], context_dim: int) -> str:
    """Channels of the network's levels and the width of the text, as a fingerprint has them."""
    return "-".join(str(width) for width in (*channels, context_dim))


def same_base(first: str, second: str) -> bool:
    """Whether two fingerprints belong to the same weights, whatever dtype they were taken in."""
    try:
        a, b = json.loads(first), json.loads(second)
        return a["widths"] == b["widths"] and _close(a["numbers"], b["numbers"])
    except (ValueError, KeyError, TypeError, RuntimeError):
        return False


def read_widths(text: str) -> str:
    """The network's widths in a fingerprint, such as ``320-640-1280-1280-1024``; empty if it is none."""
    try:
        return str(json.loads(text)["widths"])
    except (ValueError, KeyError, TypeError):
        return ""


def shorten(text: str) -> str:
    """A fingerprint as a person compares it: widths and the first numbers, rounded to what a change of dtype leaves."""
    try:
        content = json.loads(text)
        return f"{content['widths']} / {' '.join(f'{number:.1f}' for number in content['numbers'][:4])}"
    except (ValueError, KeyError, TypeError):
        return text[:40]


def describe_base(fingerprint: str, known: Mapping[str, str]) -> str:
    """The base model as far as its fingerprint tells, and the fingerprint in short.

    VideoCrafter2 is named by its size: a fine-tune of it has the same, but other numbers.

    Args:
        fingerprint: empty where none was recorded.
        known: fingerprint -> name of models that are told from others of their size.
    """
    if not fingerprint:
        return "not recorded"
    full = joined_widths(VIDEOCRAFTER2.unet.block_out_channels, VIDEOCRAFTER2.unet.cross_attention_dim)
    by_size = "VideoCrafter2 or one of its size" if read_widths(fingerprint) == full else "another model"
    name = next((name for one, name in known.items() if same_base(fingerprint, one)), by_size)
    return f"{name} ({shorten(fingerprint)})"


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    return a.shape == b.shape and bool((a - b).norm() <= TOLERANCE * a.norm())
