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
    "orange-square": (world.Look("square", "plain", ("orange", "orange")), "square"),
    "star": (world.HELD_OUT["star-red-yellow"], "toy"),
    "cross": (world.HELD_OUT["cross-red-cyan"], "toy"),
}
"""Name -> what it looks like, and its class word."""
PRIOR = 12


def write(folder: Path, scenes: list[world.Scene]) -> None:
    """Write a still picture of each scene with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(scenes):
        Image.fromarray(world.render_scene(scene, 1)[0]).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(world.caption_for("{}", "still", scene.background) + "\n")


def of_class(word: str) -> list[world.Scene]:
    """Still scenes with other things of the class."""
    rng, scenes = np.random.default_rng(1), []
    while len(scenes) < PRIOR:
        toys = 1.0 if word == world.CLASS_WORD else 0.0
        scene = world.sample_scene(rng, toy_share=toys, motion_weights={"still": 1.0})
        if toys or scene.look.shape == word:
            scenes.append(scene)
    return scenes


def main() -> None:
    """Write everything."""
    for name, (look, word) in SUBJECTS.items():
        write(FOLDER / name, world.subject_scenes(look))
        write(FOLDER / f"prior-{word}", of_class(word))


if __name__ == "__main__":
    main()
