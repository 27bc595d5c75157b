"""The gate a base model of creatures must pass to be shipped as the demo's.

Run: .venv/bin/python -m benchmarks.creature_gate --base BASE.safetensors --out FOLDER

Makes clips from fresh prompts and noise with the pack's own sampler, measures them, and writes gate.json and sheets to look
at: clips as asked, and clips whose prompt changed after K steps.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.demo_base_clips import CLIPS_AT_ONCE, sample_switched
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.demo import creature_measures as measures
from customcrafter_core.demo import creatures as world
from customcrafter_core.demo.creatures import Look, Scene
from customcrafter_core.diffusion.schedule import STEPS, NoiseSchedule
from customcrafter_core.files.writing import write_json
from tools.demo_base.data import Captions
from tools.demo_base.probes import Probes

SWITCH = 15


@dataclass(frozen=True)
class Gate:
    """Shares of right clips; ``direction`` counts moving prompts and ``still`` still ones.

    ``name``: of clips whose prompt names marks, the share more like these than like any decoy. ``sameness``: median
    correlation of the marks between neighbouring frames. ``wrong_name``: least penalty of another name at t = 200 … 400.
    ``committed``, ``open``: with the prompt changed after 15 of 50 steps, the share that moves as first asked, and the
    share whose marks are more like those of the later name.
    """

    direction: float
    still: float
    kind: float
    background: float
    name: float
    sameness: float
    wrong_name: float
    committed: float
    open: float
    clips: int

    @property
    def passed(self) -> bool:
        """Good enough to ship."""
        return (
            min(self.direction, self.kind) >= 0.95
            and min(self.still, self.committed) >= 0.9
            and min(self.wrong_name, self.open) >= 0.5
        )


def asked_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes to ask for: motions in turn, every second one with named marks."""
    rng, motions = np.random.default_rng([seed, 31]), list(world.MOTIONS)
    return [
        world.sample_scene(rng, named_share=float(i % 2), motion_weights={motions[i % len(motions)]: 1.0})
        for i in range(count)
    ]


def turning_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes of moving creatures with named marks, directions in turn."""
    rng, motions = np.random.default_rng([seed, 37]), list(world.OPPOSITE)
    return [
        world.sample_scene(rng, named_share=1.0, motion_weights={motions[i % len(motions)]: 1.0}) for i in range(count)
    ]


def make(
    model: VideoCrafter2, first: Sequence[str], later: Sequence[str], switch: int, *, seed: int, steps: int
) -> np.ndarray:
    """Clips ``(n, f, h, w, 3)``, uint8, whose prompts change after ``switch`` steps."""
    parts = range(0, len(first), CLIPS_AT_ONCE)
    return np.concatenate(
        [
            sample_switched(
                model,
                first[i : i + CLIPS_AT_ONCE],
                later[i : i + CLIPS_AT_ONCE],
                switch,
                seed=seed * 1000 + i,
                steps=steps,
            )
            for i in parts
        ]
    )


def judge(clips: np.ndarray, scenes: Sequence[Scene]) -> dict[str, list[float]]:
    """What is right in each clip: direction, still, kind, background, name and sameness."""
    found: dict[str, list[float]] = {k: [] for k in ("direction", "still", "kind", "background", "name", "sameness")}
    for clip, scene in zip(clips, scenes, strict=True):
        background = measures.background_of(clip)
        seen = measures.find_creature(clip, background)
        right = seen.present and measures.moves(seen, scene.motion)
        found["still" if scene.motion == "still" else "direction"].append(right)
        found["kind"].append(seen.present and seen.kind == scene.look.kind)
        found["background"].append(background == scene.background)
        found["sameness"].append(measures.sameness(clip, seen))
        if scene.name:
            found["name"].append(measures.recognised(clip, replace(seen, kind=scene.look.kind), scene.look))
    return found


def turned(scene: Scene) -> Scene:
    """The same creature with other marks, going the other way."""
    name = world.NAMES[(world.NAMES.index(scene.name) + 5) % len(world.NAMES)]
    look = Look(scene.look.kind, world.named_marks()[name])
    return replace(scene, motion=world.OPPOSITE[scene.motion], name=name, look=look)


def judge_switched(clips: np.ndarray, scenes: Sequence[Scene]) -> tuple[list[bool], list[bool]]:
    """Of clips whose prompt turned, which move as first asked, and which have the marks asked for later."""
    moves_first, later_marks = [], []
    for clip, scene in zip(clips, scenes, strict=True):
        seen = replace(measures.find_creature(clip, measures.background_of(clip)), kind=scene.look.kind)
        moves_first.append(measures.moves(seen, scene.motion))
        first, later = measures.likeness(clip, seen, [scene.look, turned(scene).look])
        later_marks.append(bool(later > first))
    return moves_first, later_marks


def wrong_name_penalties(model: VideoCrafter2) -> dict[str, float]:
    """All of training's probes, of the finished model."""

    def denoise(noisy: torch.Tensor, t: torch.Tensor, text: torch.Tensor, fps: torch.Tensor) -> torch.Tensor:
        return model.unet(noisy, t, text, timestep_cond=fps).sample

    return Probes(Captions(), NoiseSchedule.videocrafter2(), timesteps=(200, 300, 400))(denoise)


def write_sheet(path: Path, clips: Sequence[np.ndarray], scale: int = 2) -> None:
    """Write clips ``(f, h, w, 3)`` as a picture, a row each, enlarged without smoothing."""
    rows = np.concatenate([np.concatenate(list(clip), axis=1) for clip in clips])
    Image.fromarray(rows.repeat(scale, 0).repeat(scale, 1)).save(path)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--clips", type=int, default=60, help="as asked, and a third as many with a changed prompt")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_videocrafter2(options.base)
    scenes = asked_scenes(options.clips, options.seed)
    captions = [scene.caption for scene in scenes]
    clips = make(model, captions, captions, 0, seed=options.seed, steps=options.steps)
    named = turning_scenes(options.clips // 3, options.seed + 1)
    later = [turned(scene).caption for scene in named]
    switch = round(SWITCH * options.steps / STEPS)
    first = [scene.caption for scene in named]
    switched = make(model, first, later, switch, seed=options.seed + 1, steps=options.steps)
    probes = wrong_name_penalties(model)
    committed, later_marks = judge_switched(switched, named)
    gate = Gate(
        **{name: float(np.mean(values)) for name, values in judge(clips, scenes).items()},
        wrong_name=min(value for name, value in probes.items() if name.startswith("name")),
        committed=float(np.mean(committed)),
        open=float(np.mean(later_marks)),
        clips=options.clips,
    )
    record = {"passed": gate.passed, **asdict(gate), "steps": options.steps, "probes": probes, "prompts": captions}
    write_json(options.out / "gate.json", record)
    for name, made in (("asked", clips), ("switched", switched)):
        write_sheet(options.out / f"gate_{name}.png", made[:20])
    print("\n".join(f"{name}: {value}" for name, value in record.items() if name != "prompts"))


if __name__ == "__main__":
    main()
