"""Short ways to build and run graphs of this pack's nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.host.graphs import Graph, Node
from tests.host.running_host import PACK, RunningHost

OWN_SAMPLER = "ddim_videocrafter2"
SIZE = {"width": 64, "height": 48, "frames": 4}
PROMPT = "a <new1> teddy bear runs"
STEPS, SEED, CFG = 5, 11, 5.0  # 1000 / 5 steps come out even: the list has just as many


@dataclass
class Bench:
    """Builds graphs; each `Scene` is a graph that has the model, two prompts and an empty latent."""

    host: RunningHost

    def scene(self, *, dtype: str = "float32", prompt: str = PROMPT, subject: str | None = "first") -> Scene:
        """Start a graph."""
        return Scene(self.host, dtype, prompt, subject)

    def own_nodes(self) -> dict[str, Any]:
        """This pack's nodes as the host describes them, by whose they are, not by their ids."""
        nodes = self.host.get("/object_info")
        return {name: node for name, node in sorted(nodes.items()) if node["python_module"] == f"custom_nodes.{PACK}"}


class Scene:
    """A graph with a model and prompts, and the results saved from it."""

    def __init__(self, host: RunningHost, dtype: str, prompt: str, subject: str | None) -> None:
        self.host, self.graph = host, Graph()
        add = self.graph.add
        loaded = add("CustomCrafterLoadVideoCrafter2", checkpoint="reference.safetensors", dtype=dtype)
        self.model, self.clip, self.vae = loaded[0], loaded[1], loaded[2]
        self.subject: list[Any] | None = None
        if subject is not None:
            self.subject = self.load_subject(subject)
            self.clip = add("CustomCrafterTeachToken", clip=self.clip, subject=self.subject)[0]
        self.encode(prompt)
        self.latent = add("CustomCrafterEmptyVideoLatent", **SIZE, batch_size=1, model=self.model)[0]

    def add(self, kind: str, /, **inputs: Any) -> Node:
        """Add a node."""
        return self.graph.add(kind, **inputs)

    def load_subject(self, name: str) -> list[Any]:
        """A SUBJECT from its file."""
        return self.add("CustomCrafterLoadSubject", subject=f"{name}.safetensors")[0]

    def encode(self, prompt: str) -> None:
        """Set the prompt."""
        self.positive = self.add("CLIPTextEncode", clip=self.clip, text=prompt)[0]
        self.negative = self.add("CLIPTextEncode", clip=self.clip, text="")[0]

    def fresh(self) -> Scene:
        """Make everything that hangs on the model run again, although the host has it in its cache."""
        self.model = self.add("ProbeFresh", model=self.model)[0]
        return self

    def dynamic_sampler(self, lambda_s: float = 0.4, lambda_l: float = 0.8, k: int = 2, **changes: Any) -> Node:
        """The Dynamic Weighted KSampler."""
        inputs: dict[str, Any] = {
            "model": self.model, "subject": self.subject, "positive": self.positive, "negative": self.negative,
            "latent_image": self.latent, "seed": SEED, "steps": STEPS, "cfg": CFG, "eta": 1.0,
            "sampler_name": OWN_SAMPLER, "scheduler": "ddim_uniform", "denoise": 1.0,
            "lambda_s": lambda_s, "lambda_l": lambda_l, "k": k,
        }  # fmt: skip
        return self.add("CustomCrafterDynamicWeightedKSampler", **(inputs | changes))

    def host_sampler(self, sampler: str = "ddim", **changes: Any) -> Node:
        """The host's KSampler."""
        inputs: dict[str, Any] = {
            "model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent,
            "seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": sampler, "scheduler": "ddim_uniform",
            "denoise": 1.0,
        }  # fmt: skip
        return self.add("KSampler", **(inputs | changes))

    def advanced_sampler(self, start: int, end: int, **changes: Any) -> Node:
        """The host's KSampler Advanced for a part of the steps."""
        inputs: dict[str, Any] = {
            "model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent,
            "add_noise": "enable" if start == 0 else "disable", "noise_seed": SEED, "steps": STEPS, "cfg": CFG,
            "sampler_name": "ddim", "scheduler": "ddim_uniform", "start_at_step": start, "end_at_step": end,
            "return_with_leftover_noise": "enable" if end < STEPS else "disable",
        }  # fmt: skip
        return self.add("KSamplerAdvanced", **(inputs | changes))

    def lora(self, strength: float, name: str = "first") -> list[Any]:
        """The model behind the host's LoRA loader."""
        return self.add(
            "LoraLoaderModelOnly", model=self.model, lora_name=f"{name}.safetensors", strength_model=strength
        )[0]

    def dynamic_weights(self, lambda_s: float = 0.4, lambda_l: float = 0.8, k: int = 2, **more: Any) -> list[Any]:
        """The model behind Dynamic Subject Weights."""
        node = self.add(
            "CustomCrafterDynamicSubjectWeights",
            model=self.model, clip=self.clip, subject=self.subject, lambda_s=lambda_s, lambda_l=lambda_l, k=k, **more,
        )  # fmt: skip
        return node[0]

    def constant_subject(self, strength: float = 0.7) -> list[Any]:
        """The model behind Apply Subject."""
        node = self.add(
            "CustomCrafterApplySubject", model=self.model, clip=self.clip, subject=self.subject, strength=strength
        )
        return node[0]

    def latent_of(self, tensor: list[Any]) -> list[Any]:
        """A LATENT that holds a tensor of the test's."""
        return self.add("ProbeLatentOf", samples=tensor)[0]

    def keep(self, value: list[Any], name: str = "value") -> Scene:
        """Save an output when the graph runs."""
        self.add("ProbeSave", value=value, name=name)
        return self

    def run(self) -> dict[str, Any]:
        """Run the graph."""
        return self.host.run(self.graph.nodes)

    def result(self, *values: list[Any]) -> Any:
        """Run the graph and give these outputs."""
        saving = sum(node["class_type"] == "ProbeSave" for node in self.graph.nodes.values())  # earlier ones save again
        names = [f"result{number}" for number in range(saving, saving + len(values))]
        for name, value in zip(names, values, strict=True):
            self.keep(value, name)
        self.run()
        found = [self.saved(name) for name in names]
        return found[0] if len(found) == 1 else found

    def saved(self, name: str) -> Any:
        """What a probe saved."""
        return torch.load(self.host.base / "output" / f"{name}.pt", weights_only=False)


def distance(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance."""
    return float((result.double() - expected.double()).norm() / expected.double().norm())
