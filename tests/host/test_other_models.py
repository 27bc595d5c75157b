"""Dynamic LoRA strength on models of the host's own: a UNet of the SD1.5 kind and a transformer of the Flux kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.host.bench import Bench, Scene, distance
from tests.host.graphs import Graph, Node
from tests.host.running_host import PromptFailed

STEPS = 5


class Small(Scene):
    """A graph around a small model of the host's."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self.host, self.graph = bench.host, Graph()
        self.made = self.add("ProbeSmallModel", kind=kind)
        self.model, self.positive, self.latent, self.loaded_lora = (self.made[i] for i in range(4))
        self.negative, self.subject = self.positive, None

    def sample(self, model: list[Any], sampler: str = "euler", **more: Any) -> Node:
        """The host's KSampler."""
        return self.host_sampler(sampler, model=model, scheduler="simple", cfg=1.0, steps=STEPS, **more)

    def dynamic(self, lambda_s: float, lambda_l: float, k: int, model: list[Any] | None = None) -> list[Any]:
        """The model behind Dynamic LoRA Weights."""
        return self.add(
            "CustomCrafterDynamicLoRAWeights", model=model or self.model, lora="none", lora_model=self.loaded_lora,
            lambda_s=lambda_s, lambda_l=lambda_l, k=k,
        )[0]  # fmt: skip

    def plain(self, strength: float) -> list[Any]:
        """The model behind the host's loader."""
        return self.add(
            "LoraModelLoader", model=self.model, lora=self.loaded_lora, strength_model=strength, bypass=False
        )[0]


@pytest.mark.parametrize(("kind", "tolerance"), [("sd15", 1e-6), ("flux", 1e-6), ("sd15 half", 2e-3)])
def test_equal_strengths_are_the_hosts_loader(bench: Bench, kind: str, tolerance: float) -> None:
    """Of linear layers and, in sd15, of convolutions."""
    scene = Small(bench, kind)
    base, ours, theirs, zero = scene.result(
        scene.sample(scene.model)[0],
        scene.sample(scene.dynamic(0.5, 0.5, 2))[0],
        scene.sample(scene.plain(0.5))[0],
        scene.sample(scene.dynamic(0.0, 0.0, 2))[0],
    )
    assert distance(ours, theirs) < tolerance
    assert distance(ours, base) > max(1e-3, 10 * tolerance)
    assert torch.equal(zero, base)


def test_the_host_keeps_the_model_where_it_is(bench: Bench) -> None:
    """With another strength it is the same model; the host's own loader makes another one, which is loaded anew."""
    scene = Small(bench, "sd15")
    for name, model in (("dynamic", scene.dynamic(0.4, 0.8, 2)), ("loader", scene.plain(0.5))):
        scene.add("ProbeSameWeights", model=scene.model, other=model, name=name)
    scene.run()
    assert scene.saved("dynamic") is True and scene.saved("loader") is False


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_first_and_last_steps_only(bench: Bench, kind: str) -> None:
    """Strong, then off: as two KSampler Advanced, one with the LoRA and one without."""
    scene = Small(bench, kind)

    def part(start: int, end: int, model: list[Any], latent: list[Any]) -> list[Any]:
        return scene.advanced_sampler(
            start, end, model=model, latent_image=latent, sampler_name="euler", scheduler="simple", cfg=1.0
        )[0]

    lora = scene.plain(1.0)
    head = part(2, 5, scene.model, part(0, 2, lora, scene.latent))
    tail = part(2, 5, lora, part(0, 2, scene.model, scene.latent))
    ours_head, ours_tail = scene.sample(scene.dynamic(1.0, 0.0, 2))[0], scene.sample(scene.dynamic(0.0, 1.0, 2))[0]
    head, tail, ours_head, ours_tail = scene.result(head, tail, ours_head, ours_tail)
    assert distance(ours_head, head) < 1e-5
    assert distance(ours_tail, tail) < 1e-5


