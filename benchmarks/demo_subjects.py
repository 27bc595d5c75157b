"""Write the photos and prior pictures of the demo benchmark (benchmarks/demo.json).

Run: .venv/bin/python -m benchmarks.demo_subjects
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from customcrafter_core.demo import world

FOLDER = Path(__file__).parent / "demo"
SUBJECTS = {
    "orange-square": world.HELD_OUT["square-orange"],
    "star": world.HELD_OUT["star-red-yellow"],
    "cross": world.HELD_OUT["cross-red-cyan"],
}
"""Folder -> what it looks like."""
PRIOR = 12


def write(folder: Path, scenes: list[world.Scene]) -> None:
    """Write a still picture of each scene with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(scenes):
        Image.fromarray(world.render_scene(scene, 1)[0]).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(world.caption_for("{}", "still", scene.background) + "\n")


def main() -> None:
    """Write everything."""
    for name, look in SUBJECTS.items():
        write(FOLDER / name, world.subject_scenes(look))
    rng = np.random.default_rng(1)
    others = [world.sample_scene(rng, toy_share=1.0, motion_weights={"still": 1.0}) for _ in range(PRIOR)]
    write(FOLDER / f"prior-{world.CLASS_WORD}", others)


if __name__ == "__main__":
    main()
