"""A small report folder of three methods, for tests of the preference page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from customcrafter_core.experiments.report_folder import ReportVideo, ReportVideos
from customcrafter_core.output.video import write_video

METHODS = ("customcrafter", "custom_diffusion", "dreamvideo")
PROMPTS = ("a <new1> cup on a table", 'a <new1> cup, "spinning" </script><b>fast</b>', "a <new1> cup in the snow")


def write_report(folder: Path) -> Path:
    """Three methods, one subject, three prompts, one seed: a box that moves on a colour."""
    videos = []
    for m, method in enumerate(METHODS):
        for p, prompt in enumerate(PROMPTS):
            file = f"videos/{method}-{p}.mp4"
            frames = np.zeros((8, 32, 32, 3), np.float32)
            frames[..., m] = 0.3 + 0.2 * p
            for i, frame in enumerate(frames):
                frame[12:20, 2 * i + 4 : 2 * i + 12] = 1
            write_video(folder / file, frames, 8)
            videos.append(ReportVideo(file, method, "cup", prompt, 7))
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), "orange").save(folder / "photos" / "cup.png")
    ReportVideos(videos, {"cup": ["photos/cup.png"]}).write(folder)
    return folder
