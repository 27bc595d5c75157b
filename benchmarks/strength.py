"""Three ways to change the strength of a LoRA while sampling, on the 96 target layers at VideoCrafter2's full size.

- *weight*: the weight with ``strength · up @ down`` added is made anew for each call of the layer;
- *branch*: ``W x + strength · up (down x)``;
- *copies*: the merged weights of both phases are kept, a switch puts the others in place.

Each layer is called with as many positions, and as often, as in a forward pass of the whole network. What a way costs is
told in per cent of that pass, whose time follows from the layers' share of its operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from customcrafter_core.base_model import video_layers
from customcrafter_core.base_model.config import UNetConfig
from customcrafter_core.base_model.networks import build_unet
from customcrafter_core.subject.targets import lora_targets

from .results import Row, Section, at_most
from .setup import Setup
from .timing import peak_bytes, time_in_turns
from .unet import inputs_for, ours_with

RANK, LAYERS = 4, 96
MOST_PERCENT, MOST_MB = 1.0, 5.0


@dataclass(frozen=True)
class Call:
    """Calls of layers alike: rows of ``x``, widths, how often in a forward pass."""

    rows: int
    inputs: int
    outputs: int
    times: int


def measure(setup: Setup) -> Section:
    """Time and memory of each way."""
    large = setup if setup.scale == "quick" else replace(setup, scale="full")
    calls, share = calls_of_targets(large)
    ways = ("plain", "weight", "branch")
    timings = time_in_turns({way: partial(run, way, calls, setup) for way in ways}, setup.rounds, setup.device)
    weights = [torch.randn(width) for width in _weight_sizes(large.config)]
    kept = [weight.to(setup.device, setup.dtype) for weight in weights]
    place = [weight.clone() for weight in kept]
    switch = time_in_turns({"switch": partial(_put, place, kept)}, setup.rounds, setup.device).median("switch")
    moments = {way: max(more_for_a_moment(way, call, setup) for call in calls) for way in ways[1:]}
    _MADE.clear()
    forward = timings.median("plain") / share
    factors = _factor_bytes(large.config, setup.dtype) / 1e6
    rows = []
    for way in ways[1:]:
        more = moments[way] / 1e6
        percent = 100 * share * (timings.ratio(way, "plain") - 1)
        rows += [
            at_most(f"{way}: % of a forward pass a step", percent, MOST_PERCENT, f"{percent:.2f}"),
            at_most(f"{way}: MB kept", factors, MOST_MB, f"{factors:.1f}, and {more:.1f} for a moment"),
            Row(f"{way}: switch", "0", "0", True),
        ]
    copies = sum(tensor.nbytes for tensor in kept) / 1e6
    rows += [
        Row("copies: % of a forward pass a step", "0"),
        at_most("copies: MB kept", copies, MOST_MB, f"{copies:.0f}"),
        Row("copies: switch, % of a forward pass", f"{100 * switch / forward:.2f} ({switch:.3f} s)", "0", False),
    ]
    how = (
        f"The {LAYERS} target layers ({large.size}), rank {RANK}. They make up "
        f"{100 * share:.1f} % of the operations of a forward pass, which would take {forward:.1f} s at their speed."
    )
    return Section("strength", "Changing the strength", how, rows, [_choice(rows)])


def _choice(rows: Sequence[Row]) -> str:
    broken = ", ".join(row.what for row in rows if row.met is False) or "none"
    return (
        "Core and host change the weight: it has far fewer rows than what the layer puts out, and it is "
        "the one thing that all layers of the host take. Neither way writes into the model, so nothing can drift and nothing "
        f"has to be undone after an interrupt. Rules of size, time and switch that a way breaks here: {broken}."
    )


def calls_of_targets(setup: Setup) -> tuple[list[Call], float]:
    """How the target layers are called in a forward pass on such a device, and their share of its operations."""
    with torch.device("meta"):
        unet = build_unet(setup.config).eval()
    seen: dict[tuple[int, int, int], int] = {}

    def note(layer: nn.Linear, args: tuple[torch.Tensor, ...]) -> None:
        key = (args[0].shape[:-1].numel(), layer.in_features, layer.out_features)
        seen[key] = seen.get(key, 0) + 1

    for layer in lora_targets(unet).values():
        layer.register_forward_pre_hook(note)
    with (
        video_layers.layers_as_on(setup.device),
        torch.inference_mode(),
        FlopCounterMode(display=False) as counted,
    ):
        ours_with(unet, inputs_for(replace(setup, device=torch.device("meta"))))()
    calls = [Call(*key, times) for key, times in seen.items()]
    operations = sum(2 * call.rows * call.inputs * call.outputs * call.times for call in calls)
    return calls, operations / counted.get_total_flops()


@torch.inference_mode()
def run(way: str, calls: list[Call], setup: Setup) -> None:
    """All calls of a forward pass in one way."""
    for call in calls:
        x, weight, down, up = _tensors(call, setup)
        once: dict[str, Callable[[], torch.Tensor]] = {
            "plain": lambda x=x, weight=weight: F.linear(x, weight),
            "weight": lambda x=x, weight=weight, down=down, up=up: F.linear(x, changed(weight, down, up)),
            "branch": lambda x=x, weight=weight, down=down, up=up: (
                F.linear(x, weight) + 0.8 * F.linear(F.linear(x, down), up)
            ),
        }  # type: ignore[misc]
        for _ in range(call.times):
            once[way]()


@torch.inference_mode()
def more_for_a_moment(way: str, call: Call, setup: Setup) -> int:
    """Bytes that a call takes besides what the layer takes without a LoRA."""
    x, weight, down, up = _tensors(call, setup)
    if way == "weight":
        return peak_bytes(lambda: changed(weight, down, up), setup.device)
    return peak_bytes(lambda: 0.8 * F.linear(F.linear(x, down), up), setup.device)


def changed(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The weight with a LoRA, in one operation."""
    return torch.addmm(weight, up, down, alpha=0.8)


_MADE: dict[tuple[Call, torch.device], tuple[torch.Tensor, ...]] = {}


def _tensors(call: Call, setup: Setup) -> tuple[torch.Tensor, ...]:
    key = (call, setup.device)
    if key not in _MADE:
        shapes = ((call.rows, call.inputs), (call.outputs, call.inputs), (RANK, call.inputs), (call.outputs, RANK))
        _MADE[key] = tuple(torch.randn(shape).to(setup.device, setup.dtype) for shape in shapes)
    return _MADE[key]


def _weight_sizes(config: UNetConfig) -> list[int]:
    with torch.device("meta"):
        return [layer.weight.numel() for layer in lora_targets(build_unet(config)).values()]


def _factor_bytes(config: UNetConfig, dtype: torch.dtype) -> int:
    with torch.device("meta"):
        layers = lora_targets(build_unet(config)).values()
    return sum(RANK * (layer.in_features + layer.out_features) for layer in layers) * dtype.itemsize


def _put(place: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    for to, weight in zip(place, others, strict=True):
        to.copy_(weight)
