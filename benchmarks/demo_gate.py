"""The gate a base model must pass to be shipped as the demo's: clips made from fresh prompts and noise, measured.

Run: .venv/bin/python -m benchmarks.demo_gate     (about five minutes on one core)

Writes benchmarks/demo_gate.json and a sheet of each kind of clips: plain shapes, a shape beside a second object, toys whose
caption names everything. Without --base, of the base model that comes with the project.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import demo_measures as measures
from benchmarks.demo_base_clips import ClipGenerator, clip_generator
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.demo import demo_checkpoint, world
from customcrafter_core.demo.codec import held_out_psnr
from customcrafter_core.demo.world import Scene
from customcrafter_core.files.writing import write_json


@dataclass(frozen=True)
class Gate:
    """Shares of right clips over fresh prompts and noise; ``direction`` counts moving prompts, ``still`` still ones.

    The first five are of plain shapes alone. ``composition`` is of plain shapes beside a second object: both there, the
    first in its colour. ``look`` and ``flicker`` are of moving toys whose caption names shape, pattern and two colours:
    the share nearer to that look than to any decoy, and the median of `measures.flicker`.
    """

    colour: float
    background: float
    direction: float
    still: float
    shape: float
    composition: float
    composed_motion: float
    look: float
    flicker: float
    clips: int

    @property
    def passed(self) -> bool:
        """Good enough to ship."""
        return (
            min(self.colour, self.background) >= 0.95
            and self.direction >= 0.9
            and min(self.still, self.composition) >= 0.8
        )


def gate_scenes(count: int, seed: int) -> list[Scene]:
    """``count`` scenes of plain shapes to ask for, every motion equally often, the rest drawn."""
    rng = np.random.default_rng([seed, 31])
    answers = [scene for _, scene in world.gate_prompts()]
    by_motion = {name: [s for s in answers if s.motion == name] for name in world.MOTIONS}
    order = [list(world.MOTIONS)[i % len(world.MOTIONS)] for i in range(count)]
    return [by_motion[name][int(rng.integers(len(by_motion[name])))] for name in order]


def composed_scenes(count: int, seed: int) -> list[Scene]:
    """``count`` scenes of a plain shape beside a second object, every motion equally often."""
    rng = np.random.default_rng([seed, 37])
    motions = [list(world.MOTIONS)[i % len(world.MOTIONS)] for i in range(count)]
    return [world.sample_scene(rng, toy_share=0.0, thing_share=1.0, motion_weights={motion: 1.0}) for motion in motions]


def toy_scenes(count: int, seed: int) -> list[Scene]:
    """``count`` scenes of moving toys in two colours, fully named."""
    rng = np.random.default_rng([seed, 41])
    moving = [name for name in world.MOTIONS if name != "still"]
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = world.sample_scene(rng, toy_share=1.0, motion_weights={moving[len(scenes) % len(moving)]: 1.0})
        if scene.look.pattern != "plain" and world.full_name(scene.look) in scene.caption:
            scenes.append(scene)
    return scenes


def evaluate_gate(generate: ClipGenerator, *, count: int = 60, seed: int = 1000) -> tuple[Gate, dict[str, np.ndarray]]:
    """Measure a base model on ``count`` clips of plain shapes, a third as many of two objects and of toys.

    Returns:
        The gate's numbers, and the clips by kind: ``plain``, ``composed``, ``toys``.
    """
    asked = {
        "plain": gate_scenes(count, seed),
        "composed": composed_scenes(count // 3, seed),
        "toys": toy_scenes(count // 3, seed),
    }
    clips = {
        kind: generate([scene.caption for scene in scenes], seed + i) for i, (kind, scenes) in enumerate(asked.items())
    }
    plain, composed = (
        [measures.judge(clip, scene) for clip, scene in zip(clips[kind], asked[kind], strict=True)]
        for kind in ("plain", "composed")
    )
    motions = [scene.motion for scene in asked["plain"]]
    looks = [scene.look for scene in asked["toys"]]
    gate = Gate(
        colour=_share(v.colour for v in plain),
        background=_share(v.background for v in plain),
        direction=_share(v.motion for v, motion in zip(plain, motions, strict=True) if motion != "still"),
        still=_share(v.motion for v, motion in zip(plain, motions, strict=True) if motion == "still"),
        shape=_share(v.shape for v in plain),
        composition=_share(v.thing and v.colour for v in composed),
        composed_motion=_share(v.motion for v in composed),
        look=_share(
            measures.subject_similarity(clip, look) > 0 for clip, look in zip(clips["toys"], looks, strict=True)
        ),
        flicker=float(np.nanmedian([measures.flicker(clip) for clip in clips["toys"]])),
        clips=count,
    )
    return gate, clips


def _share(values: Iterable[bool]) -> float:
    return float(np.mean(list(values)))


def write_sheet(path: Path, clips: Sequence[np.ndarray], scale: int = 4) -> None:
    """Write clips ``(f, h, w, 3)`` as a picture, a row each, enlarged without smoothing."""
    rows = np.concatenate([np.concatenate(list(clip), axis=1) for clip in clips])
    Image.fromarray(rows.repeat(scale, 0).repeat(scale, 1)).save(path)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=demo_checkpoint(), help="checkpoint")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    parser.add_argument("--clips", type=int, default=60, help="of plain shapes, and a third as many of the others")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_videocrafter2(options.base)
    psnr = held_out_psnr(model.vae)
    gate, clips = evaluate_gate(clip_generator(model), count=options.clips)
    record = {"passed": gate.passed, **asdict(gate), "autoencoder, dB": psnr}
    print(write_json(options.out / "demo_gate.json", record))
    for kind, videos in clips.items():
        write_sheet(options.out / f"demo_gate_{kind}.png", videos[:15], scale=2)
    print("\n".join(f"{name}: {value}" for name, value in record.items()))


if __name__ == "__main__":
    main()
