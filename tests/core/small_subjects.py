"""Small subjects for tests, at random, and the ways to compare them."""

from __future__ import annotations

import torch

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.subject.subject import LoRAFactors, Subject
from customcrafter_core.subject.targets import lora_targets


def random_factors(model: VideoCrafter2, *, seed: int = 0, rank: int = 2, every: int = 1) -> dict[str, LoRAFactors]:
    """Factors for every (or every second, third …) target, large enough that any strength shows in a sampled latent."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LoRAFactors(
            down=torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5,
            up=torch.randn(layer.out_features, rank, generator=generator) / rank**0.5,
        )
        for name, layer in list(lora_targets(model.unet).items())[::every]
    }


def random_subject(
    model: VideoCrafter2,
    *,
    seed: int = 0,
    rank: int = 2,
    every: int = 1,
    vectors: int = 1,
    placeholder: str = "<new1>",
) -> Subject:
    """A subject of this base model."""
    return Subject(
        random_factors(model, seed=seed, rank=rank, every=every),
        torch.randn(vectors, model.config.text.hidden_size, generator=torch.Generator().manual_seed(seed + 1)) * 0.1,
        placeholder=placeholder,
        class_word="teddy bear",
        base=model.fingerprint,
    )


def same_factors(first: Subject, second: Subject) -> bool:
    """Whether two subjects have bit-for-bit the same factors."""
    return first.factors.keys() == second.factors.keys() and all(
        torch.equal(pair.down, second.factors[name].down) and torch.equal(pair.up, second.factors[name].up)
        for name, pair in first.factors.items()
    )
