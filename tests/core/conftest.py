"""Fixtures of the core's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from customcrafter_core.base_model.model import VideoCrafter2
from tests.core import small_models, vectors


@pytest.fixture(scope="session")
def reference() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The reference vectors: description and tensors."""
    return vectors.load()


@pytest.fixture(scope="session")
def reference_checkpoint(
    reference: tuple[dict[str, Any], dict[str, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint file of the reference models."""
    return small_models.write_reference_checkpoint(
        tmp_path_factory.mktemp("model") / "reference.safetensors", reference[0]
    )


@pytest.fixture(scope="session")
def model(reference_checkpoint: Path) -> VideoCrafter2:
    """The reference models, loaded as a user's checkpoint is."""
    from customcrafter_core.base_model.loading import load_videocrafter2

    return load_videocrafter2(reference_checkpoint)
