"""What a run leaves on disk: the subject, and beside it a folder with the state to continue from.

Every file is complete or absent: a killed process loses the steps since the last checkpoint and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..base_model.fingerprint import same_base
from ..errors import InputError
from ..files.tensor_file import TensorFile, open_tensor_file, write_tensors
from ..files.writing import write_bytes
from ..subject.file import load_subject, save_subject
from ..subject.subject import Subject
from .augmentation import CUT
from .callbacks import Sample
from .config import TrainConfig
from .photos import Clip, Photo
from .pictures import draw_loss, draw_sample_row, stack_images
from .trainer import Trainer, TrainStep

log = logging.getLogger(__name__)

FOLDER_SUFFIX = ".training"
STATE = "training.state"  # safetensors too, but no model to choose from a list
BEST = "best.safetensors"  # of version 0.1.0
LOSS_PICTURE, SAMPLE_STRIP, SAMPLE_ROWS = "loss.png", "samples.png", "samples"
STATE_KEY = "customcrafter.training_state"
FORMAT = 1
FREE_TO_CHANGE = ("steps", "gradient_checkpointing")
"""Settings that a run may be continued with other values of: they change no step that was made."""
RECORDED = ("lr", "token_lr", "lr_schedule", "warmup_steps", "max_grad_norm")
"""Settings that may be changed when a run goes on, which the subject's file then tells."""
BEFORE = {
    "fit": CUT, "crop_anchor": "center", "mask_background": 1.0, "lr_schedule": "constant", "warmup_steps": 0,
    "max_grad_norm": 0.0, "accumulate": 1,
}  # fmt: skip
"""What runs of version 0.1.0 did where settings of today were not known."""


