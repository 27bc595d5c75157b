"""Run a benchmark cell by cell: finished work is never repeated, and a killed process loses at most one cell.

Files in the benchmark's folder:

- ``subjects/``: each trained subject with its training state, so that training resumes too
- ``cells/METHOD/SUBJECT/``: for each training seed, prompt and seed a latent, its video, and, written last, its record
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load, save

from ..base_model.model import VideoCrafter2
from ..errors import InputError
from ..evaluation.encoders import files_of
from ..evaluation.scoring import Scorer
from ..files.writing import write_bytes, write_json
from ..output.video import PLAYBACK_FPS, write_video
from ..sampling.generation import generate
from ..sampling.preparation import AppliedSubject, check_settings
from ..sampling.settings import VideoSettings, resolve
from ..subject.file import load_subject
from ..subject.subject import Subject
from ..training.callbacks import Callbacks
from ..training.checkpoints import digest_pictures
from ..training.loop import train_subject
from ..training.photos import Clip, Photo, load_photos
from ..training.prior import load_prior
from ..training.run_options import RunOptions
from ..training.trainer import TrainStep
from ..training.workers import ALONE, Workers
from .benchmark_config import BenchmarkConfig, Method, SubjectEntry

SUBJECTS, CELLS = "subjects", "cells"
VIDEO, LATENTS = ".mp4", ".safetensors"
LATENT = "latent"
SECONDS_BETWEEN_LOOKS = 5.0
BYTES_AT_ONCE = 2**20


@dataclass(frozen=True)
class Cell:
    """One video of the benchmark."""

    method: Method
    subject: SubjectEntry
    training_seed: int
    prompt_number: int
    prompt: str
    """With ``{}`` in place of the subject."""
    seed: int

    @property
    def stem(self) -> str:
        """Path of its files in the benchmark's folder, without a suffix."""
        name = f"t{self.training_seed}-p{self.prompt_number:02d}-s{self.seed}"
        return f"{CELLS}/{self.method.name}/{self.subject.name}/{name}"


@dataclass(frozen=True)
class CellResult:
    """A finished cell and its scores."""

    cell: Cell
    prompt: str
    """The prompt as it was sampled."""
    scores: Mapping[str, float]


@dataclass(frozen=True)
class BenchmarkWatcher:
    """Callbacks; an exception raised by one ends the benchmark, and all finished cells are kept."""

    on_training: Callable[[str, TrainStep], None] | None = None
    """Called with the name of what is trained and each step."""
    on_cell: Callable[[int, int, Cell], None] | None = None
    """Called with (cells done, total, the cell) after each cell of this process, including skipped ones."""


