"""The training clips, drawn and encoded once: a pool of latents with captions and motions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import world
from .codec import encode_clip, load_codec
from .workers import Report, load_state, run_workers, save_state

SHARDS = 4
"""The pool is built in this many parts, so that its content does not depend on the number of workers."""
MOTION_NAMES = tuple(world.MOTIONS)


@dataclass(frozen=True)
class ClipPool:
    """Encoded clips.

    Attributes:
        latents: ``(n, 4, f, h, w)``, half precision, scaled for the diffusion.
        captions: the different captions.
        caption_index: ``(n,)``, which caption each clip has.
        motion_index: ``(n,)``, into :data:`MOTION_NAMES`.
    """

    latents: torch.Tensor
    captions: tuple[str, ...]
    caption_index: torch.Tensor
    motion_index: torch.Tensor

    def by_motion(self) -> list[np.ndarray]:
        """For each motion, the clips that have it."""
        return [np.flatnonzero(self.motion_index.numpy() == i) for i in range(len(MOTION_NAMES))]


def encode_scenes(codec_path: Path, scenes: list[world.Scene], device: str = "cpu") -> torch.Tensor:
    """Draw and encode scenes: ``(n, 4, f, h, w)`` in half precision. Still clips are encoded once."""
    codec = load_codec(codec_path).to(device)
    latents = []
    for scene in scenes:
        if scene.motion == "still":
            latent = encode_clip(codec, world.render_scene(scene, 1)).expand(-1, world.FRAMES, -1, -1)
        else:
            latent = encode_clip(codec, world.render_scene(scene))
        latents.append(latent.half().cpu())
    return torch.stack(latents)


def _shard_path(work_dir: Path, shard: int) -> Path:
    return work_dir / f"clips_{shard}.safetensors"


def _build_worker(rank: int, workers: int, settings: dict[str, Any], report: Report | None) -> None:
    work_dir = Path(settings["work_dir"])
    for shard in range(rank, SHARDS, workers):
        if _shard_path(work_dir, shard).exists():
            continue
        rng = np.random.default_rng([settings["seed"], 17, shard])
        scenes = [
            world.sample_scene(rng, toy_share=settings["toy_share"], thing_share=settings["thing_share"])
            for _ in range(settings["count"] // SHARDS)
        ]
        latents = encode_scenes(work_dir / "codec.safetensors", scenes, settings["device"])
        motions = torch.tensor([MOTION_NAMES.index(scene.motion) for scene in scenes])
        facts = {"captions": json.dumps([scene.caption for scene in scenes])}
        save_state(_shard_path(work_dir, shard), {"latents": latents, "motions": motions}, facts)
        if report:
            report(f"clips shard {shard} done: {len(scenes)} clips")


def build_clips(
    work_dir: Path,
    *,
    count: int,
    toy_share: float,
    thing_share: float = 0.0,
    seed: int,
    workers: int,
    device: str,
    report: Report,
) -> ClipPool:
    """Draw, encode and keep ``count`` training clips (what is already there is not done again)."""
    settings = {
        "work_dir": str(work_dir),
        "count": count,
        "toy_share": toy_share,
        "thing_share": thing_share,
        "seed": seed,
        "device": device,
    }
    if not all(_shard_path(work_dir, shard).exists() for shard in range(SHARDS)):
        run_workers(_build_worker, workers, settings, work_dir, report)
    return load_clips(work_dir)


def load_clips(work_dir: Path) -> ClipPool:
    """Read the pool that :func:`build_clips` wrote."""
    latents, motions, captions = [], [], []
    for shard in range(SHARDS):
        tensors, facts = load_state(_shard_path(work_dir, shard))
        latents.append(tensors["latents"])
        motions.append(tensors["motions"])
        captions += json.loads(facts["captions"])
    different = tuple(sorted(set(captions)))
    place = {caption: i for i, caption in enumerate(different)}
    index = torch.tensor([place[caption] for caption in captions])
    return ClipPool(torch.cat(latents), different, index, torch.cat(motions))


def probe_clips(codec_path: Path, count: int = 48) -> tuple[torch.Tensor, list[str], list[str]]:
    """Fresh moving clips to watch training by: latents, their captions, the captions of the opposite motion."""
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    answers = [(caption, scene) for caption, scene in world.gate_prompts() if scene.motion != "still"]
    chosen = np.random.default_rng(23).permutation(len(answers))[:count]
    scenes = [answers[i][1] for i in chosen]
    captions = [scene.caption for scene in scenes]
    wrong = [
        c.replace(f"moving {s.motion}", f"moving {opposite[s.motion]}") for c, s in zip(captions, scenes, strict=True)
    ]
    return encode_scenes(codec_path, scenes).float(), captions, wrong
