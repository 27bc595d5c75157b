"""A folder of videos from several methods, with a list of what each shows; the preference page is made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.writing import write_json

MANIFEST = "videos.json"
REMEDY = "Use a folder written by the benchmark command."


@dataclass(frozen=True)
class ReportVideo:
    """One video of a report."""

    file: str
    """Path relative to the report's folder."""
    method: str
    subject: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class ReportVideos:
    """All videos of a report, and each subject's photos."""

    videos: Sequence[ReportVideo]
    photos: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Subject -> paths relative to the report's folder."""

    def write(self, folder: Path) -> Path:
        """Write the list next to the videos.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        photos = {subject: list(paths) for subject, paths in self.photos.items()}
        return write_json(folder / MANIFEST, {"videos": [asdict(video) for video in self.videos], "photos": photos})

    @classmethod
    def read(cls, folder: Path) -> ReportVideos:
        """Read the list of a report's videos.

        Raises:
            InputError: there is no list, it is malformed, or a file in it is missing or outside the folder.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(expected=f"a report with a {MANIFEST}", found=f"none in {folder}", remedy=REMEDY)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            videos = [
                ReportVideo(**{item.name: video[item.name] for item in fields(ReportVideo)})
                for video in content["videos"]
            ]
            photos = {str(subject): list(paths) for subject, paths in content["photos"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(expected=f"a list of videos in {MANIFEST}", found=repr(error), remedy=REMEDY) from error
        for name in [*(video.file for video in videos), *(name for paths in photos.values() for name in paths)]:
            _check_inside(folder, name)
        return cls(videos, photos)


def _check_inside(folder: Path, name: Any) -> None:
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise InputError(
            expected=f"every file listed in {MANIFEST} to be in {folder}",
            found=f"{name}, which is missing or outside",
            remedy=REMEDY,
        )