@dataclass
class Benchmark:
    """A benchmark in its folder, as run by one of possibly several processes."""

    config: BenchmarkConfig
    model: VideoCrafter2
    folder: Path
    scorer: Scorer
    workers: Workers = ALONE
    watcher: BenchmarkWatcher = field(default_factory=BenchmarkWatcher)
    _photos: dict[Path, list[Photo]] = field(default_factory=dict)
    _digests: dict[tuple[Path, str], str] = field(default_factory=dict)

    def run(self) -> list[CellResult]:
        """Train and sample what is missing; several processes share the work, and the first one collects the results.

        Returns:
            All results; in a process other than the first, those of its own share.

        Raises:
            InputError: photos, settings or the base model do not fit; settings are checked before any training.
            OSError: the disk is full or the folder cannot be written.
        """
        cells = self.cells()
        for settings in {self._settings(cell) for cell in cells}:
            check_settings(settings)
        own = self.share(cells)
        for cell in own:
            if cell.method.preset is not None:
                self._learned(cell)
        for done, cell in enumerate(own):
            self.result(cell)
            if self.watcher.on_cell is not None:
                self.watcher.on_cell(done + 1, len(own), cell)
        if not self.workers.is_first:
            return [self.result(cell) for cell in own]
        # not a barrier of the process group: those time out after minutes, and shares differ by hours
        missing = cells
        while missing := [cell for cell in missing if not self.is_done(cell)]:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return [self.result(cell) for cell in cells]

    def share(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of this process; all videos of one subject stay together, so that no process waits for its training."""
        jobs = dict.fromkeys(self._job(cell) for cell in cells)
        owner = {job: i % self.workers.size for i, job in enumerate(jobs)}
        return [cell for cell in cells if owner[self._job(cell)] == self.workers.rank]

    def _job(self, cell: Cell) -> str:
        return cell.stem if cell.method.preset is None else str(self._subject_path(cell))

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell was sampled and scored with the current settings and models, and all its files exist."""
        kept = _read_record(self.folder / f"{cell.stem}.json")
        return self._is_scored(cell, kept, self._record(cell, self._settings(cell)))

    def cells(self) -> list[Cell]:
        """All cells; a method without training has no more than one training seed."""
        config = self.config
        return [
            Cell(method, subject, training_seed, number, prompt, seed)
            for method in config.methods
            for subject in config.subjects
            for training_seed in (config.training_seeds if method.preset is not None else config.training_seeds[:1])
            for number, prompt in enumerate(config.prompts_of(subject))
            for seed in config.seeds
        ]

    def result(self, cell: Cell) -> CellResult:
        """The cell's result; samples and scores it unless that was done with the same settings and models."""
        settings = self._settings(cell)
        record = self._record(cell, settings)
        path = self.folder / f"{cell.stem}.json"
        kept = _read_record(path)
        if not self._is_scored(cell, kept, record):
            reuse = kept.get("made") == record
            if not reuse:
                path.unlink(
                    missing_ok=True
                )  # must never sit next to files made with other settings, not even after a kill
            scores = self._score(cell, settings, self._latent(cell, settings, reuse=reuse))
            kept = {"made": record, "scored_by": self._scored_by(cell), "scores": scores}
            write_json(path, kept)
        return CellResult(cell, settings.prompt, kept["scores"])

    def _is_scored(self, cell: Cell, kept: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
        files = (self.folder / f"{cell.stem}{ending}" for ending in (VIDEO, LATENTS))
        return (
            kept.get("made") == record
            and kept.get("scored_by") == self._scored_by(cell)
            and all(file.is_file() for file in files)
        )

    # --- learning -----------------------------------------------------------------------------------------------------

    def photos(self, folder: Path) -> list[Photo]:
        """A subject's photos, read once."""
        if folder not in self._photos:
            self._photos[folder] = load_photos(folder)
        return self._photos[folder]

    def _digest_of(self, folder: Path | None, read: Callable[[Path], Sequence[Photo | Clip]]) -> str:
        """A digest of all images in a folder; a prior's many images are not kept in memory."""
        if folder is None:
            return ""
        key = (folder, read.__name__)  # one reads animations as clips, the other only their first frames
        if key not in self._digests:
            self._digests[key] = digest_pictures(read(folder))
        return self._digests[key]

    def _subject_path(self, cell: Cell) -> Path:
        """The subject's file; its name depends on settings, photos and base, so any change trains a new subject."""
        config = self.config.train_config(cell.method, cell.subject, cell.training_seed)
        subject = cell.subject
        pictures = self._digest_of(subject.photos, self.photos), self._digest_of(subject.prior, load_prior)
        digest = _digest([config.as_metadata(), *pictures, self.model.fingerprint])
        return (
            self.folder / SUBJECTS / f"{cell.subject.name}-{config.method}-t{cell.training_seed}-{digest}.safetensors"
        )

    def _learned(self, cell: Cell) -> Subject:
        """The subject trained by the cell's method; trains it if necessary."""
        path = self._subject_path(cell)
        config = self.config.train_config(cell.method, cell.subject, cell.training_seed)
        if path.is_file():
            subject = load_subject(path)
            if subject.steps == config.all_steps:
                return subject
        watcher = Callbacks(on_step=self._told(f"{cell.subject.name}, {cell.method.title}"))
        prior = [] if cell.subject.prior is None else load_prior(cell.subject.prior)
        photos = self.photos(cell.subject.photos)
        return train_subject(
            self.model, photos, config, prior=prior, run_options=RunOptions(target=path), callbacks=watcher
        ).subject

    def _told(self, name: str) -> Callable[[TrainStep], None] | None:
        tell = self.watcher.on_training
        return None if tell is None else lambda step: tell(name, step)

    # --- sampling and scoring -----------------------------------------------------------------------------------------

    def _settings(self, cell: Cell) -> VideoSettings:
        config = self.config
        settings = VideoSettings(
            cell.prompt.replace("{}", f"{self._token(cell)} {cell.subject.class_word}".strip()),
            seed=cell.seed,
            steps=config.steps,
            eta=config.eta,
            cfg=config.cfg,
            exact_tail=config.exact_tail,
        )
        return resolve(self.model, settings)

    def _token(self, cell: Cell) -> str:
        """The learned token; empty for a method without training."""
        if cell.method.preset is None:
            return ""
        return self.config.train_config(cell.method, cell.subject, cell.training_seed).placeholder

    def _record(self, cell: Cell, settings: VideoSettings) -> dict[str, Any]:
        """Everything that determines the video, as plain values."""
        learned = None if cell.method.preset is None else self._subject_path(cell).name
        strength = None if learned is None else asdict(cell.method.strength)
        base = hashlib.sha256(self.model.fingerprint.encode()).hexdigest()[:16]
        made = {**asdict(settings), "subject": learned, "strength": strength, "base": base}
        return dict(json.loads(json.dumps(made)))

    def _latent(self, cell: Cell, settings: VideoSettings, *, reuse: bool) -> torch.Tensor:
        path = self.folder / f"{cell.stem}{LATENTS}"
        if reuse and path.is_file():
            return load(path.read_bytes())[LATENT].to(self.model.device)
        applied = []
        if cell.method.preset is not None:
            applied = [AppliedSubject(self._learned(cell), cell.method.strength)]
        latent = generate(self.model, settings, applied).latent
        write_bytes(path, save({LATENT: latent.cpu().contiguous()}))
        return latent

    @torch.inference_mode()
    def _score(self, cell: Cell, settings: VideoSettings, latent: torch.Tensor) -> dict[str, float]:
        frames = self.model.decode(latent)[0]
        write_video(self.folder / f"{cell.stem}{VIDEO}", frames)
        photos: Sequence[Image.Image] = [photo.image for photo in self.photos(cell.subject.photos)]
        placeholders = [token for token in (self._token(cell),) if token]
        return self.scorer.score(frames, settings.prompt, photos, placeholders=placeholders, fps=PLAYBACK_FPS)

    def _scored_by(self, cell: Cell) -> dict[str, Any]:
        """What the scores depend on besides the video."""
        return {
            "models": self._models,
            "absent": sorted(self.scorer.absent),
            "literal": self.scorer.literal,
            "fps": PLAYBACK_FPS,
            "photos": self._digest_of(cell.subject.photos, self.photos),
        }

    @cached_property
    def _models(self) -> dict[str, str]:
        """A digest of each model's files, wherever they are stored."""
        return {name: _files_digest(path) for name, path in self.config.models.items()}


def _files_digest(model: Path) -> str:
    """A digest of all bytes of a model's files."""
    digest = hashlib.sha256()
    for path in files_of(model) if model.is_dir() else [model]:
        digest.update(f"{path.name if model.is_dir() else ''} {path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while part := file.read(BYTES_AT_ONCE):
                digest.update(part)
    return digest.hexdigest()[:16]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def _read_record(path: Path) -> dict[str, Any]:
    """A finished cell's record; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(
            expected=f"the record of a finished video in {path}", found="something else", remedy="Delete that file."
        ) from error
