"""Every kind of layer takes a scheduled LoRA, or it is said by name that it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.host.bench import Bench, distance
from tests.host.running_host import PromptFailed
from tests.host.test_other_models import STEPS, Small, in_form

COMPILE_SECONDS = 900


def lora_file(bench: Bench, scene: Small, name: str, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """The LoRA of a small model as a file in the host's folder, with more tensors in it."""
    scene.keep(scene.loaded_lora, "lora").run()
    lora = {key: value.contiguous() for key, value in scene.saved("lora").items()}
    save_file({**lora, **more}, bench.host.base / "models" / "loras" / f"{name}.safetensors")
    return lora


def from_file(scene: Small, name: str, model: list[Any] | None = None, **values: Any) -> list[Any]:
    """The model behind Dynamic LoRA Weights with a file."""
    given = {"lora": f"{name}.safetensors", "lambda_s": 0.5, "lambda_l": 1.0, "k": 2, **values}
    return scene.add("CustomCrafterDynamicLoRAWeights", model=model or scene.model, **given)[0]


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_layers_that_hold_bytes(bench: Bench, kind: str) -> None:
    """Beside the layer, at each step's strength; after an interrupt in any step the base is bit for bit what it was."""
    scene = Small(bench, f"{kind} bytes")
    base = scene.sample(scene.model)[0]
    dynamic, zero = scene.sample(scene.dynamic(0.4, 0.8, 2))[0], scene.sample(scene.dynamic(0.0, 0.0, 2))[0]
    parts = scene.latent
    for start, end, strength in ((0, 2, 0.4), (2, STEPS, 0.8)):
        model = scene.dynamic(strength, strength, 1)
        parts = scene.advanced_sampler(
            start, end, model=model, latent_image=parts, sampler_name="euler", scheduler="simple", cfg=1.0
        )[0]
    plain, result, nothing, split = scene.result(base, dynamic, zero, parts)
    assert distance(result, split) < 1e-5 and distance(result, plain) > 1e-3
    assert torch.equal(nothing, plain)
    for step in range(STEPS):
        faulty = Small(bench, f"{kind} bytes")
        model = faulty.add("ProbeFault", model=faulty.dynamic(0.4, 0.8, 2), step=step, kind="error", layer="")[0]
        faulty.keep(faulty.sample(model)[0])
        with pytest.raises(PromptFailed, match="probe fault"):
            faulty.run()
    again = Small(bench, f"{kind} bytes")
    assert torch.equal(again.result(again.sample(again.add("ProbeFresh", model=again.model)[0])[0]), plain)


@pytest.mark.parametrize("form", ["LoHa", "LoKr", "DoRA"])
def test_layers_that_hold_bytes_take_plain_loras_only(bench: Bench, form: str) -> None:
    scene = Small(bench, "flux bytes")
    lora = lora_file(bench, scene, "plain")
    save_file(in_form(lora, form), bench.host.base / "models" / "loras" / f"bytes_{form}.safetensors")
    scene = Small(bench, "flux bytes")
    scene.keep(scene.sample(from_file(scene, f"bytes_{form}"))[0])
    with pytest.raises(PromptFailed, match="whose layer holds its weight in a format of its own"):
        scene.run()


@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_quantized_layers_of_the_host(bench: Bench, form: str) -> None:
    """No further from the LoRA on the whole weights than the host's loader is, which must quantize again."""
    if bench.host.generation == "older":
        pytest.skip("this host has no such layers")
    full, small = Small(bench, "flux"), Small(bench, f"flux {form}")
    exact = full.result(full.sample(full.plain(0.7))[0])
    base, ours, theirs = small.result(
        small.sample(small.model)[0], small.sample(small.dynamic(0.7, 0.7, 2))[0], small.sample(small.plain(0.7))[0]
    )
    assert distance(ours, exact) <= distance(theirs, exact)
    assert distance(ours, base) > 10 * distance(ours, exact)


def test_some_layers_that_ignore_the_lora(bench: Bench) -> None:
    scene = Small(bench, "sd15")
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    model = scene.add("ProbePlainLayer", model=scene.dynamic(0.5, 1.0, 2), layer=layer)[0]
    before = len(bench.host.log)
    scene.keep(scene.sample(model)[0]).run()
    assert f"layers took it; these did not: {layer}.weight" in bench.host.log[before:]


