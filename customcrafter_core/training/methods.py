"""What each method trains: the paper's own and its baselines, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Change(Enum):
    """How the UNet is changed."""

    NOTHING = "nothing"
    LORA = "lora"
    FULL_DIFFERENCE = "full difference"
    """Every entry of the weight moves; kept as factors of full rank, of which one is the identity."""
    IDENTITY_ADAPTER = "identity adapter"
    """A bottleneck beside cross-attention."""


@dataclass(frozen=True)
class Method:
    """The layers that a method changes besides learning V*."""

    title: str
    change: Change
    layers: tuple[str, ...] = ()
    """Endings of the names of linear layers in spatial transformer blocks."""
    trains_token: bool = True
    """Whether V* goes on learning in the main stage."""


_CROSS = ("attn2.to_q", "attn2.to_k", "attn2.to_v")

METHODS: dict[str, Method] = {
    "customcrafter": Method(
        "CustomCrafter (paper, SSLM)", Change.LORA, ("attn1.to_q", "attn1.to_k", "attn1.to_v", *_CROSS)
    ),
    "lora_cross_only": Method("LoRA on cross-attention only", Change.LORA, _CROSS),
    "custom_diffusion": Method(
        "Custom Diffusion (Kumari et al. 2023)", Change.FULL_DIFFERENCE, ("attn2.to_k", "attn2.to_v")
    ),
    "dreamvideo": Method("DreamVideo, subject part (Wei et al. 2024)", Change.IDENTITY_ADAPTER, trains_token=False),
    "textual_inversion": Method("Textual inversion (Gal et al. 2022)", Change.NOTHING),
}
