"""Frames to an mp4 that every browser and player shows."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np

from ..errors import InputError
from ..files.writing import write_bytes
from .pixels import Frames, enlarge, to_bytes

PLAYBACK_FPS = 8
"""Frames per second at which videos are played, as on VideoCrafter2's own page; 16 of them last 2 s.

What the model is told is another number: it says how far things move from one frame to the next.
"""
SHORTEST_SIDE = 256  # pixels; players smooth what is smaller when they fill the window
# Near-lossless: these videos are short. One thread, so that the same frames give the same file on any machine.
CODEC_OPTIONS = {
    "libx264": {"crf": "14", "preset": "slow", "threads": "1"},
    "mpeg4": {"qmin": "2", "qmax": "3", "threads": "1"},
}


def write_video(path: str | Path, frames: Frames, fps: int = PLAYBACK_FPS) -> Path:
    """Write an mp4; a failure leaves what was there before.

    Args:
        path: of the file.
        frames: ``(t, h, w, 3)``, values 0 … 1; small ones are enlarged by a whole factor, without smoothing.
        fps: frames per second.

    Raises:
        InputError: no frames, another shape, NaN, or a frame rate below 1.
        OSError: the disk is full or the folder cannot be written.
    """
    return write_bytes(path, encode_video(frames, fps))


def encode_video(frames: Frames, fps: int = PLAYBACK_FPS, *, codec: str | None = None) -> bytes:
    """The bytes of an mp4: h264 where this build of PyAV has libx264, else MPEG-4 part 2.

    Args:
        frames: ``(t, h, w, 3)``, values 0 … 1.
        fps: frames per second.
        codec: one of `CODEC_OPTIONS`; by default the best there is.

    Raises:
        InputError: no frames, another shape, NaN, or a frame rate below 1.
    """
    if fps < 1:
        raise InputError(
            expected="at least one frame per second", found=f"{fps}", remedy=f"Videos here have {PLAYBACK_FPS}."
        )
    pixels = _even(enlarge(to_bytes(frames), SHORTEST_SIDE))
    codec = codec or best_codec()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps, options=CODEC_OPTIONS[codec])
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def best_codec() -> str:
    """The first of `CODEC_OPTIONS` that this build of PyAV can write."""
    return next((name for name in CODEC_OPTIONS if name in av.codecs_available and _can_encode(name)), "mpeg4")


def _can_encode(name: str) -> bool:
    try:
        return bool(av.Codec(name, "w"))
    except (ValueError, av.error.FFmpegError):  # listed, but only as a decoder
        return False


def _even(pixels: np.ndarray) -> np.ndarray:
    """Repeat the last row or column where a side is odd: colour is stored for squares of two by two pixels."""
    bottom, right = pixels.shape[1] % 2, pixels.shape[2] % 2
    return np.pad(pixels, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge") if bottom or right else pixels
