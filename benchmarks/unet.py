"""The UNet against the original modules on the same weights, in one run.

The original comes from a checkout given by ``--videocrafter``. Nothing of it is part of this project.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from customcrafter_core.base_model.config import UNetConfig
from customcrafter_core.base_model.key_tables import rename, reverse, unet_table
from customcrafter_core.base_model.networks import build_unet
from customcrafter_core.memory.counting import DryRun, LiveBytes

from .results import Row, Section, at_least, at_most, missing
from .setup import Setup, random_unet
from .timing import peak_bytes, time_in_turns

LEAST_FASTER, MOST_MEMORY, SAME = 1.5, 0.333, 1e-5
TOKENS, FPS = 77, 28
FULL = "16x40x64"
PAIRS = "aten.bmm"
"""The products of all pairs of positions, as attention makes them on a device without content."""
UNUSED = ("cv2",)  # imported by the original's helpers, used by nothing that is measured


def measure(setup: Setup) -> Section:
    """Time and memory of one forward pass, ours and the original's in turns; the original's weights are our tensors."""
    unet = random_unet(setup)
    inputs = inputs_for(setup)
    how = f"One forward pass of one video ({setup.size}), the same weights in both; memory is of activations."
    with torch.inference_mode():
        ours = ours_with(unet, inputs)
        if setup.videocrafter is None:
            took, peak = time_in_turns({"ours": ours}, setup.rounds, setup.device), peak_bytes(ours, setup.device)
            why = "no checkout of the original given (--videocrafter PATH)"
            rows = [missing(what, why) for what in ("original / ours, time", "ours / original, activations")]
            return Section("unet", "UNet", how, [*rows, Row("ours", f"{took.median('ours'):.2f} s, {_mb(peak)}")])
        with original(setup.videocrafter, unet, setup.config) as theirs:
            x, timestep, text, fps = inputs
            ways = {
                "ours": ours,
                "original": lambda: _in_type_of(x, lambda: theirs(x, timestep, context=text, fps=fps)),
            }
            distance = _distance(ours(), ways["original"]())
            timings = time_in_turns(ways, setup.rounds, setup.device)
            peaks = {name: peak_bytes(way, setup.device) for name, way in ways.items()}
    shown = ", ".join(f"{name} {timings.median(name):.2f} s and {_mb(peaks[name])}" for name in ways)
    share = peaks["ours"] / peaks["original"]
    counted = counted_activations(setup, setup.videocrafter)
    both = f"{_mb(counted['ours'])} and {_mb(counted['original'])}"
    full_share = counted["ours"] / counted["original"]
    faster = timings.ratio("original", "ours")
    rows = [
        _only_full(setup, at_least("original / ours, time", faster, LEAST_FASTER, timings.both("original", "ours"))),
        _only_full(setup, at_most("ours / original, activations", share, MOST_MEMORY)),
        _for_cpu(
            setup,
            at_most(f"the same at full size, {FULL} (counted)", full_share, MOST_MEMORY, f"{full_share:.3f} ({both})"),
        ),
        Row("relative distance of the results", f"{distance:.1e}", *_same(setup, distance)),
    ]
    return Section("unet", "UNet", how, rows, [f"Medians: {shown}."])


def counted_activations(setup: Setup, checkout: Path) -> dict[str, int]:
    """Bytes of activations at full size, counted on tensors without content: the same on every machine.

    Slices are as long as on the setup's device. Ours attends by a kernel that keeps no table of pairs, as torch does on
    every device; the original makes the table.
    """
    dry, full = DryRun(), replace(setup, scale="full")
    with dry.fake, setup.device:
        unet = build_unet(full.config).eval()
        inputs = inputs_for(full)
    with torch.no_grad(), dry.counted([*unet.parameters(), *unet.buffers(), *inputs]):
        ours_with(unet, inputs)()
    hollow = replace(full, device=torch.device("meta"))
    with hollow.device:
        unet = build_unet(hollow.config).eval()
    x, timestep, text, fps = inputs = inputs_for(hollow)
    with (
        torch.no_grad(),
        original(checkout, unet, hollow.config) as network,
        LiveBytes([*network.parameters(), *network.buffers(), *inputs]) as theirs,
    ):
        network(x, timestep, context=text, fps=fps)
    return {"ours": dry.peak, "original": theirs.peak}


def counted_operations(setup: Setup) -> dict[str, float]:
    """Operations of a forward pass: all, and those of pairs of positions, in frames and along time."""
    with torch.device("meta"):
        unet = build_unet(setup.config).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        ours_with(unet, inputs_for(replace(setup, device=torch.device("meta"))))()
    counts = {"all": float(counter.get_total_flops()), "attention in frames": 0.0, "attention along time": 0.0}
    for name, operations in counter.get_flop_counts().items():
        if name.endswith((".attn1", ".attn2")):
            along_time = (
                "temp_attentions" in name or "transformer_in" in name
            )  # whose second attention is to itself too
            if along_time or name.endswith(".attn1"):
                kind = "attention along time" if along_time else "attention in frames"
                counts[kind] += sum(number for kernel, number in operations.items() if str(kernel) == PAIRS)
    return counts


def _only_full(setup: Setup, row: Row) -> Row:
    """The row; its target is for a CPU, and below full size it does not count: what it is about grows with the video."""
    row = _for_cpu(setup, row)
    return row if setup.full or not row.target else replace(row, target=f"at full size {row.target}", met=None)


def _for_cpu(setup: Setup, row: Row) -> Row:
    """The row, with its target on a CPU only."""
    return row if setup.device.type == "cpu" else replace(row, target="", met=None)


def _same(setup: Setup, distance: float) -> tuple[str, bool | None]:
    """Half precision rounds otherwise in every layer; float32 has to agree."""
    return (f"at most {SAME:g}", distance <= SAME) if setup.dtype == torch.float32 else ("", None)


def inputs_for(setup: Setup) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latent, timestep, text and frame rate of one video."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, setup.config.in_channels, *setup.latent, generator=generator)
    text = torch.randn(1, TOKENS, setup.config.cross_attention_dim, generator=generator)
    numbers = (torch.tensor([500], device=setup.device), torch.tensor([FPS], device=setup.device))
    return x.to(setup.device, setup.dtype), numbers[0], text.to(setup.device, setup.dtype), numbers[1]


def ours_with(unet: UNet3DConditionModel, inputs: tuple[torch.Tensor, ...]) -> Callable[[], torch.Tensor]:
    """One forward pass."""
    x, timestep, text, fps = inputs
    return lambda: unet(x, timestep, text, timestep_cond=fps, return_dict=False)[0]


@contextmanager
def original(checkout: Path, unet: UNet3DConditionModel, config: UNetConfig) -> Iterator[nn.Module]:
    """The original's UNet on the very weights of ours, while the context lasts."""
    standing_in = [name for name in UNUSED if importlib.util.find_spec(name) is None]
    sys.modules.update({name: types.ModuleType(name) for name in standing_in})
    sys.path.insert(0, str(checkout.resolve()))
    try:
        kind: Any = importlib.import_module("lvdm.modules.networks.openaimodel3d").UNetModel
        first = config.block_out_channels[0]
        with torch.device("meta"):
            network = kind(
                in_channels=config.in_channels, out_channels=config.in_channels, model_channels=first,
                attention_resolutions=[2**i for i, attends in enumerate(config.attends) if attends],
                num_res_blocks=config.layers_per_block, channel_mult=[c // first for c in config.block_out_channels],
                num_head_channels=config.attention_head_dim, context_dim=config.cross_attention_dim, use_linear=True,
                use_checkpoint=False, temporal_conv=True, use_relative_position=False, temporal_length=16,
                addition_attention=True, fps_cond=True,
            )  # fmt: skip
        shapes, backwards = network.state_dict(), reverse(unet_table(config))
        state = {str(rename(name, backwards)): value for name, value in unet.state_dict().items()}
        state = {name: value.reshape(shapes[name].shape) for name, value in state.items()}
        network.load_state_dict(state, assign=True)
        network.dtype = unet.dtype
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield network.eval()
    finally:
        sys.path.remove(str(checkout.resolve()))
        for name in [name for name in sys.modules if name.split(".")[0] in ("lvdm", *standing_in)]:
            del sys.modules[name]


def _in_type_of(x: torch.Tensor, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    """In half precision the original needs autocast: it makes some of its inputs in float32 whatever the weights are."""
    with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
        return run()


def _distance(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.double() - expected.double()).norm() / expected.double().norm())


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