@pytest.mark.parametrize("kind", ["sd15", "flux"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
def test_strength_at_each_step(bench: Bench, kind: str, sampler: str) -> None:
    scene = Small(bench, kind)
    model = scene.dynamic(0.25, 0.0, 4, model=scene.dynamic(-0.5, 0.5, 2))
    probe = scene.add("ProbeStrength", model=model, change=scene.made[4], layer=scene.made[5], name="strengths")[0]
    scene.keep(scene.sample(probe, sampler)[0], "latent").run()
    seen = [round(strength, 3) for _, strength in scene.saved("strengths")]
    steps = [-0.25, -0.25, 0.75, 0.75, 0.5]
    if sampler == "heun":  # it calls the model twice in a step, but once in the last
        steps = [strength for strength in steps for _ in range(2)][:-1]
    assert seen == steps


def test_log_says_what_of_a_lora_is_left_out(bench: Bench) -> None:
    scene = Small(bench, "sd15")
    scene.keep(scene.loaded_lora, "lora").run()
    lora = {name: value.contiguous() for name, value in scene.saved("lora").items()}
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 2)}
    save_file(lora, bench.host.base / "models" / "loras" / "whole.safetensors")
    save_file({**lora, **text}, bench.host.base / "models" / "loras" / "partly.safetensors")
    for name in ("whole", "partly"):
        scene = Small(bench, "sd15")
        values = {"lora": f"{name}.safetensors", "lambda_s": 0.5, "lambda_l": 1.0, "k": 2}
        model = scene.add("CustomCrafterDynamicLoRAWeights", model=scene.model, **values)[0]
        scene.keep(scene.sample(model)[0], "latent").run()
    assert bench.host.log.count(f"partly.safetensors: {len(lora)} of {len(lora) + 1} tensors are used") == 1
    assert "whole.safetensors: " not in bench.host.log


def test_weights_that_only_the_hosts_loader_changes(bench: Bench) -> None:
    """Of plain torch layers and of none at all: left out, and said so; a LoRA of only such is refused."""
    scene = Small(bench, "plain parts")
    scene.keep(scene.loaded_lora, "lora").run()
    lora = {name: value.contiguous() for name, value in scene.saved("lora").items()}
    plain = {
        "diffusion_model.img_in.diff": torch.ones(64, 64),
        "diffusion_model.img_in.diff_b": torch.ones(64),
        "diffusion_model.gain.set_weight": torch.zeros(4),
        "diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale.diff": torch.ones(16),  # on older hosts
    }
    save_file({**lora, **plain}, bench.host.base / "models" / "loras" / "with_plain.safetensors")
    save_file(plain, bench.host.base / "models" / "loras" / "plain_parts.safetensors")

    def ours(scene: Small, name: str) -> list[Any]:
        values = {"lora": f"{name}.safetensors", "lambda_s": 0.5, "lambda_l": 0.5, "k": 2}
        return scene.sample(scene.add("CustomCrafterDynamicLoRAWeights", model=scene.model, **values)[0])[0]

    scene = Small(bench, "plain parts")
    result, expected = scene.result(ours(scene, "with_plain"), scene.sample(scene.plain(0.5))[0])
    assert distance(result, expected) < 1e-6
    assert f"with_plain.safetensors: {len(lora)} of {len(lora) + len(plain)} tensors are used" in bench.host.log
    scene = Small(bench, "plain parts")
    scene.keep(ours(scene, "plain_parts"))
    with pytest.raises(PromptFailed, match="none fits what can change while it samples"):
        scene.run()


