"""The file that a MODEL, CLIP and VAE were loaded from, and whether they still are what was in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy.model_patcher import ModelPatcher

from ...customcrafter_core.errors import InputError
from .text import learned_by

SOURCE = "customcrafter_source"  # an attachment of the host's ModelPatcher: clones keep it


@dataclass(frozen=True)
class Source:
    """Where a MODEL, CLIP or VAE came from, and what the host had changed about it when it was loaded."""

    path: Path
    changes: frozenset[tuple[str, Any]]


def note_source(path: Path, model: ModelPatcher, clip: Any, vae: Any) -> None:
    """Note on what was just loaded from which file it came."""
    for patcher in (model, clip.patcher, vae.patcher):
        patcher.set_attachments(SOURCE, Source(path, changes_of(patcher)))


def changes_of(patcher: ModelPatcher) -> frozenset[tuple[str, Any]]:
    """What is changed about a model without being written into it: weights, objects, wrappers, options, by name."""
    options = patcher.model_options
    changed: dict[str, Any] = {
        "weight": patcher.patches,
        "weight by hook": patcher.hook_patches,
        "weight by function": patcher.weight_wrapper_patches,
        "object": patcher.object_patches,
        "injection": patcher.injections,
        "wrapper": [(kind, key) for kind, added in patcher.wrappers.items() for key in added],
        "option": options,
        "network option": options["transformer_options"],
    }
    return frozenset((kind, name) for kind, names in changed.items() for name in names)


def source_of(model: ModelPatcher, clip: Any, vae: Any) -> Path:
    """The file that all three were loaded from by one Load VideoCrafter2, unchanged since.

    Raises:
        InputError: it names what is not, and says what to connect.
    """
    patchers = {"MODEL": model, "CLIP": getattr(clip, "patcher", None), "VAE": getattr(vae, "patcher", None)}
    paths = []
    for kind, patcher in patchers.items():
        source = None if patcher is None else patcher.get_attachment(SOURCE)
        if source is None:
            raise _refusal(kind, "another one")
        is_taught = kind == "CLIP" and (clip.layer_idx is not None or learned_by(clip))
        if is_taught or changes_of(patcher) != source.changes:
            raise _refusal(kind, "one that a node in between has changed (LoRA, subject, token, frame rate or other)")
        paths.append(source.path)
        if source.path != paths[0]:
            raise _refusal(kind, f"one of {source.path.name}, while the MODEL is of {paths[0].name}")
    return Path(paths[0])


def _refusal(kind: str, found: str) -> InputError:
    return InputError(
        expected=f"the {kind} straight from Load VideoCrafter2",
        found=found,
        remedy=f"Connect that node's {kind} output itself: the base model is what a subject is learned on.",
    )
