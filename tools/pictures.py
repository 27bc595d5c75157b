"""A picture of each workflow's result: frames of its videos, with the strength of the subject at each step."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from customcrafter_core.output.chart import strength_chart

from .graphs import Graph
from .schemas import Description

ROOT = Path(__file__).resolve().parents[1]
WIDTH, FRAMES = 512, 4
SAMPLERS = ("CustomCrafterDynamicWeightedKSampler", "CustomCrafterDynamicLoRAWeights")


def hash_of(api: dict[str, Any]) -> str:
    """What a picture says of the graph it was made with, as its JPEG's comment."""
    return hashlib.sha256(json.dumps(api, sort_keys=True).encode()).hexdigest()


def is_picture_of(path: Path, graph: Graph, descriptions: dict[str, Description]) -> bool:
    """Whether a file shows what a graph makes, by the hash in its comment."""
    if not path.is_file():
        return False
    with Image.open(path) as picture:
        return bool(picture.info.get("comment", b"").decode() == hash_of(graph.full_api(descriptions)))


def write_picture(path: Path, graph: Graph, descriptions: dict[str, Description], host: Any) -> None:
    """Run a graph and write frames of its videos, each above the strengths it was made with, and the graph's hash."""
    api = graph.full_api(descriptions)
    videos = _videos(api, host)
    strengths = [[_strengths(node["inputs"], api)] for node in api.values() if node["class_type"] in SAMPLERS]
    # each video with its strengths below it
    rows = [row for pair in itertools.zip_longest(videos, strengths, fillvalue=[]) for part in pair for row in part]
    rows = [_fitted(row) for row in rows]
    sheet = Image.new("RGB", (WIDTH, max(sum(row.height for row in rows), 256)), "#1b1d22")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(path, quality=88, comment=hash_of(api))


def _fitted(row: Image.Image) -> Image.Image:
    way = Image.Resampling.NEAREST if row.width < WIDTH else Image.Resampling.LANCZOS
    return row.resize((WIDTH, round(row.height * WIDTH / row.width)), way)


def _videos(api: dict[str, Any], host: Any) -> list[list[Image.Image]]:
    outputs = host.run(api, seconds=900)  # in the order in which the nodes ran
    shown_by = [outputs[number] for number in sorted(outputs, key=int)]
    files = [file for shown in shown_by for kind in ("images", "video") for file in shown.get(kind, [])]
    kept = [file for file in files if file["type"] == "output"]
    return [_rows(host.base / "output" / file["subfolder"] / file["filename"]) for file in kept]


def _rows(path: Path) -> list[Image.Image]:
    with av.open(str(path)) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    shown = [np.asarray(frame) for frame in frames]
    return [Image.fromarray(np.concatenate(shown[i : i + FRAMES], 1)) for i in range(0, len(shown), FRAMES)]


def _strengths(inputs: dict[str, Any], api: dict[str, Any]) -> Image.Image:
    samplers = [inputs, *(node["inputs"] for node in api.values() if "cfg" in node["inputs"])]
    steps = next(given["steps"] for given in samplers if "steps" in given)
    strengths = [inputs["lambda_s"] if step < inputs["k"] else inputs["lambda_l"] for step in range(steps)]
    return strength_chart([strengths])
