"""Memory of a training step: layers computed again, and the estimate before the first step."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.subject.adapter import lora_layers
from customcrafter_core.subject.subject import LoRAFactors
from customcrafter_core.subject.targets import lora_targets
from customcrafter_core.training.recompute import RecomputedLayer, recomputed


def factors(model: VideoCrafter2, rank: int = 2) -> dict[str, LoRAFactors]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: LoRAFactors(
            nn.Parameter(torch.randn(rank, layer.in_features, generator=generator)),
            nn.Parameter(torch.randn(layer.out_features, rank, generator=generator) * 0.1),
        )
        for name, layer in lora_targets(model.unet).items()
    }


def backward(model: VideoCrafter2, learned: dict[str, LoRAFactors]) -> list[torch.Tensor]:
    """Gradients of one step, text embeddings included."""
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(2, 77, model.geometry.unet.context_dim, generator=generator).requires_grad_()
    x = torch.randn(*model.latent_shape(64, 48, 3, 2), generator=generator)
    predicted = model.unet(x, torch.tensor([3, 700]), text, timestep_cond=torch.tensor([8, 8])).sample
    predicted.pow(2).mean().backward()
    values = [text, *(part for pair in learned.values() for part in (pair.down, pair.up))]
    assert all(value.grad is not None for value in values)
    return [value.grad for value in values if value.grad is not None]


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_the_same(model: VideoCrafter2, training: bool) -> None:
    """Also with the dropout of the temporal convolutions, which must drop the same values the second time."""
    results = []
    model.unet.train(training)
    try:
        for again in (False, True):
            learned = factors(model)
            torch.manual_seed(0)
            context = recomputed(model.unet) if again else nullcontext()
            with lora_layers(model.unet, {"s": learned}, dtype=torch.float32), context:
                results.append(backward(model, learned))
    finally:
        model.unet.eval()
    assert len(results[0]) == 2 * len(lora_targets(model.unet)) + 1
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_every_layer_of_all_blocks_is_computed_again(model: VideoCrafter2) -> None:
    calls: dict[str, int] = {}
    kinds = ("ResnetBlock2D", "TemporalConvLayer", "Transformer2DModel", "TransformerTemporalModel")
    layers = {n: m for n, m in model.unet.named_modules() if type(m).__name__ in kinds and n != "transformer_in"}
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1))
        for name, layer in layers.items()
    ]
    learned = factors(model)
    with lora_layers(model.unet, {"s": learned}, dtype=torch.float32), recomputed(model.unet):
        with torch.no_grad():
            assert sum(isinstance(m, RecomputedLayer) for m in model.unet.modules()) == len(layers)
        backward(model, learned)
    for hook in hooks:
        hook.remove()
    first = {"down_blocks.0.resnets.0", "down_blocks.0.temp_convs.0"}  # before them nothing is learned
    assert calls == {name: 1 if name in first else 2 for name in layers}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_the_network_is_what_it_was_afterwards(model: VideoCrafter2, error: type[BaseException] | None) -> None:
    before = dict(model.unet.named_modules())
    with pytest.raises(error) if error else nullcontext(), recomputed(model.unet):
        assert dict(model.unet.named_modules()).keys() != before.keys()
        if error:
            raise error
    after = dict(model.unet.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is module for name, module in before.items())


def test_without_gradients_a_layer_just_runs(model: VideoCrafter2) -> None:
    x, text = torch.zeros(1, 4, 2, 6, 8), torch.zeros(1, 77, model.geometry.unet.context_dim)
    with torch.no_grad():
        plain = model.unet(x, 5, text, timestep_cond=torch.tensor([8])).sample
        with recomputed(model.unet):
            assert torch.equal(model.unet(x, 5, text, timestep_cond=torch.tensor([8])).sample, plain)
