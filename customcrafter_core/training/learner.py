"""What is learned: V*, and what the method changes in the UNet; nothing else of the model has gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..base_model.model import VideoCrafter2
from ..base_model.text import learned_tokens
from ..subject.formats import class_rows
from ..subject.identity_adapter import IdentityAdapter, adapters_attached
from ..subject.subject import LoRAFactors, Subject
from ..subject.targets import lora_targets, spatial_blocks
from .config import TrainConfig
from .lora_layers import lora_layers
from .methods import METHODS, Change

TOKEN = "token"
TOKEN_SPREAD = 0.1
"""How far apart vectors of V* start that share a row, in standard deviations of the rows' numbers."""


@dataclass(frozen=True)
class Learner:
    """The tensors that are learned; those with gradients are `torch.nn.Parameter`."""

    factors: dict[str, LoRAFactors]
    adapters: dict[str, IdentityAdapter]
    embedding: nn.Parameter
    """V* ``(n, d)``"""

    @classmethod
    def start(cls, model: VideoCrafter2, config: TrainConfig, generator: torch.Generator) -> Learner:
        """Start without effect on the UNet, V* from the class word."""
        method, device = METHODS[config.method], model.device
        layers = {n: layer for n, layer in lora_targets(model.unet).items() if n.endswith(method.layers or ("\0",))}
        factors, adapters = {}, {}
        if method.change is Change.LORA:
            factors = {name: _low_rank(layer, config.rank, generator, device) for name, layer in layers.items()}
        elif method.change is Change.FULL_DIFFERENCE:
            factors = {name: _full_rank(layer, device) for name, layer in layers.items()}
        elif method.change is Change.IDENTITY_ADAPTER:
            for name, block in spatial_blocks(model.unet).items():
                fresh = IdentityAdapter.start(block.norm2.weight.shape[0], generator)
                adapters[name] = IdentityAdapter(**{n: _parameter(t, device) for n, t in fresh.tensors().items()})
        token = start_token(class_rows(model, config.class_word), config.tokens, generator)
        return cls(factors, adapters, _parameter(token, device))

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name, V* first."""
        named: dict[str, torch.Tensor] = {TOKEN: self.embedding}
        for name, pair in self.factors.items():
            named |= {f"{name}.down": pair.down, f"{name}.up": pair.up}
        for name, adapter in self.adapters.items():
            named |= {f"{name}.{part}": tensor for part, tensor in adapter.tensors().items()}
        return named

    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are learned."""
        return {name: tensor for name, tensor in self.tensors().items() if isinstance(tensor, nn.Parameter)}

    @contextmanager
    def attached(self, model: VideoCrafter2) -> Iterator[None]:
        """Put what is learned into the model while the context lasts, at strength 1."""
        with ExitStack() as stack:
            stack.enter_context(lora_layers(model.unet, self.factors))
            stack.enter_context(adapters_attached(model.unet, self.adapters, [1.0]))
            stack.enter_context(learned_tokens(model.text_encoder, [self.embedding]))
            yield

    def subject(self, config: TrainConfig, model: VideoCrafter2, steps: int, picture: bytes) -> Subject:
        """What was learned, as a subject with tensors of its own."""
        factors: Mapping[str, LoRAFactors] = {
            name: LoRAFactors(_copy(pair.down), _copy(pair.up)) for name, pair in self.factors.items()
        }
        return Subject(
            factors,
            _copy(self.embedding),
            placeholder=config.placeholder,
            class_word=config.class_word,
            steps=steps,
            base=model.fingerprint,
            training=config.as_metadata(),
            thumbnail=picture,
            adapters={
                name: IdentityAdapter(**{part: _copy(tensor) for part, tensor in adapter.tensors().items()})
                for name, adapter in self.adapters.items()
            },
        )


def start_token(rows: torch.Tensor, vectors: int, generator: torch.Generator) -> torch.Tensor:
    """Where V* ``(vectors, d)`` starts.

    Several vectors start from the class word's own rows in turn, a little apart where a row is used again, for equal ones
    would get equal gradients and stay equal. A single one is the rows' mean at their usual length: rows point different
    ways, so that their mean is shorter than any word.

    Args:
        rows: the class word's rows of the text encoder ``(n, d)``.
        vectors: how many V* has.
        generator: of the differences.
    """
    if vectors == 1:
        mean = rows.mean(0, keepdim=True)
        return mean if len(rows) == 1 else mean * (rows.norm(dim=1).mean() / mean.norm().clamp(min=1e-12))
    token = rows[torch.arange(vectors) % len(rows)].clone()
    apart = torch.randn(token.shape, generator=generator) * TOKEN_SPREAD * rows.std()
    apart[: len(rows)] = 0
    return token + apart


def _low_rank(layer: nn.Linear, rank: int, generator: torch.Generator, device: torch.device) -> LoRAFactors:
    """As the authors start: down ~ N(0, 1/rank), up 0."""
    down = torch.randn(rank, layer.in_features, generator=generator) / rank
    return LoRAFactors(_parameter(down, device), _parameter(torch.zeros(layer.out_features, rank), device))


def _full_rank(layer: nn.Linear, device: torch.device) -> LoRAFactors:
    """A difference of the whole weight, started at 0; the identity stands on the side where it is smaller."""
    difference = _parameter(torch.zeros(layer.out_features, layer.in_features), device)
    if layer.out_features < layer.in_features:
        return LoRAFactors(down=difference, up=torch.eye(layer.out_features, device=device))
    return LoRAFactors(down=torch.eye(layer.in_features, device=device), up=difference)


def _parameter(tensor: torch.Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(tensor.to(device).clone())


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone()
