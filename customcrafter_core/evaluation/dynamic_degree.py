"""Dynamic degree: whether a video moves, by optical flow, after VBench's rule (Huang et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..errors import InputError
from ..output.pixels import Frames, to_bytes
from .motion import top_mean

FASTEST = 0.05  # share of the pixels whose flow counts
THRESHOLD = 6.0  # pixels from frame to frame at a short side of `AT_SIDE`
AT_SIDE = 256
MOVING_PAIRS = 4 / 16  # of the frames
VBENCH_FPS = 8  # faster videos are thinned out to this
ITERATIONS = 20
SMALLEST_SIDE = 128  # RAFT's correlation pyramid takes no less
RAFT_NAME = "raft_large_C_T_SKHT_V2"

Flow = Callable[[Frames], np.ndarray]
"""``frames (f, h, w, 3) -> displacements (f - 1, H, W, 2)`` in the frames' pixels, (x, y), on a grid of any fineness."""


def is_dynamic(frames: Frames, flow: Flow, *, fps: int = VBENCH_FPS, threshold: float = THRESHOLD) -> bool:
    """Whether a video moves; the dynamic degree of several videos is the share of those that do.

    With ``s_i`` the mean length of the longest 5 % of the flow from frame ``i`` to the next: it moves if
    ``s_i > threshold · short side / 256`` for at least ``round(4 · f / 16)`` pairs, and at least one.

    Args:
        frames: ``(f, h, w, 3)``, values 0 … 1.
        flow: such as `raft`.
        fps: of the video; only every ``round(fps / 8)``-th frame is used, as in VBench. Of a video too short for
            that the first and the last are.
        threshold: VBench's is 6.

    Raises:
        InputError: fewer than two frames.
    """
    if len(frames) < 2:
        raise InputError(expected="at least two frames", found=f"{len(frames)}", remedy="Give a video.")
    kept = np.asarray(frames)[:: min(max(round(fps / VBENCH_FPS), 1), len(frames) - 1)]
    return moves(flow_speeds(flow(kept)), len(kept), min(kept.shape[1:3]), threshold)


def flow_speeds(flow: np.ndarray) -> np.ndarray:
    """Mean length of the longest 5 % of the displacements ``(f - 1, H, W, 2)``, per pair ``(f - 1,)``."""
    lengths = np.hypot(flow[..., 0], flow[..., 1])
    return np.array([top_mean(pair, FASTEST) for pair in lengths])


def moves(speeds: Sequence[float] | np.ndarray, frames: int, short_side: int, threshold: float = THRESHOLD) -> bool:
    """VBench's rule on the speeds of all pairs, in pixels."""
    fast = int((np.asarray(speeds) > threshold * short_side / AT_SIDE).sum())
    return fast >= max(round(MOVING_PAIRS * frames), 1)


def raft(weights: str | Path, device: str | torch.device = "cpu") -> Flow:
    """RAFT of torchvision with local weights.

    Args:
        weights: the file of ``raft_large`` as torchvision publishes it (`RAFT_NAME`), .pth or .safetensors.
        device: where it computes, in float32.

    Raises:
        InputError: torchvision is not installed, there is no such file, or it holds other weights.
    """
    path = Path(weights)
    if not path.is_file():
        raise InputError(
            expected=f"the weights of RAFT ({RAFT_NAME})", found=f"nothing at {path}", remedy="Give torchvision's file."
        )
    model = _raft_large()
    try:
        model.load_state_dict(_read_state(path))
    except Exception as error:  # the readers raise many kinds for a file that is none
        raise InputError(
            expected=f"the weights of torchvision's raft_large ({RAFT_NAME})",
            found=f"other content in {path.name}",
            remedy="Download that file again.",
        ) from error
    model.eval().requires_grad_(False).to(device)

    @torch.inference_mode()
    def flow(frames: Frames) -> np.ndarray:
        video = torch.from_numpy(to_bytes(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        height, width = video.shape[2:]
        scale = max(SMALLEST_SIDE / min(height, width), 1.0)
        if scale > 1:
            video = functional.interpolate(video, scale_factor=scale, mode="bilinear", align_corners=False)
        tall, wide = video.shape[2:]
        video = functional.pad(video, [0, -wide % 8, 0, -tall % 8], mode="replicate").to(device)
        pairs = zip(video[:-1].split(1), video[1:].split(1), strict=True)
        flows = [model(a, b, num_flow_updates=ITERATIONS)[-1][0, :, :tall, :wide].cpu() for a, b in pairs]
        return np.asarray(torch.stack(flows).permute(0, 2, 3, 1).numpy() / scale)

    return flow


def _raft_large() -> Any:
    try:
        from torchvision.models.optical_flow import raft_large
    except ImportError as error:
        raise InputError(
            expected="torchvision, whose RAFT measures the dynamic degree",
            found="none installed",
            remedy="Install the torchvision that belongs to your torch (ComfyUI has it), or leave RAFT away.",
        ) from error
    return raft_large(weights=None)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    return dict(torch.load(path, map_location="cpu", weights_only=True))