def in_form(lora: dict[str, torch.Tensor], form: str) -> dict[str, torch.Tensor]:
    """A change of each layer of a LoRA in another form of those that hosts read."""
    made: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(2)
    for name in (key.removesuffix(".lora_A.weight") for key in lora if key.endswith(".lora_A.weight")):
        up, down = lora[f"{name}.lora_B.weight"], lora[f"{name}.lora_A.weight"]
        if up.ndim > 2:
            continue
        rows, columns = len(up), down.shape[1]
        parts = {
            "LoHa": {"hada_w1_a": 4 * up, "hada_w1_b": down, "hada_w2_a": up.roll(1, 0), "hada_w2_b": down.roll(1, 1)},
            "LoKr": {
                "lokr_w1": torch.randn(2, 2, generator=generator) * 0.3,
                "lokr_w2": torch.randn(rows // 2, columns // 2, generator=generator) * 0.05,
            },
            "DoRA": {
                "lora_A.weight": down,
                "lora_B.weight": up,
                "dora_scale": 0.2 * torch.rand(rows, 1, generator=generator) + 0.2,
            },
        }[form]
        made |= {f"{name}.{part}": value.contiguous() for part, value in parts.items()}
    return made


@pytest.mark.parametrize("form", ["LoHa", "LoKr", "DoRA"])
@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_other_forms_than_lora(bench: Bench, kind: str, form: str) -> None:
    """At a strength as the host's loader has it; first at one strength, then at another, as two parts of a run."""
    scene = Small(bench, kind)
    scene.keep(scene.loaded_lora, "lora").run()
    file = f"{kind}_{form}.safetensors"
    save_file(in_form(scene.saved("lora"), form), bench.host.base / "models" / "loras" / file)

    scene = Small(bench, kind)

    def ours(lambda_s: float, lambda_l: float) -> list[Any]:
        values = {"lora": file, "lambda_s": lambda_s, "lambda_l": lambda_l, "k": 2}
        return scene.sample(scene.add("CustomCrafterDynamicLoRAWeights", model=scene.model, **values)[0])[0]

    def theirs(strength: float) -> list[Any]:
        return scene.add("LoraLoaderModelOnly", model=scene.model, lora_name=file, strength_model=strength)[0]

    def part(start: int, end: int, model: list[Any], latent: list[Any]) -> list[Any]:
        return scene.advanced_sampler(
            start, end, model=model, latent_image=latent, sampler_name="euler", scheduler="simple", cfg=1.0
        )[0]

    parts = part(2, 5, theirs(0.75), part(0, 2, theirs(0.5), scene.latent))
    base, equal, loader, dynamic, two = scene.result(
        scene.sample(scene.model)[0], ours(0.5, 0.5), scene.sample(theirs(0.5))[0], ours(0.5, 0.75), parts
    )
    assert distance(equal, base) > 1e-4 and distance(dynamic, equal) > 5e-5
    assert distance(equal, loader) < 1e-5
    assert distance(dynamic, two) < 1e-5


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_hosts_cache_of_steps(bench: Bench, cache: str) -> None:
    """Steps that the host answers from its cache are no sign of layers that ignore the LoRA."""
    if cache not in bench.host.get("/object_info"):
        pytest.skip("this host has no such node")
    scene = Small(bench, "flux")
    options = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    cached = scene.add(cache, model=scene.dynamic(0.5, 1.0, 2), **options)[0]
    scene.keep(scene.sample(cached)[0], "latent").run()
    assert f"{cache} - skipped 3/{STEPS} steps" in bench.host.log


def test_layers_that_ignore_the_lora(bench: Bench) -> None:
    scene = Small(bench, "flux")
    deaf = scene.add("ProbeDeafLayers", model=scene.dynamic(0.5, 1.0, 2))[0]
    scene.keep(scene.sample(deaf)[0], "latent")
    with pytest.raises(PromptFailed, match="layers that all ignored the LORA_MODEL"):
        scene.run()


def test_weights_stored_with_a_scale(bench: Bench) -> None:
    if bench.host.generation != "older":
        pytest.skip("newer hosts undo the scale before they ask for changes")
    scene = Small(bench, "scaled fp8")
    probe = scene.add(
        "ProbeStrength", model=scene.dynamic(0.25, 1.0, 2), change=scene.made[4], layer=scene.made[5], name="strengths"
    )[0]
    scene.keep(scene.sample(probe)[0], "latent").run()
    stored = [round(strength, 3) for _, strength in scene.saved("strengths")]
    assert stored == [0.5, 0.5, 2.0, 2.0, 2.0], "the stored weight is twice the real one"
