"""The reference vectors: small models whose weights are made from their names (see `recipe` in vectors.json)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

FOLDER = Path(os.environ.get("CUSTOMCRAFTER_VECTORS", Path(__file__).parents[1] / "data"))


def load() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description and the tensors."""
    return json.loads((FOLDER / "vectors.json").read_text()), load_file(FOLDER / "vectors.safetensors")


def weights(keys: dict[str, list[int]], salt: str) -> dict[str, torch.Tensor]:
    """Make every weight from its name."""
    return {key: _weight(key, tuple(shape), salt) for key, shape in keys.items()}


def _weight(key: str, shape: tuple[int, ...], salt: str) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:4], "little")
    values = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        values = values / np.float32(math.sqrt(math.prod(shape[1:])))
    elif len(shape) == 1:
        values = np.float32(0.1) * values + np.float32(0 if key.endswith("bias") else 1)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def relative_l2(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance; printed, so that ``pytest -sv`` shows what was measured."""
    distance = float((result.double() - expected.double()).norm() / expected.double().norm())
    print(f"relative L2 {distance:.1e}", end=" ")
    return distance
