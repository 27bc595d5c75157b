"""Nodes for tests only: they look into the host from the inside and write what they see to its output folder."""

from __future__ import annotations

import copy
import gc
from itertools import pairwise
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch


def output_file(name: str) -> Path:
    """Where the test reads it."""
    return Path(folder_paths.get_output_directory()) / f"{name}.pt"


class ProbeSave:
    """Write a value (a tensor, a LATENT, an IMAGE, text) to the output folder; never from the host's cache."""

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

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")

    def save(self, value: Any, name: str) -> dict[str, Any]:
        if isinstance(value, dict) and "samples" in value:
            value = value["samples"]
        torch.save(value, output_file(name))
        return {"ui": {"text": [name]}}


class ProbeFault:
    """A model that fails or is interrupted at a step: before its network is called, or inside one of its layers."""

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
                "layer": ("STRING", {"default": ""}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls) -> bool:
        return True

    def apply(self, model: Any, step: int, kind: str, layer: str) -> tuple[Any]:
        at_step: list[bool] = []

        def wrapper(run: Any, x: Any, sigma: Any, *rest: Any, **more: Any) -> Any:
            sigmas = rest[3]["sample_sigmas"]
            if int((sigmas > float(sigma.max()) * 1.0001).sum()) == step:
                if not layer:
                    fail(kind, step)
                at_step.append(True)
            return run(x, sigma, *rest, **more)

        def inside(weight: torch.Tensor) -> torch.Tensor:
            if at_step:
                fail(kind, step)
            return weight

        clone = model.clone()
        clone.add_wrapper_with_key("apply_model", "probe", wrapper)
        if layer:
            clone.add_weight_wrapper(f"diffusion_model.{layer}.weight", inside)
        return (clone,)


def fail(kind: str, step: int) -> None:
    """Raise what a node's fault, the stop button or a full device raises."""
    if kind == "interrupt":
        comfy.model_management.interrupt_current_processing(True)
        comfy.model_management.throw_exception_if_processing_interrupted()
    if kind == "memory":
        raise torch.OutOfMemoryError("probe out of memory")
    raise RuntimeError(f"probe fault at step {step}")


class ProbeLive:
    """Write how many models the host has loaded, and how many objects of these classes of the pack there are."""

    RETURN_TYPES = ()
    FUNCTION = "count"
    OUTPUT_NODE = True  # the host runs such a node first
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"names": ("PROBE_VALUES",), "name": ("STRING",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, names: Any) -> bool:
        return True

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")

    def count(self, names: Any, name: str) -> dict[str, Any]:
        names = names["__value__"] if isinstance(names, dict) else names
        gc.collect()
        counts = dict.fromkeys(names, 0)
        for held in gc.get_objects():
            kind = type(held)
            if kind.__name__ in counts and "customcrafter" in kind.__module__:
                counts[kind.__name__] += 1
        torch.save({"loaded": len(comfy.model_management.current_loaded_models), **counts}, output_file(name))
        return {"ui": {"text": [name]}}


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


class ProbeSameWeights:
    """Write whether the host takes what is loaded of one model for the other; if not it loads it anew."""

    RETURN_TYPES = ()
    FUNCTION = "compare"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "other": ("MODEL",), "name": ("STRING",)}}

    def compare(self, model: Any, other: Any, name: str) -> dict[str, Any]:
        torch.save(model.patches_uuid == other.patches_uuid, output_file(name))  # what it compares
        return {"ui": {"text": [name]}}


class ProbeDeafLayers:
    """A model whose layers do not ask for changes of their weights, as those of some formats do."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}

    def apply(self, model: Any) -> tuple[Any]:
        def wrapper(run: Any, *given: Any, **more: Any) -> Any:
            layers = [module for module in run.class_obj.modules() if getattr(module, "weight_function", None)]
            kept = [layer.weight_function for layer in layers]
            for layer in layers:
                layer.weight_function = []
            try:
                return run(*given, **more)
            finally:
                for layer, functions in zip(layers, kept, strict=True):
                    layer.weight_function = functions

        clone = model.clone()
        clone.add_wrapper_with_key("apply_model", "probe", wrapper)
        return (clone,)


class ProbeFresh:
    """The same model, never from the host's cache: what hangs on it runs again."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")

    def apply(self, model: Any) -> tuple[Any]:
        return (model.clone(),)


