"""The blind preference page: pairs of videos, the paper's four questions, no hint of which method made which."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path

from ..errors import InputError
from ..evaluation.metrics import without_tokens
from ..files.writing import write_bytes, write_json
from .report_folder import ReportVideo, ReportVideos

PAGE, KEY = "study.html", "study-key.json"
OURS = "customcrafter"
PAIRS = 30  # the paper's study had 30 sets
QUESTIONS = {
    "text_alignment": "Which video matches the text better?",
    "subject_fidelity": "In which video does the subject look more like the photos?",
    "motion_fluency": "Which video has the better motion?",
    "overall_quality": "Which video is better overall?",
}
"""The paper's: Text Alignment, Subject Fidelity, Motion Fluency, Overall Quality."""


@dataclass(frozen=True)
class Pair:
    """Two videos of the same subject, prompt and seed."""

    first: ReportVideo
    second: ReportVideo


def choose_pairs(
    videos: Sequence[ReportVideo], *, against: str | None = None, most: int = PAIRS, seed: int = 0
) -> list[Pair]:
    """Choose pairs of videos by two methods on the same subject, prompt and seed.

    Args:
        videos: the report's videos.
        against: a method in every pair; None for `OURS` if present, else all pairs of methods.
        most: maximum number of pairs; chosen at random, equally often from every pair of methods.
        seed: of the random choice.

    Raises:
        InputError: no such method, or nothing to compare.
    """
    methods = sorted({video.method for video in videos})
    if against is not None and against not in methods:
        raise InputError(
            expected=f"one of {', '.join(methods)}", found=against, remedy="Choose a method from the report."
        )
    wanted = against or (OURS if OURS in methods else None)
    by_set: dict[tuple[str, str, int], list[ReportVideo]] = {}
    for video in videos:
        by_set.setdefault((video.subject, video.prompt, video.seed), []).append(video)
    by_methods: dict[tuple[str, str], list[Pair]] = {}
    for _, together in sorted(by_set.items()):
        for first, second in combinations(sorted(together, key=lambda video: video.method), 2):
            if first.method != second.method and (wanted is None or wanted in (first.method, second.method)):
                by_methods.setdefault((first.method, second.method), []).append(Pair(first, second))
    if not by_methods:
        raise InputError(
            expected="two methods with the same subject, prompt and seed",
            found=f"none among {len(videos)} videos",
            remedy="Run the benchmark with at least two methods.",
        )
    draw = random.Random(seed)
    queues = [draw.sample(pairs, len(pairs)) for _, pairs in sorted(by_methods.items())]
    chosen: list[Pair] = []
    while len(chosen) < most and any(queues):
        chosen.extend(queue.pop() for queue in queues if queue and len(chosen) < most)
    return chosen[:most]


def write_study(folder: Path, pairs: Sequence[Pair], report: ReportVideos, page: Path | None = None) -> list[Path]:
    """Write the self-contained page, and the key, which is kept from the participants.

    In the page, videos are named by their content; the key says which method made which.

    Args:
        folder: the report's folder.
        pairs: the pairs to show.
        report: source of the subjects' photos.
        page: path of the page; by default in the report's folder.

    Returns:
        The page and the key.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    names: dict[ReportVideo, str] = {}
    for pair in pairs:
        for video in (pair.first, pair.second):
            names[video] = _name(video, (folder / video.file).read_bytes())
    ids = {pair: _digest(*sorted((names[pair.first], names[pair.second]))) for pair in pairs}
    study = _digest(*sorted(ids.values()))
    subjects = {subject: f"s{i}" for i, subject in enumerate(sorted({pair.first.subject for pair in pairs}))}
    data = {
        "study": study,
        "questions": [{"id": name, "text": text} for name, text in QUESTIONS.items()],
        "pairs": [
            {
                "id": ids[pair],
                "prompt": without_tokens(pair.first.prompt),  # participants see photos instead of the token
                "subject": subjects[pair.first.subject],
                "videos": sorted((names[pair.first], names[pair.second])),
            }
            for pair in pairs
        ],
        "photos": {
            short: [_inlined(folder / path) for path in report.photos.get(subject, ())]
            for subject, short in subjects.items()
        },
        "videos": {
            name: _inlined(folder / video.file) for video, name in sorted(names.items(), key=lambda item: item[1])
        },
    }
    template = resources.files(__package__).joinpath("assets", PAGE).read_text(encoding="utf-8")
    text = template.replace("/*DATA*/", json.dumps(data).replace("<", "\\u003c"))
    key = {"study": study, "videos": {name: asdict(video) for video, name in names.items()}}
    return [write_bytes(page or folder / PAGE, text.encode()), write_json(folder / KEY, key)]


def _name(video: ReportVideo, content: bytes) -> str:
    """A name that reveals nothing; it depends on the method, since two methods may give the same video."""
    return _digest(video.method, video.subject, video.prompt, str(video.seed), hashlib.sha256(content).hexdigest())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _inlined(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
