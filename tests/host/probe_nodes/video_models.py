"""Small video models with random weights that the host builds itself, with all that a run of them needs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

TEXT = 32
"""Width of the text's embeddings."""


def wan_config(version: str) -> Any:
    """Wan 2.1, or the 5 B kind of Wan 2.2."""
    import comfy.supported_models as models

    channels = 16 if version == "wan21" else 48
    made = models.WAN21_T2V if version == "wan21" else models.WAN22_T2V
    return made(
        {
            "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 64, "num_heads": 2, "num_layers": 2,
            "in_dim": channels, "out_dim": channels, "text_dim": TEXT, "patch_size": (1, 2, 2), "freq_dim": 32,
            "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
        }
    )  # fmt: skip


def ltxv_config() -> Any:
    """LTX Video."""
    import comfy.supported_models as models

    return models.LTXV(
        {
            "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32,
            "num_attention_heads": 2, "caption_channels": TEXT, "num_layers": 2,
        }
    )  # fmt: skip


def hunyuan_config() -> Any:
    """HunyuanVideo."""
    import comfy.ldm.hunyuan_video.model as network
    import comfy.supported_models as models

    known = {field.name for field in fields(network.HunyuanVideoParams)}
    settings = {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": TEXT, "context_in_dim": TEXT, "hidden_size": 64,
        "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 256,
        "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": True, "byt5": False, "meanflow": False,
        "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
    }  # fmt: skip
    return models.HunyuanVideo(
        {"image_model": "hunyuan_video", **{name: value for name, value in settings.items() if name in known}}
    )


CONFIGS = {
    "wan21": lambda: wan_config("wan21"),
    "wan22": lambda: wan_config("wan22"),
    "ltxv": ltxv_config,
    "hunyuan": hunyuan_config,
}


def make_model(config: Any) -> Any:
    """A model patcher with random weights, the same every time."""
    import comfy.model_patcher

    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    generator = torch.Generator().manual_seed(1)
    for name, value in model.diffusion_model.named_parameters():
        start = 1.0 if value.ndim == 1 and name.endswith(("weight", "scale")) else 0.0
        scale = 0.7 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.0
        value.data = (torch.randn(value.shape, generator=generator) * scale + start).to(value.dtype)
    place = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=place, offload_device=place)


def make_lora(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A LoRA of the attention."""
    generator, lora = torch.Generator().manual_seed(2), {}
    for name, value in network.named_parameters():
        layer, _, kind = name.rpartition(".")
        if value.ndim == 2 and kind == "weight" and layer.rpartition(".")[2] in ("q", "k", "v", "to_q", "to_k", "qkv"):
            size, rank = value.shape, 2
            lora[f"diffusion_model.{layer}.lora_A.weight"] = torch.randn(rank, size[1], generator=generator) * 0.5
            lora[f"diffusion_model.{layer}.lora_B.weight"] = torch.randn(size[0], rank, generator=generator) * 0.5
    return lora


class SmallVAE:
    """Stands for a video VAE: four frames for each of the latent's but the first, all values from the latent's own."""

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """From ``(1, c, t, h, w)`` to ``(1, 4 t - 3, 8 h, 8 w, 3)``; from frames ``(t, c, h, w)`` to ``(t, 8 h, 8 w, 3)``."""
        is_video = latent.ndim == 5
        video = (latent if is_video else latent.movedim(0, 1)[None])[:, :3].float()
        t, h, w = video.shape[2:]
        size = (4 * t - 3 if is_video else t, 8 * h, 8 * w)
        pixels = torch.nn.functional.interpolate(video, size=size, mode="trilinear").sigmoid()
        frames = pixels.movedim(1, -1)
        return frames if is_video else frames[0]


class ProbeVideoModel:
    """A small video model, positive and negative text for it, a latent, a VAE and a LoRA."""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "LATENT", "VAE", "LORA_MODEL")
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": ([*CONFIGS, "sd15"],)}}

    def make(self, kind: str) -> tuple[Any, ...]:
        from . import small_sd15

        config = small_sd15() if kind == "sd15" else CONFIGS[kind]()
        model = make_model(config)
        generator = torch.Generator().manual_seed(3)

        def text() -> list[Any]:
            told = {"pooled_output": torch.randn(1, TEXT, generator=generator)}
            if kind == "ltxv":  # it cannot do without
                told["attention_mask"] = torch.ones(1, 7, dtype=torch.int64)
            return [[torch.randn(1, 7, TEXT, generator=generator), told]]

        channels = config.latent_format.latent_channels
        shape = (3, channels, 8, 8) if kind == "sd15" else (1, channels, 3, 6, 8)
        return (
            model,
            text(),
            text(),
            {"samples": torch.zeros(shape)},
            SmallVAE(),
            make_lora(model.model.diffusion_model),
        )
