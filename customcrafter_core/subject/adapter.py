"""Subjects attached to the UNet as peft layers: strength changes between steps, the base weights never do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from diffusers import UNet3DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from .identity_adapter import adapters_attached
from .subject import LoRAFactors, Subject
from .targets import lora_targets


class AttachedSubjects:
    """Subjects attached to a UNet; `set_strengths` scales each of them."""

    def __init__(
        self, layers: Sequence[LoraLayer], names: Sequence[str], adapter_strengths: Sequence[list[float]]
    ) -> None:
        """Args:
        layers: the LoRA layers of all subjects.
        names: of the subjects in these layers.
        adapter_strengths: one cell for each subject, which its identity adapters read.
        """
        self._layers, self._names, self._cells = layers, names, adapter_strengths
        self.strengths: tuple[float, ...] = ()

    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Set one strength for each subject; one of strength 0 takes no part in the forward pass at all."""
        if tuple(strengths) == self.strengths:
            return
        active = [name for name, strength in zip(self._names, strengths, strict=True) if strength != 0]
        for layer in self._layers:
            layer.set_adapter(active, inference_mode=True)
            for name, strength in zip(self._names, strengths, strict=True):
                layer.set_scale(name, strength)
        for cell, strength in zip(self._cells, strengths, strict=True):
            cell[0] = strength
        self.strengths = tuple(strengths)


@contextmanager
def attached(unet: UNet3DConditionModel, subjects: Sequence[Subject]) -> Iterator[AttachedSubjects]:
    """Attach subjects while the context lasts; afterwards, whatever happened, the UNet is what it was."""
    names = [f"subject{i}" for i in range(len(subjects))]
    factors = [subject.factors for subject in subjects]
    cells = [[0.0] for _ in subjects]
    with ExitStack() as stack:
        layers = stack.enter_context(lora_layers(unet, dict(zip(names, factors, strict=True)), dtype=unet.dtype))
        for subject, cell in zip(subjects, cells, strict=True):
            adapters = {name: one.to(unet.device, unet.dtype) for name, one in subject.adapters.items()}
            stack.enter_context(adapters_attached(unet, adapters, cell))
        attachment = AttachedSubjects(list(layers.values()), names, cells)
        attachment.set_strengths([0.0] * len(subjects))
        yield attachment


@contextmanager
def lora_layers(
    unet: UNet3DConditionModel, adapters: Mapping[str, Mapping[str, LoRAFactors]], *, dtype: torch.dtype
) -> Iterator[dict[str, LoraLayer]]:
    """Replace the layers that ``adapters`` name by peft's LoRA layers around them, and put them back at the end.

    Args:
        unet: the network.
        adapters: adapter name -> layer name -> factors; peft scales them by 1.
        dtype: in which the factors are held; parameters of this dtype are used as they are, without a copy.

    Yields:
        The LoRA layers by name.
    """
    originals = {name: layer for name, layer in lora_targets(unet).items() if any(name in a for a in adapters.values())}
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]  # peft freezes them
    try:
        for adapter, factors in adapters.items():
            if factors:
                _inject(unet, adapter, factors, dtype)
        yield {name: unet.get_submodule(name) for name in originals}
    finally:
        for name, layer in originals.items():
            parent, _, leaf = name.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, layer)
        for parameter in trainable:
            parameter.requires_grad_(True)


def _inject(unet: UNet3DConditionModel, adapter: str, factors: Mapping[str, LoRAFactors], dtype: torch.dtype) -> None:
    ranks = {name: pair.rank for name, pair in factors.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,  # alpha = rank: the scale is the strength itself
        target_modules=list(factors),
        bias="none",
    )
    try:
        inject_adapter_in_model(config, unet, adapter_name=adapter, low_cpu_mem_usage=True)
    finally:
        unet.__dict__.pop("peft_config", None)  # peft's note for itself, of which it warns at the next adapter
    device = unet.conv_in.weight.device
    for name, pair in factors.items():
        layer = unet.get_submodule(name)
        for part, value in ((layer.lora_A[adapter], pair.down), (layer.lora_B[adapter], pair.up)):
            part.weight = (
                value if isinstance(value, nn.Parameter) else nn.Parameter(value.to(device, dtype), requires_grad=False)
            )