def digest_pictures(pictures: Sequence[Photo | Clip]) -> str:
    """A short text that differs if any pixel or caption does."""
    digest = hashlib.sha256()
    for picture in pictures:
        frames = picture.frames if isinstance(picture, Clip) else (picture.image,)
        digest.update(f"{len(frames)} {picture.caption}\0".encode(errors="surrogatepass"))
        masks = [picture.mask] if isinstance(picture, Photo) and picture.mask is not None else []
        for frame in (*frames, *masks):
            digest.update(f"{frame.size} {frame.mode}\0".encode())
            digest.update(frame.tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class RunIdentity:
    """What has to be the same for a run to be continued."""

    config: TrainConfig
    base: str
    dtype: str
    photos: str
    prior: str | None
    """None: not known yet, and not compared."""
    processes: int = 1

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """What a stored run had differently, in words."""
        ours = {k: v for k, v in self._settings().items() if k not in (*FREE_TO_CHANGE, *RECORDED)}
        theirs: Mapping[str, Any] = {**BEFORE, **stored["config"]}
        found = [f"{name} {theirs.get(name)} then, {ours[name]} now" for name in ours if theirs.get(name) != ours[name]]
        found += [] if same_base(stored["base"], self.base) else ["another base model"]
        found += [] if stored["dtype"] == self.dtype else [f"{stored['dtype']} then, {self.dtype} now"]
        own = {name: getattr(self, name) for name in ("photos", "prior")}
        found += [f"other {name}" for name in own if own[name] not in (stored[name], None)]
        return found

    def changes(self, stored: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Settings of `RECORDED` that a stored run had differently -> its value and the one of now."""
        ours, theirs = self._settings(), {**BEFORE, **stored["config"]}
        return {name: [theirs.get(name), ours[name]] for name in RECORDED if theirs.get(name) != ours[name]}

    def as_metadata(self) -> dict[str, Any]:
        """Plain values."""
        names = ("base", "dtype", "photos", "prior")
        return {"config": self._settings(), **{name: getattr(self, name) for name in names}}

    def _settings(self) -> dict[str, Any]:
        """The settings, with the batch of all processes together: so many may share it as like."""
        counts = {name: getattr(self.config, name) * self.processes for name in ("batch", "token_batch")}
        return {**self.config.as_metadata(), **counts}


class CheckpointManager:
    """Writes the subject to its file, and state and numbered checkpoints to the folder beside it."""

    def __init__(self, target: Path, identity: RunIdentity, keep: int = 0) -> None:
        """Args:
        target: the subject's file.
        identity: what has to be the same for the run to be continued.
        keep: how many numbered checkpoints, the newest ones, are kept; 0: all.
        """
        self.target, self.identity, self._keep = target, identity, keep
        self.folder = run_folder(target)
        _remove_partial_files(target)
        self.history: list[dict[str, Any]] = []
        """What was changed when the run went on: after which step, and each setting's values before and since."""
        self.saved_step = 0
        """How far the state on disk is."""

    def check(self) -> None:
        """Refuse, before any work is done, to go on with what is not the same run.

        Raises:
            InputError: what was kept belongs to a run with other settings, photos or base model, or is damaged.
        """
        if (self.folder / STATE).is_file():
            with open_tensor_file(self.folder / STATE) as file:
                self._check_metadata(file)

    def _check_metadata(self, file: TensorFile) -> dict[str, Any]:
        stored = _read_metadata(file.metadata, file.path)
        differences = self.identity.differences(stored)
        if differences:
            raise InputError(
                expected=f"the run that was begun in {self.folder.name}",
                found="; ".join(differences),
                remedy="Train under another name, start over, or give the same settings and photos to continue.",
            )
        return stored

    def resume(self, trainer: Trainer) -> bool:
        """Continue a run that was kept; False if there is none.

        Raises:
            InputError: it is not the same run (see `check`), or it went further than the steps asked for.
        """
        path = self.folder / STATE
        if not path.is_file():
            return False
        with open_tensor_file(path) as file:
            stored = self._check_metadata(file)
            trainer.load_state_dict({name: file.read(name) for name in file.tensors})
        if trainer.done > trainer.config.all_steps:
            raise InputError(
                expected=f"at least {trainer.done} steps, as many as this run has made",
                found=f"{trainer.config.all_steps}",
                remedy="Raise the steps, train under another name, or start over.",
            )
        changes = self.identity.changes(stored)
        self.history = [*stored["history"], *([{"step": trainer.done, **changes}] if changes else [])]
        self.saved_step = trainer.done
        return True

    def restart(self, trainer: Trainer) -> None:
        """Forget a run that was kept; where a subject lies, the new run is on disk at once, so that it can go on.

        Raises:
            OSError: the folder cannot be written.
        """
        if self.target.exists():
            self._save_state(trainer)
        forget_run(self.target, but=(STATE,) if self.target.exists() else ())

    def save(self, trainer: Trainer, subject: Subject) -> None:
        """Write the subject and the state.

        Raises:
            OSError: the disk is full or the folder cannot be written; what was there before is still there.
        """
        # the state first: a subject without one would be another's file, which no run may replace
        self._save_state(trainer)
        save_subject(subject, self.target)

    def keep(self, subject: Subject) -> None:
        """Keep a subject as a numbered checkpoint beside the others, of which the oldest may go.

        Raises:
            OSError: as `save`.
        """
        save_subject(subject, self.checkpoint_path(subject.steps))
        kept = checkpoints_of(self.target)
        for path in kept[: -self._keep] if self._keep else ():
            path.unlink(missing_ok=True)

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of a step is kept."""
        return self.folder / f"{self.target.stem}-{step:06d}.safetensors"

    def _save_state(self, trainer: Trainer) -> None:
        content = {"format": FORMAT, "history": self.history, **self.identity.as_metadata()}
        tensors = {name: value.cpu().contiguous().clone() for name, value in trainer.state_dict().items()}
        write_tensors(self.folder / STATE, tensors, {"format": "pt", STATE_KEY: json.dumps(content)})
        self.saved_step = trainer.done

    def is_subject_of(self, step: int) -> bool:
        """Whether the subject's file is there and as far as this step; a kill may have left an older one."""
        try:
            return load_subject(self.target).steps == step
        except InputError:
            return False

    def has_sample(self, step: int) -> bool:
        """Whether the sample video after this step was kept."""
        return self._row_of(step).is_file()

    def _row_of(self, step: int) -> Path:
        return self.folder / SAMPLE_ROWS / f"{step:06d}.png"

    def keep_pictures(self, steps: Sequence[TrainStep], sample: Sample | None = None) -> None:
        """Write the loss as a picture and, with a new sample, its row and the strip of all rows so far.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        _write_png(self.folder / LOSS_PICTURE, draw_loss(steps))
        if sample is None:
            return
        row = self._row_of(sample.step)
        _write_png(row, draw_sample_row(sample))
        _write_png(
            self.folder / SAMPLE_STRIP,
            stack_images([Image.open(path, formats=["PNG"]) for path in sorted(row.parent.glob("*.png"))]),
        )


def run_folder(target: Path) -> Path:
    """Where the state of the run that makes a subject file is kept."""
    return target.with_name(target.stem + FOLDER_SUFFIX)


def checkpoints_of(target: Path) -> list[Path]:
    """The numbered checkpoints of the run that makes a subject file, the oldest first; others' files are not among them."""
    named = re.compile(re.escape(target.stem) + r"-\d{6,}\.safetensors")
    folder = run_folder(target)
    paths = [path for path in folder.iterdir() if named.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda path: int(path.stem.rpartition("-")[2]))


def has_run(target: Path) -> bool:
    """Whether a run was kept that makes this subject file."""
    return (run_folder(target) / STATE).is_file()


def _remove_partial_files(target: Path) -> None:
    """Remove what a killed process was writing; two runs cannot make the same file at once."""
    folder = run_folder(target)
    places = [(target.parent, f".{target.name}."), (folder, "."), (folder / SAMPLE_ROWS, ".")]
    for place, prefix in places:
        for path in place.glob("*.partial") if place.is_dir() else ():
            if path.name.startswith(prefix):
                path.unlink(missing_ok=True)


def forget_run(target: Path, *, but: Sequence[str] = ()) -> None:
    """Forget a run that was kept, so that the next one starts at step 0; the subject's file stays, and ``but`` these."""
    folder = run_folder(target)
    made = [folder / name for name in (STATE, BEST, LOSS_PICTURE, SAMPLE_STRIP) if name not in but]
    for path in (*made, *checkpoints_of(target), *(folder / SAMPLE_ROWS).glob("*.png")):
        path.unlink(missing_ok=True)


def _write_png(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _read_metadata(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        content = json.loads(metadata[STATE_KEY])
        content = {"history": [], **content}
        kinds = {"format": int, "history": list, "config": dict}
        kinds |= {"dtype": str, "base": str, "photos": str, "prior": str}
        if not all(isinstance(content[name], kind) for name, kind in kinds.items()) or content["format"] > FORMAT:
            raise ValueError("values of another kind")
        return dict(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            expected=f"the state of a training run in {path.name}",
            found=f"{type(error).__name__}: {error}",
            remedy="Start over, or remove the file.",
        ) from error
