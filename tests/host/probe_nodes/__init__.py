"""Nodes for tests only: they look into the host from the inside and write what they see to its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch


def output_file(name: str) -> Path:
    """Where the test reads it."""
    return Path(folder_paths.get_output_directory()) / f"{name}.pt"


class ProbeSave:
    """Write a value (a tensor, a LATENT, an IMAGE, text) to the output folder."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("*",), "name": ("STRING", {"default": "value"})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        return True

    def save(self, value: Any, name: str) -> dict[str, Any]:
        if isinstance(value, dict) and "samples" in value:
            value = value["samples"]
        torch.save(value, output_file(name))
        return {"ui": {"text": [name]}}


class ProbeFault:
    """A model that fails or is interrupted when it is called at a step."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "step": ("INT", {"default": 0, "min": 0, "max": 1000}),
                "kind": (["error", "interrupt", "memory"],),
            }
        }

    def apply(self, model: Any, step: int, kind: str) -> tuple[Any]:
        def wrapper(run: Any, x: Any, sigma: Any, *rest: Any, **more: Any) -> Any:
            sigmas = rest[3]["sample_sigmas"]
            if int((sigmas > float(sigma.max()) * 1.0001).sum()) == step:
                if kind == "interrupt":
                    comfy.model_management.interrupt_current_processing(True)
                    comfy.model_management.throw_exception_if_processing_interrupted()
                if kind == "memory":
                    raise torch.OutOfMemoryError("probe")
                raise RuntimeError(f"probe fault at step {step}")
            return run(x, sigma, *rest, **more)

        clone = model.clone()
        clone.add_wrapper_with_key("apply_model", "probe", wrapper)
        return (clone,)


class ProbeStrength:
    """A model that writes, at each call, how strong a LoRA really is in one weight as its layer will see it."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "change": ("*",), "layer": ("STRING",), "name": ("STRING",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        return True

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")

    def apply(self, model: Any, change: torch.Tensor, layer: str, name: str) -> tuple[Any]:
        seen: list[tuple[float, float]] = []

        def wrapper(run: Any, x: Any, sigma: Any, *rest: Any, **more: Any) -> Any:
            module = run.class_obj.get_submodule(layer)
            before = module.weight.detach().float()
            after = before.clone()
            for function in module.weight_function:
                after = function(after)
            strength = float(((after - before) * change).sum() / (change * change).sum())
            seen.append((float(sigma.max()), strength))
            torch.save(seen, output_file(name))
            return run(x, sigma, *rest, **more)

        clone = model.clone()
        clone.add_wrapper_with_key("apply_model", "probe", wrapper)
        return (clone,)


NODE_CLASS_MAPPINGS = {"ProbeSave": ProbeSave, "ProbeFault": ProbeFault, "ProbeStrength": ProbeStrength}