class ProbeLatent:
    """The same seeded latent as one video and as frames in the batch."""

    RETURN_TYPES = ("LATENT", "LATENT")
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 4, "min": 1, "max": 64})
        return {"required": {"channels": number, "frames": number, "height": number, "width": number}}

    def make(self, channels: int, frames: int, height: int, width: int) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(0)
        video = torch.randn(1, channels, frames, height, width, generator=generator)
        return {"samples": video}, {"samples": video[0].movedim(1, 0).contiguous()}


class ProbeLatentOf:
    """A latent that holds a tensor."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        return True

    def make(self, samples: torch.Tensor) -> tuple[Any]:
        return ({"samples": samples},)


class HalfLoaded(comfy.model_patcher.ModelPatcher):
    """Loads about half of its weights, as the host makes it do when a device has no room for more.

    Writes, each time it is loaded, which share is, and how many of its layers are not.
    """

    NAME = "probe_name"  # of what it writes: an attachment, which clones keep

    def partially_load(self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False) -> Any:
        self.unpatch_model(self.offload_device)  # weights of a run before may be there
        loaded = super().partially_load(device_to, self.model_size() // 2, force_patch_weights)
        file = output_file(self.get_attachment(self.NAME))
        offloaded = sum(hasattr(module, "prev_comfy_cast_weights") for module in self.model.modules())
        seen = torch.load(file) if file.exists() else []
        torch.save([*seen, (self.loaded_size() / self.model_size(), offloaded)], file)
        return loaded


class ProbeHalfLoaded:
    """A MODEL, CLIP or VAE of which only half fits."""

    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"whole": ("*",), "name": ("STRING",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        return True

    def apply(self, whole: Any, name: str) -> tuple[Any]:
        is_model = isinstance(whole, comfy.model_patcher.ModelPatcher)
        patcher = (whole if is_model else whole.patcher).clone()
        patcher.__class__ = HalfLoaded
        patcher.set_attachments(HalfLoaded.NAME, name)
        output_file(name).unlink(missing_ok=True)
        if is_model:
            return (patcher,)
        holder = copy.copy(whole)
        holder.patcher = patcher
        return (holder,)


class ProbeHalfMODEL(ProbeHalfLoaded):
    """A MODEL; the older host lets only outputs of the named type into an input."""

    RETURN_TYPES = ("MODEL",)


class ProbeHalfCLIP(ProbeHalfLoaded):
    """A CLIP."""

    RETURN_TYPES = ("CLIP",)


class ProbeHalfVAE(ProbeHalfLoaded):
    """A VAE."""

    RETURN_TYPES = ("VAE",)


class ProbeTensor:
    """A tensor from the test."""

    RETURN_TYPES = ("*",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"values": ("PROBE_VALUES",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, values: Any) -> bool:
        return True

    def make(self, values: Any) -> tuple[Any]:
        return (torch.tensor(values["__value__"] if isinstance(values, dict) else values),)


class ProbeTensors(ProbeTensor):
    """A list of tensors from the test, which may differ in shape."""

    OUTPUT_IS_LIST = (True,)

    def make(self, values: Any) -> tuple[Any]:
        return ([torch.tensor(one) for one in (values["__value__"] if isinstance(values, dict) else values)],)


def small_sd15() -> Any:
    """A small model of the SD1.5 kind, made by the host."""
    import comfy.supported_models

    sizes = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
             "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
             "transformer_depth_middle": 1, "context_dim": 32, "use_spatial_transformer": True, "legacy": False,
             "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False}  # fmt: skip
    return comfy.supported_models.SD15(sizes)


def small_flux() -> Any:
    """A small diffusion transformer of the Flux kind, made by the host."""
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams

    sizes = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32,
             "context_in_dim": 32, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 4, "depth": 1,
             "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True,
             "guidance_embed": False}  # fmt: skip
    if "txt_ids_dims" in FluxParams.__annotations__:
        sizes["txt_ids_dims"] = []
    return comfy.supported_models.Flux(sizes)


class OneLayer(torch.nn.Module):
    """A network of one layer of the host's own, over channels: as quick as a network can be."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.dtype = layer, torch.float32

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.layer(x.movedim(1, -1)).movedim(-1, 1) * 0.1