def test_lora_that_changes_a_shape(bench: Bench) -> None:
    scene = Small(bench, "sd15")
    name = "diffusion_model.input_blocks.0.0"
    more = {
        f"{name}.lora_A.weight": torch.zeros(2, 8, 3, 3),
        f"{name}.lora_B.weight": torch.zeros(32, 2, 1, 1),
        f"{name}.reshape_weight": torch.tensor([32, 8, 3, 3]),
    }
    lora_file(bench, scene, "reshaping", **more)
    for lambda_s in (0.0, 0.5):  # and the second run as the first
        scene = Small(bench, "sd15")
        scene.keep(scene.sample(from_file(scene, "reshaping", lambda_s=lambda_s))[0])
        with pytest.raises(PromptFailed, match=rf"makes {name}\.weight of \(32, 4, 3, 3\) one of \(32, 8, 3, 3\)"):
            scene.run()


def test_the_same_lora_twice_is_said(bench: Bench) -> None:
    scene = Small(bench, "sd15")
    lora_file(bench, scene, "twice")
    for first in ("loader", "ours", "none"):
        scene = Small(bench, "sd15")
        loaded = scene.add("LoraLoaderModelOnly", model=scene.model, lora_name="twice.safetensors", strength_model=0.5)[
            0
        ]
        model = {"loader": loaded, "ours": from_file(scene, "twice"), "none": scene.model}[first]
        before = len(bench.host.log)
        scene.keep(scene.sample(from_file(scene, "twice", model, lambda_l=0.9))[0]).run()
        told = "twice.safetensors is on this model already: the strengths add up." in bench.host.log[before:]
        assert told == (first != "none")


def test_saving_and_merging_is_said(bench: Bench) -> None:
    """As the model saved, and as the second one merged; when our node comes from the cache, too."""
    scene = Small(bench, "sd15")
    dynamic = scene.dynamic(0.5, 1.0, 2)
    for _ in range(2):
        merged = scene.add("ModelMergeSimple", model1=scene.model, model2=dynamic, ratio=0.5)[0]
        scene.keep(scene.sample(merged)[0])
        before = len(bench.host.log)
        scene.run()
        told = bench.host.log[before:]
        assert f"Node {dynamic[0]}: ModelMergeSimple reads the model without this LoRA" in told
        assert "ModelSave" not in told
    scene.add("ModelSave", model=merged, filename_prefix="merged")
    before = len(bench.host.log)
    scene.run()
    assert f"Node {dynamic[0]}: ModelSave reads the model without this LoRA" in bench.host.log[before:]


def test_threads(bench: Bench) -> None:
    scene = Small(bench, "sd15")
    probed = {"change": scene.made[4], "layer": scene.made[5], "name": "threads"}
    other = scene.add("ProbeSmallModel", kind="sd15 half")[0]
    scene.add("ProbeThreads", model=scene.dynamic(0.25, 1.0, 2), other=other, **probed)
    scene.run()
    assert scene.saved("threads") == [[0.25] * 200, [1.0] * 200]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.release)])
@pytest.mark.parametrize("order", ["before", "after"])
def test_compiled(bench: Bench, backend: str, order: str) -> None:
    """Takes minutes: the host compiles the network. A new strength compiles nothing new."""
    if backend == "inductor" and order == "after":
        pytest.skip("as with eager")
    graphs = []
    for lambda_s, lambda_l in ((0.25, 1.0), (0.5, 0.75), (-0.5, 0.6), (0.1, 0.9), (0.3, 0.2)):
        scene = Small(bench, "one layer")
        compiled = {"backend": backend, "name": "graphs", "keys": ""}
        model = scene.add("ProbeCompiled", model=scene.model, **compiled)[0] if order == "before" else None
        model = scene.dynamic(lambda_s, lambda_l, 2, model)
        model = scene.add("ProbeCompiled", model=model, **compiled)[0] if order == "after" else model
        plain = scene.sample(scene.dynamic(lambda_s, lambda_l, 2))[0]
        scene.keep(scene.sample(model)[0], "compiled").keep(plain, "plain")
        bench.host.run(scene.graph.nodes, seconds=COMPILE_SECONDS)
        assert distance(scene.saved("compiled"), scene.saved("plain")) < (1e-9 if backend == "eager" else 1e-5)
        graphs.append(scene.saved("graphs"))
    assert graphs[1] == graphs[-1], graphs
