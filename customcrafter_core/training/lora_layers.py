"""Layers with a LoRA that is learned, by peft: a branch beside each layer, through which alone gradients are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffusers import UNet3DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from ..subject.subject import LoRAFactors

ADAPTER = "subject"


@contextmanager
def lora_layers(unet: UNet3DConditionModel, factors: Mapping[str, LoRAFactors]) -> Iterator[None]:
    """Replace the layers that ``factors`` name by peft's LoRA layers around them, and put them back at the end.

    Args:
        unet: the network, whose own parameters have no gradients meanwhile.
        factors: layer name -> factors, scaled by 1; parameters among them are used as they are, without a copy.
    """
    originals = {name: unet.get_submodule(name) for name in factors}
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]  # peft freezes them
    try:
        if factors:
            _inject(unet, factors)
        yield
    finally:
        for name, layer in originals.items():
            parent, _, leaf = name.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, layer)
        for parameter in trainable:
            parameter.requires_grad_(True)


def _inject(unet: UNet3DConditionModel, factors: Mapping[str, LoRAFactors]) -> None:
    ranks = {name: pair.rank for name, pair in factors.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,  # alpha = rank: a scale of 1
        target_modules=list(factors),
        bias="none",
    )
    try:
        inject_adapter_in_model(config, unet, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    finally:
        unet.__dict__.pop("peft_config", None)  # peft's note for itself, of which it warns at the next adapter
    for name, pair in factors.items():
        layer = unet.get_submodule(name)
        for part, value in ((layer.lora_A[ADAPTER], pair.down), (layer.lora_B[ADAPTER], pair.up)):
            part.weight = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
