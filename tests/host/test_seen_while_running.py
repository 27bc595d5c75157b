"""What a person sees while a graph runs: progress, live previews, text on the nodes."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from customcrafter_core.subject.file import load_subject
from tests.host.bench import SIZE, STEPS, Bench
from tests.host.listening import listen
from tests.host.running_host import ROOT

DEMO_SUBJECT = ROOT / "customcrafter_core" / "demo" / "assets" / "demo_subject.safetensors"


@pytest.mark.parametrize("node", ["ours", "the host's"])
def test_progress_and_previews(bench: Bench, node: str) -> None:
    scene = bench.scene().fresh()
    sampler = scene.dynamic_sampler() if node == "ours" else scene.host_sampler(model=scene.dynamic_weights())
    scene.keep(sampler[0])
    heard = listen(bench.host, scene.graph.nodes)
    steps = [(step, STEPS) for step in range(1, STEPS + 1)]
    assert heard.progress(sampler.name)[:STEPS] == steps
    live = [image for image in heard.previews if image.format == "JPEG"]
    assert len(live) == STEPS
    assert len({image.tobytes() for image in live}) == STEPS, "each step shows another picture"
    width, height = live[0].size
    assert abs(width / height - SIZE["width"] / SIZE["height"]) < 0.2
    pictures = [image for image in heard.previews if image.format == "PNG"]
    assert len(pictures) == (1 if node == "ours" else 0), "the picture of strengths comes last, on our node only"
    if node == "ours":
        assert np.asarray(heard.previews[-1]).shape[2] == 3 and heard.previews[-1].format == "PNG"


def test_summary_on_the_node(bench: Bench) -> None:
    scene = bench.scene()
    loaded = scene.subject[0]
    scene.keep(scene.subject, "subject").fresh()
    scene.graph.nodes[loaded]["inputs"]["token"] = "<bear>"  # not from the host's cache
    heard = listen(bench.host, scene.graph.nodes)
    shown = dict(heard.texts)[loaded]
    assert html.unescape(shown).splitlines()[0] == "Trigger: <bear> teddy bear"
    assert "<" not in shown, "the page reads it as HTML"


@pytest.mark.parametrize(
    ("name", "base", "steps"),
    [
        ("customcrafter_demo_subject", "the demo model (32-64-64 / ", load_subject(DEMO_SUBJECT).steps),
        ("first.safetensors", "another model (16-32-32 / ", 0),
    ],
)
def test_summary_names_base_and_steps(bench: Bench, name: str, base: str, steps: int) -> None:
    scene = bench.scene(subject=None)
    loaded = scene.add("CustomCrafterLoadSubject", subject=name, token="<named>")
    scene.keep(loaded[2], "summary")
    outputs = scene.run()
    summary = scene.saved("summary")
    assert f"Base model: {base}" in summary
    assert re.fullmatch(rf"LoRA of rank \d+ on \d+ layers, trained for {steps} steps", summary.splitlines()[-1])
    assert outputs[loaded.name]["text"] == [summary]


def test_k_beyond_the_steps_is_said(bench: Bench) -> None:
    scene = bench.scene().fresh()
    sampler = scene.dynamic_sampler(0.3, 0.8, STEPS)
    scene.keep(sampler[0])
    said = f"K {STEPS} covers all {STEPS} steps: λs 0.3 throughout, λl is never used."
    assert dict(listen(bench.host, scene.graph.nodes).texts)[sampler.name] == said

    scene = bench.scene().fresh()
    before = bench.host.log.count(said)
    scene.keep(scene.host_sampler(model=scene.dynamic_weights(0.3, 0.8, STEPS))[0]).run()
    assert bench.host.log.count(said) == before + 1
    sampler = scene.dynamic_sampler(0.3, 0.8, STEPS - 1)
    scene.keep(sampler[0], "other")
    said = f"λs 0.3, then λl 0.8: K {STEPS - 1} of {STEPS} = 80 % = t 1 = sigma 0.0414"
    assert dict(listen(bench.host, scene.graph.nodes).texts)[sampler.name] == said


@pytest.mark.parametrize("kind", ["CustomCrafterDynamicLoRAWeights", "CustomCrafterLoadSubject"])
def test_file_saved_again_is_read_again(bench: Bench, kind: str) -> None:
    loras = bench.host.base / "models" / "loras"
    from safetensors import safe_open

    with safe_open(loras / "first.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(loras / "first.safetensors")

    def run(scale: float) -> object:
        changed = {name: value * (scale if "lora_B" in name else 1) for name, value in tensors.items()}
        save_file(changed, loras / "saved_again.safetensors", metadata)
        if kind == "CustomCrafterLoadSubject":
            scene = bench.scene(subject="saved_again")
            return scene.result(scene.host_sampler(model=scene.dynamic_weights())[0])
        scene = bench.scene()
        lora = {"lora": "saved_again.safetensors", "lambda_s": 0.5, "lambda_l": 0.5, "k": 0}
        return scene.result(scene.host_sampler(model=scene.add(kind, model=scene.model, **lora)[0])[0])

    first, second, again = run(1.0), run(2.0), run(1.0)
    assert not first.equal(second)
    assert first.equal(again)
