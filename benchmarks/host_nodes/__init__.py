"""A node for benchmarks only: the bare forward passes of a model inside the host."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch


class BenchmarkBareForwards:
    """The network called once for each step, both sides of guidance in one batch, and nothing else."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the node; the seed only makes it run again."""
        seed = ("INT", {"default": 0, "min": 0, "max": 2**63})
        steps = ("INT", {"default": 20, "min": 1, "max": 1000})
        kinds = {"model": ("MODEL",), "positive": ("CONDITIONING",), "latent": ("LATENT",)}
        return {"required": {**kinds, "steps": steps, "seed": seed}}

    def run(self, model: Any, positive: Any, latent: Any, steps: int, seed: int) -> dict[str, Any]:
        """Run."""
        comfy.model_management.load_models_gpu([model])
        network, device = model.model.diffusion_model, model.load_device
        x = torch.randn((2, *latent["samples"].shape[1:])).to(device, network.dtype)
        text = positive[0][0].expand(2, -1, -1).to(device, network.dtype)
        timestep = torch.full((2,), 500, device=device)
        for _ in range(steps):
            network(x, timestep, text, transformer_options={})
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return {"ui": {"text": [str(seed)]}}


NODE_CLASS_MAPPINGS = {"BenchmarkBareForwards": BenchmarkBareForwards}
