"""The demo: a synthetic world of moving shapes and a small base model of VideoCrafter2's class, trained on it."""

from __future__ import annotations

from pathlib import Path


def demo_checkpoint() -> Path:
    """The demo base model that comes with the project."""
    return Path(__file__).parent / "assets" / "demo_base.safetensors"


def demo_subject() -> Path:
    """The subject that was learned on it and comes with the project, too."""
    return Path(__file__).parent / "assets" / "demo_subject.safetensors"
