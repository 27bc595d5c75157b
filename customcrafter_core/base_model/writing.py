"""Write a model in VideoCrafter2's own checkpoint format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..files.tensor_file import write_tensors
from .config import TEXT_PREFIX, Defaults, ModelConfig, config_metadata
from .conversion import named_parts
from .key_tables import rename, reverse
from .networks import Networks


def original_state_dict(networks: Networks, config: ModelConfig) -> dict[str, torch.Tensor]:
    """All weights under VideoCrafter2's names and in its shapes.

    The text tower's last block, which is never used, is written as zeros so that the file has the original's layout.
    """
    state: dict[str, torch.Tensor] = {}
    for prefix, module, table in named_parts(networks, config):
        backwards = reverse(table)
        for name, value in _merge_qkv(module.state_dict()).items():
            original = rename(name, backwards)
            assert original is not None, f"no original name for {name}"
            state[prefix + original] = _original_shape(original, value)
    blocks = f"{TEXT_PREFIX}transformer.resblocks."
    last = f"{blocks}{config.text.num_hidden_layers - 1}."
    for name in [name for name in state if name.startswith(last)]:
        state[f"{blocks}{config.text.num_hidden_layers}.{name.removeprefix(last)}"] = torch.zeros_like(state[name])
    return state


def _merge_qkv(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put the q, k, v of the text tower's self-attention back into one tensor."""
    merged = {}
    for name, value in state.items():
        if ".self_attn.q_proj." in name:
            parts = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            merged[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            merged[name] = value
    return merged


def _original_shape(original: str, value: torch.Tensor) -> torch.Tensor:
    """Give linear layers and flat convolutions that have more axes in the original their trailing ones back."""
    if value.ndim == 2 and original in ("init_attn.0.proj_in.weight", "init_attn.0.proj_out.weight"):
        return value.unsqueeze(-1)
    if value.ndim == 2 and ".mid.attn_1." in original:
        return value[..., None, None]
    if value.ndim == 4 and ".temopral_conv." in original:
        return value.unsqueeze(-1)
    return value


def write_checkpoint(
    path: str | Path,
    networks: Networks,
    config: ModelConfig,
    *,
    defaults: Defaults,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint that `load_videocrafter2` reads; complete or not at all.

    Args:
        path: ends in ``.safetensors``.
        networks: the weights.
        config: the sizes they were built with, stored as metadata.
        defaults: the video the model was made for, stored as metadata.
        dtype: of the file.
    """
    state = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in original_state_dict(networks, config).items()
    }
    write_tensors(Path(path), state, config_metadata(config, defaults))