class BytesLinear(torch.nn.Linear):
    """A layer that holds its weight as bytes, in a format of its own, and reads no list of functions."""

    def __init__(self, of: torch.nn.Linear) -> None:
        super().__init__(of.in_features, of.out_features, of.bias is not None, device="meta")
        self.scale = of.weight.detach().abs().max() / 127
        self.weight = torch.nn.Parameter((of.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = of.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def quantized(form: str) -> Any:
    """Makes layers of the host's own for weights of a smaller type."""

    def made(of: torch.nn.Linear) -> torch.nn.Module:
        import json

        import comfy.ops

        is_float = form.startswith("float8")
        weight = of.weight.detach().float()
        scale = weight.abs().max() / (448 if is_float else 127)
        small = (weight / scale).to(torch.float8_e4m3fn) if is_float else (weight / scale).round().to(torch.int8)
        told = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)
        kinds = comfy.ops.mixed_precision_ops({}, torch.float32)
        layer = kinds.Linear(of.in_features, of.out_features, of.bias is not None, device="cpu", dtype=torch.float32)
        bias = {} if of.bias is None else {"bias": of.bias.detach()}
        layer.load_state_dict({"weight": small, "weight_scale": scale, "comfy_quant": told, **bias}, strict=False)
        return layer

    return made


def one_layer(flow: bool) -> Any:
    """A model of one layer that the host samples with noise prediction or with flow matching."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.ops
    import comfy.supported_models_base

    class Config(comfy.supported_models_base.BASE):
        unet_config = {"disable_unet_model_creation": True}  # noqa: RUF012
        latent_format = comfy.latent_formats.SD15
        sampling_settings = {"shift": 8.0} if flow else {}

    kinds = comfy.model_base.ModelType
    config = Config({"disable_unet_model_creation": True})
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, model_type=kinds.FLOW if flow else kinds.EPS, device="cpu")
    model.diffusion_model = OneLayer(comfy.ops.disable_weight_init.Linear(4, 4, bias=False))
    return config, model


class ProbeSmallModel:
    """A small model with random weights that the host builds itself; text for it, a latent and a LoRA."""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "LATENT", "LORA_MODEL", "*", "STRING")
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": ("STRING",)}}

    def make(self, kind: str) -> tuple[Any, ...]:
        import comfy.model_patcher

        if kind.startswith("one layer"):
            config, model = one_layer(kind.endswith("flow"))
        else:
            config = small_sd15() if kind.startswith("sd15") else small_flux()
            config.set_inference_dtype(torch.float16 if kind.endswith("half") else torch.float32, None)
            if kind == "scaled fp8":
                config.scaled_fp8 = torch.float8_e4m3fn
            model = config.get_model({}, "", device="cpu")
        if kind == "plain parts":  # as models of other packs have them: not of the host's layer classes
            network, made = model.diffusion_model, model.diffusion_model.img_in
            network.img_in = torch.nn.Linear(made.in_features, made.out_features)
            network.gain = torch.nn.Parameter(torch.ones(4))
        generator = torch.Generator().manual_seed(1)
        for name, value in model.diffusion_model.named_parameters():
            scale = 0.05 if value.ndim > 1 else 0.0
            start = 1.0 if (value.ndim == 1 and name.endswith("weight")) or name.endswith("scale") else 0.0
            made = torch.randn(value.shape, generator=generator) * scale + start
            value.data = torch.tensor(0.5) if name.endswith("scale_weight") else made.to(value.dtype)
        lora, layers = {}, []
        for name, value in model.diffusion_model.named_parameters():
            if (
                value.ndim == 2
                and name.endswith(".weight")
                and ("attn" in name or "qkv" in name or name == "layer.weight")
            ):
                layers.append(name.removesuffix(".weight"))
                lora[f"diffusion_model.{layers[-1]}.lora_A.weight"] = (
                    torch.randn(2, value.shape[1], generator=generator) * 0.3
                )
                lora[f"diffusion_model.{layers[-1]}.lora_B.weight"] = (
                    torch.randn(value.shape[0], 2, generator=generator) * 0.3
                )
            if value.ndim == 4 and "in_layers" in name:
                layer = f"diffusion_model.{name.removesuffix('.weight')}"
                lora[f"{layer}.lora_A.weight"] = torch.randn(2, *value.shape[1:], generator=generator) * 0.1
                lora[f"{layer}.lora_B.weight"] = torch.randn(value.shape[0], 2, 1, 1, generator=generator) * 0.1
        if kind.endswith("bytes"):
            for name in layers:
                parent, _, last = name.rpartition(".")
                setattr(
                    model.diffusion_model.get_submodule(parent),
                    last,
                    BytesLinear(model.diffusion_model.get_submodule(name)),
                )
        layer = f"diffusion_model.{layers[0]}"
        change = lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"]
        text = [
            [torch.randn(1, 7, 32, generator=generator), {"pooled_output": torch.randn(1, 32, generator=generator)}]
        ]
        latent = {"samples": torch.zeros(1, config.latent_format.latent_channels, 8, 8)}
        patcher = comfy.model_patcher.ModelPatcher(
            model, load_device=torch.device("cpu"), offload_device=torch.device("cpu")
        )
        return patcher, text, latent, lora, change, layer


class ProbeThreads:
    """Calls a scheduled LoRA for two copies of a model at the same time, each at its own noise level, and asks a layer of each for its
    weight in a third thread; writes the strengths found there.
    """

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "other": ("MODEL",),
                "change": ("*",),
                "layer": ("STRING",),
                "name": ("STRING",),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        return True

    def run(self, model: Any, other: Any, change: torch.Tensor, layer: str, name: str) -> dict[str, Any]:
        from concurrent.futures import ThreadPoolExecutor

        (around,) = model.get_wrappers("apply_model", "customcrafter")
        sigmas, fetcher = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]), ThreadPoolExecutor(1)

        class Run:
            def __init__(self, copied: Any) -> None:
                self.class_obj = copied

            def __call__(self, x: Any, sigma: Any, concat: Any, text: Any, control: Any, options: Any) -> float:
                module = self.class_obj.get_submodule(layer)
                before = module.weight.detach().float()
                after = fetcher.submit(fetched, module, before).result()
                return float(((after - before) * change).sum() / (change * change).sum())

        @torch.inference_mode()
        def fetched(module: Any, weight: torch.Tensor) -> torch.Tensor:
            return module.weight_function[-1](weight)

        @torch.inference_mode()
        def call(number: int) -> list[float]:
            run = Run((model, other)[number].model)
            level = torch.tensor([1.0 if number else 4.0])
            options = {"sample_sigmas": sigmas}
            return [round(around(run, change, level, None, None, None, options), 4) for _ in range(200)]

        with ThreadPoolExecutor(2) as both:
            torch.save(list(both.map(call, range(2))), output_file(name))
        return {"ui": {"text": [name]}}


class ProbePlainLayer:
    """A model one of whose layers ignores changes of its weight."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "layer": ("STRING",)}}

    def apply(self, model: Any, layer: str) -> tuple[Any]:
        def wrapper(run: Any, *given: Any, **more: Any) -> Any:
            module = run.class_obj.get_submodule(layer)
            kept, module.weight_function = module.weight_function, []
            try:
                return run(*given, **more)
            finally:
                module.weight_function = kept

        clone = model.clone()
        clone.add_wrapper_with_key("apply_model", "probe", wrapper)
        return (clone,)


class ProbeCompiled:
    """A model that is compiled as the host's node does, and what compiling came to so far."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "backend": ("STRING",),
                "name": ("STRING",),
                "keys": ("STRING", {"default": ""}),
            }
        }

    def apply(self, model: Any, backend: str, name: str, keys: str) -> tuple[Any]:
        import torch._dynamo
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        def count(run: Any, *given: Any, **more: Any) -> Any:
            result = run(*given, **more)
            counters = torch._dynamo.utils.counters
            torch.save(counters["stats"]["unique_graphs"], output_file(name))
            return result

        clone = model.clone()
        set_torch_compile_wrapper(clone, backend=backend, **({"keys": keys.split(",")} if keys else {}))
        clone.add_wrapper_with_key("outer_sample", "probe", count)
        return (clone,)


class ProbeSteps:
    """Runs samplers on a model, and writes for each call of the network its step, by the sampler's own loop, and the strength of
    the LoRA in one weight.

    A case has a ``sampler`` and may have ``sigmas``, a ``factor`` by which the model is told another sigma, ``parts`` (where the list
    is cut), a ``batch``, ``apart`` (prompt and negative prompt one by one) and ``noise`` 0 (none is added).
    """

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        given = {
            "model": ("MODEL",),
            "text": ("CONDITIONING",),
            "latent": ("LATENT",),
            "change": ("*",),
            "layer": ("STRING",),
        }
        return {"required": {**given, "steps": ("INT",), "cases": ("PROBE_VALUES",), "name": ("STRING",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        return True

    def run(
        self, model: Any, text: Any, latent: Any, change: Any, layer: str, steps: int, cases: Any, name: str
    ) -> dict[str, Any]:
        cases = cases["__value__"] if isinstance(cases, dict) else cases
        torch.save(
            [self.one(model, text, latent["samples"], change, layer, steps, **case) for case in cases],
            output_file(name),
        )
        return {"ui": {"text": [name]}}

    def one(
        self, model: Any, text: Any, latent: torch.Tensor, change: torch.Tensor, layer: str, steps: int, *, sampler: str,
        sigmas: Any = None, factor: float = 1.0, parts: Any = (), batch: int = 1, apart: bool = False, noise: bool = True,
        denoise: float = 1.0,
    ) -> Any:  # fmt: skip
        import comfy.extra_samplers.uni_pc
        import comfy.k_diffusion.sampling
        import comfy.sample
        import comfy.samplers

        loop, seen, modules = [0], [], (comfy.k_diffusion.sampling, comfy.extra_samplers.uni_pc)

        def counted(count: int, **_: Any) -> Any:
            for loop[0] in range(count):
                yield loop[0]

        def note(run: Any, x: torch.Tensor, sigma: torch.Tensor, *given: Any, **more: Any) -> Any:
            module = run.class_obj.get_submodule(layer)
            before = module.weight.detach().float()
            after = before.clone()
            for function in module.weight_function:
                after = function(after)
            strength = float(((after - before) * change).sum() / (change * change).sum())
            seen.append((len(x), float(sigma.max()), loop[0], round(strength, 4)))
            return run(x, sigma, *given, **more)

        probed = model.clone()
        probed.add_wrapper_with_key("apply_model", "probe", note)
        if apart:
            probed.model.memory_required = lambda *_, **__: 1e18
        plan = comfy.samplers.KSampler(
            probed, steps=steps, device="cpu", sampler="euler", scheduler="simple", denoise=denoise,
            model_options=probed.model_options,
        )  # fmt: skip
        whole = plan.sigmas if sigmas is None else torch.tensor(sigmas)
        x, result = latent.repeat(batch, 1, 1, 1), []
        kept = [module.trange for module in modules]
        for module in modules:
            module.trange = counted
        try:
            edges = [0, *parts, len(whole) - 1]
            for start, end in pairwise(edges):
                adds = noise and not start
                first = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * adds
                x = comfy.sample.sample_custom(
                    probed, first, 2.0 if apart else 1.0, told_another(comfy.samplers.sampler_object(sampler), factor),
                    whole[start : end + 1], text, text, x, disable_pbar=True, seed=3,
                )  # fmt: skip
                result.append(list(seen))
                seen.clear()
        except Exception as error:  # some samplers cannot do some lists, with or without a LoRA
            return {"error": f"{type(error).__name__}: {error}"}
        finally:
            for module, own in zip(modules, kept, strict=True):
                module.trange = own
        sampling = probed.get_model_object("model_sampling")
        levels = [(float(sigma), float(sampling.timestep(sigma))) for sigma in whole[:-1]]
        return {"calls": result, "latent": x, "levels": levels}


def told_another(sampler: Any, factor: float) -> Any:
    """A sampler that tells the model another sigma, as those that add detail do."""
    inner = sampler.sampler_function

    class Told:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __getattr__(self, name: str) -> Any:
            return getattr(self.model, name)

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **more: Any) -> torch.Tensor:
            return self.model(x, sigma * factor, **more)

    if factor != 1.0:
        sampler.sampler_function = lambda model, x, sigmas, **more: inner(Told(model), x, sigmas, **more)
    return sampler


class ProbeControlNet:
    """A small ControlNet of the SD1.5 kind with random weights, made by the host."""

    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any]:
        import comfy.cldm.cldm
        import comfy.controlnet

        network = comfy.cldm.cldm.ControlNet(
            image_size=32, in_channels=4, model_channels=32, hint_channels=3, num_res_blocks=[1, 1],
            channel_mult=[1, 2], transformer_depth=[1, 1], transformer_depth_middle=1, context_dim=32,
            use_spatial_transformer=True, legacy=False, num_heads=4, device=torch.device("cpu"),
        )  # fmt: skip
        return (comfy.controlnet.ControlNet(network, load_device=torch.device("cpu")),)


class ProbeClipVision:
    """The host's CLIP_VISION of a small CLIP in a folder of models/clip_vision, whose sizes its loader does not know."""

    RETURN_TYPES = ("CLIP_VISION",)
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"folder": ("STRING",)}}

    def load(self, folder: str) -> tuple[Any]:
        import json

        import comfy.clip_vision
        import comfy.utils

        source = Path(folder_paths.get_folder_paths("clip_vision")[0]) / folder
        config = json.loads((source / "config.json").read_text())
        wanted = output_file("clip_vision_config").with_suffix(".json")
        sizes = {**config["vision_config"], "projection_dim": config["projection_dim"]}
        wanted.write_text(json.dumps({**sizes, "model_type": "clip_vision_model"}))
        vision = comfy.clip_vision.ClipVisionModel(str(wanted))
        missing, _ = vision.load_sd(comfy.utils.load_torch_file(str(source / "model.safetensors")))
        assert not missing, missing
        return (vision,)


from .video_models import ProbeVideoModel  # noqa: E402 (it takes `small_sd15` from here)

PROBES = [
    ProbeVideoModel,
    ProbeClipVision,
    ProbeSave,
    ProbeTensor,
    ProbeTensors,
    ProbeFault,
    ProbeLive,
    ProbeStrength,
    ProbeSameWeights,
    ProbeFresh,
    ProbeDeafLayers,
    ProbeLatent,
    ProbeLatentOf,
    ProbeHalfMODEL,
    ProbeHalfCLIP,
    ProbeHalfVAE,
    ProbeSmallModel,
    ProbeSteps,
    ProbeThreads,
    ProbePlainLayer,
    ProbeCompiled,
    ProbeControlNet,
]
NODE_CLASS_MAPPINGS = {probe.__name__: probe for probe in PROBES}
