"""Videos back from their files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from ..errors import InputError
from ..output.video import PLAYBACK_FPS


def read_video(path: str | Path) -> tuple[np.ndarray, int]:
    """All frames ``(f, h, w, 3)``, float32, values 0 … 1, and the frames per second, rounded.

    Raises:
        InputError: no such file, or one that is no video.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(expected="a video", found=f"nothing at {path}", remedy="Check the path.")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            fps = stream.average_rate or PLAYBACK_FPS
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(expected="a video", found=f"{path.name}, which is none", remedy="Leave it out.") from error
    if not frames:
        raise InputError(expected="a video", found=f"{path.name} without frames", remedy="Leave it out.")
    return np.stack(frames).astype(np.float32) / 255, max(round(float(fps)), 1)
