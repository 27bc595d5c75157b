"""Pictures of the class for prior preservation (paper, eq. 3): read from a folder, or made by the base model itself."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..base_model.fingerprint import same_base
from ..base_model.model import VideoCrafter2
from ..diffusion.guidance import GuidanceBatch
from ..errors import InputError, damaged_file
from ..files.writing import write_bytes, write_json
from ..output.pixels import to_bytes
from ..sampling.generation import SampledStep, generate
from ..sampling.settings import VideoSettings
from .captions import read_caption
from .config import CAPTIONS, PRIOR_STEPS
from .photos import (
    MAX_BYTES,
    Clip,
    Photo,
    flatten_alpha,
    list_pictures,
    load_image,
    max_side,
    readable_formats,
    usable,
)

RECORD = "prior.json"
MOVING = {".gif", ".png", ".webp"}
FRAME_TIME = 100  # ms in files made here; frames that are equal are stored as one that lasts longer
MAX_FRAMES = 512  # of one animation; every frame is kept in memory
MADE = re.compile(r"prior-(\d{5})\.(png|webp)")


@dataclass(frozen=True)
class PriorSettings:
    """What decides how made pictures look; kept beside them."""

    base: str
    """Fingerprint of the base model."""
    class_word: str
    kind: str
    """``stills`` or ``clips``"""
    seed: int
    steps: int
    width: int
    height: int
    frames: int

    def differences(self, kept: dict[str, Any]) -> list[str]:
        """What is another in settings that were kept."""
        own = asdict(self)
        found = [] if same_base(self.base, str(kept.get("base"))) else ["another base model"]
        names = [name for name in own if name != "base" and kept.get(name) != own[name]]
        return found + [f"{name} {kept.get(name)!r} instead of {own[name]!r}" for name in names]


def load_prior(folder: str | Path, *, least: int = 1, skip_broken: bool = False) -> list[Photo | Clip]:
    """Read pictures and animations of a class in the order of their names, with captions as of photos.

    Args:
        folder: where they are.
        least: how many files there have to be.
        skip_broken: leave out those that cannot be used, with a warning that names them, as long as any is left.

    Raises:
        InputError: no such folder, one that cannot be read, or fewer than ``least`` in it.
    """
    paths = list_pictures(folder)
    if len(paths) < least:
        raise InputError(
            expected=f"at least {least} pictures of the class",
            found=f"{len(paths)} in {folder}",
            remedy="Add some, ask for fewer, or let the base model make them.",
        )
    longest = max_side(max(len(paths), 1))
    return usable(paths, lambda path: _load(path, longest), "prior picture", skip_broken=skip_broken)


def generate_prior(
    model: VideoCrafter2,
    class_word: str,
    folder: str | Path,
    count: int,
    *,
    clips: bool = False,
    seed: int = 0,
    steps: int = PRIOR_STEPS,
    skip_broken: bool = False,
    on_plan: Callable[[], GuidanceBatch] | None = None,
    on_item: Callable[[int, int], None] | None = None,
    on_step: Callable[[SampledStep], None] | None = None,
) -> list[Photo | Clip]:
    """Fill a folder with pictures of a class up to a number, and read it.

    What lies there counts, so a run that was stopped goes on and a finished folder is only read. Each item depends on the
    seed and its own number alone. A still is the middle frame of a video of the model's own length: shorter ones, and
    most of all single frames, come out badly from a network that has learned on videos.

    Args:
        model: the base model.
        class_word: such as ``dog``; it stands in `CAPTIONS` in turn.
        folder: made if it is not there.
        count: how many pictures there should be.
        clips: make whole videos.
        seed: of all items.
        steps: of sampling each of them.
        skip_broken: leave out pictures that cannot be used instead of refusing all, as `load_prior`.
        on_plan: asked, if anything has to be made, how the two predictions of a step are made: `memory_plan.plan_prior`.
        on_item: called with how many there are, and of how many; an exception it raises stops the making.
        on_step: called after each step of sampling; likewise.

    Raises:
        InputError: the folder's pictures were made with other settings; it says what differs.
        OSError: a file cannot be written; those before it are kept.
    """
    if count < 1 or not class_word.strip():
        found = f"{count} of {class_word!r}"
        raise InputError(expected="a class word and one picture or more", found=found, remedy="Name them.")
    folder = Path(folder)
    if not folder.is_file():
        folder.mkdir(parents=True, exist_ok=True)
    size = model.defaults
    kind = "clips" if clips else "stills"
    settings = PriorSettings(model.fingerprint, class_word, kind, seed, steps, size.width, size.height, size.frames)
    present = list_pictures(folder)
    made = {int(match[1]) for path in present if (match := MADE.fullmatch(path.name))}
    _check_record(folder, settings, has_made=bool(made))
    missing = [i for i in range(count - (len(present) - len(made))) if i not in made][: max(count - len(present), 0)]
    if on_item is not None:
        on_item(count - len(missing), count)
    guidance = on_plan() if missing and on_plan is not None else GuidanceBatch.AUTO
    for done, number in enumerate(missing, count - len(missing) + 1):
        frames = _frames(model, settings, number, guidance, on_step)
        name = f"prior-{number:05d}" + (".webp" if clips else ".png")
        write_bytes(folder / name, _animation(frames) if clips else _still(frames[0]))
        if on_item is not None:
            on_item(done, count)
    return load_prior(folder, least=count, skip_broken=skip_broken)


def may_hold(folder: Path, base: str) -> bool:
    """Whether a folder has no pictures that were made by another base model than the one of this fingerprint."""
    try:
        kept = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return same_base(base, str(kept["base"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # absent, or damaged, which the making reports
        return True


def _check_record(folder: Path, settings: PriorSettings, *, has_made: bool) -> None:
    """Compare the settings with those kept in the folder, or keep them there."""
    path = folder / RECORD
    if not path.is_file():
        if has_made:
            raise _other_settings(folder, f"pictures made with unknown ones: {RECORD} is missing")
        write_json(path, asdict(settings))
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        differences = settings.differences(kept if isinstance(kept, dict) else {})
    except (ValueError, RecursionError) as error:
        raise damaged_file(path, str(error)) from error
    if differences and has_made:
        raise _other_settings(folder, ", ".join(differences))
    if differences:
        write_json(path, asdict(settings))


def _other_settings(folder: Path, found: str) -> InputError:
    return InputError(
        expected=f"pictures made with the same settings in {folder}",
        found=found,
        remedy="Use another folder, or remove what was made there.",
    )


def _frames(
    model: VideoCrafter2,
    settings: PriorSettings,
    number: int,
    guidance: GuidanceBatch,
    on_step: Callable[[SampledStep], None] | None,
) -> np.ndarray:
    """The frames of an item, ``(t, h, w, 3)`` bytes; of a still the middle one of its video only."""
    prompt = CAPTIONS[number % len(CAPTIONS)].replace("{}", settings.class_word)
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1, np.uint64)[0])
    video = VideoSettings(prompt, seed=seed, steps=settings.steps, guidance=guidance)
    latent = generate(model, video, on_step=on_step).latent
    middle = latent.shape[2] // 2
    kept = latent if settings.kind == "clips" else latent[:, :, middle : middle + 1]
    with torch.inference_mode():
        return to_bytes(model.decode(kept)[0])


def _still(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _animation(frames: np.ndarray) -> bytes:
    """A lossless animated WebP."""
    buffer, images = io.BytesIO(), [Image.fromarray(pixels) for pixels in frames]
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], lossless=True, exact=True, duration=FRAME_TIME
    )
    return buffer.getvalue()


def _load(path: Path, longest: int) -> Photo | Clip:
    """A picture or, of more than one frame, a clip."""
    first = load_image(path, longest)
    if path.suffix.lower() not in MOVING:
        return Photo(first, read_caption(path))
    is_ours = MADE.fullmatch(path.name) is not None
    frames: list[Image.Image] = []
    try:
        with warnings.catch_warnings(), Image.open(path, formats=tuple(readable_formats().values())) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # a frame may be larger than the first
            count = getattr(image, "n_frames", 1)
            if count > MAX_FRAMES:
                raise InputError(
                    expected=f"an animation of at most {MAX_FRAMES} frames",
                    found=f"{count} in {path.name}",
                    remedy="Cut it into shorter ones.",
                )
            if 3 * count * image.width * image.height > MAX_BYTES and count > 1:
                raise InputError(
                    expected=f"an animation of at most {MAX_BYTES // 3:,} pixels in all its frames",
                    found=f"{count} frames of {image.width}x{image.height} in {path.name}",
                    remedy="Scale it down, or cut it into shorter ones.",
                )
            for i in range(count):
                image.seek(i)
                image.load()
                frame = flatten_alpha(image)
                frame.thumbnail((longest, longest), Image.Resampling.LANCZOS)
                frames += [frame] * (max(round(image.info.get("duration", 0) / FRAME_TIME), 1) if is_ours else 1)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise damaged_file(path, str(error)) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise damaged_file(path, str(error)) from error
    return Clip(tuple(frames), read_caption(path)) if len(frames) > 1 else Photo(first, read_caption(path))
