"""The paper's Tables 1 and 2, and the benchmark method of each row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: CLIP-T, CLIP-I, DINO-I, temporal consistency."""

    method: str
    """Its name in the benchmark."""
    label: str
    values: tuple[float, float, float, float]


TABLE_1 = (
    PaperRow("custom_diffusion", "Custom Diffusion", (0.289, 0.759, 0.546, 0.990)),
    PaperRow("custom_diffusion_long", "Custom Diffusion*", (0.286, 0.769, 0.583, 0.992)),
    PaperRow("dreamvideo", "DreamVideo", (0.298, 0.724, 0.489, 0.992)),
    PaperRow("dreamvideo_long", "DreamVideo*", (0.295, 0.748, 0.536, 0.993)),
    PaperRow("customcrafter", "CustomCrafter", (0.318, 0.786, 0.627, 0.994)),
)
TABLE_2 = (
    PaperRow("custom_diffusion_long", "Custom Diffusion*", (0.286, 0.769, 0.583, 0.992)),
    PaperRow("sslm", "SSLM", (0.294, 0.790, 0.631, 0.993)),
    PaperRow("customcrafter", "SSLM and DWVSS", (0.318, 0.786, 0.627, 0.994)),
)
