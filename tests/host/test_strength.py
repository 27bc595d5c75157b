"""The strength that is really in a weight when its layer runs, measured from inside the host, step by step."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from customcrafter_core.subject.subject import Subject
from tests.host.bench import STEPS, Bench, Scene

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def probed(scene: Scene, subjects: dict[str, Subject], model: list, name: str = "strengths") -> list:
    """The model, noting the strength in a layer of the first subject."""
    factors = subjects["first"].factors[LAYER]
    change = scene.add("ProbeTensor", values={"__value__": (factors.up @ factors.down).tolist()})[0]
    layer = f"diffusion_model.{LAYER}"
    return scene.add("ProbeStrength", model=model, change=change, layer=layer, name=name)[0]


def seen(scene: Scene, name: str = "strengths") -> list[float]:
    """Strength at each call of a probed model, both halves of guidance being one call."""
    return [round(strength, 4) for _, strength in scene.saved(name)]


def measured(scene: Scene, subjects: dict[str, Subject], model: list, sampler) -> list[float]:
    """Run a sampler on a model; what `seen` tells of it."""
    scene.keep(sampler(model=probed(scene, subjects, model))[0], "latent").run()
    return seen(scene)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("ddim", [0.4, 0.4, 0.8, 0.8, 0.8]),
        ("euler_ancestral", [0.4, 0.4, 0.8, 0.8, 0.8]),
        ("dpmpp_2m", [0.4, 0.4, 0.8, 0.8, 0.8]),
        # heun calls the model twice in a step, but once in the last
        ("heun", [0.4, 0.4, 0.4, 0.4, 0.8, 0.8, 0.8, 0.8, 0.8]),
    ],
)
def test_strength_by_sampler(bench: Bench, subjects: dict[str, Subject], sampler: str, expected: list[float]) -> None:
    scene = bench.scene()
    model = scene.dynamic_weights(0.4, 0.8, 2)
    assert measured(scene, subjects, model, lambda **more: scene.host_sampler(sampler, **more)) == expected


def test_strength_in_advanced_sampler(bench: Bench, subjects: dict[str, Subject]) -> None:
    scene = bench.scene()
    model = scene.dynamic_weights(0.4, 0.8, 2)
    assert measured(scene, subjects, model, lambda **more: scene.advanced_sampler(0, 3, **more)) == [0.4, 0.4, 0.8]
    for start, expected in ((1, [0.4, 0.8, 0.8, 0.8]), (3, [0.8, 0.8])):
        scene = bench.scene()
        model = scene.dynamic_weights(0.4, 0.8, 2, start_at_step=start)
        assert (
            measured(scene, subjects, model, lambda start=start, s=scene, **m: s.advanced_sampler(start, STEPS, **m))
            == expected
        )


def test_strength_in_our_sampler_is_what_it_reports(bench: Bench, subjects: dict[str, Subject]) -> None:
    scene = bench.scene()
    sampler = scene.dynamic_sampler(0.3, 1.5, 1)
    assert scene.result(sampler[2]) == "[0.3, 1.5, 1.5, 1.5, 1.5]"
    scene = bench.scene()
    model = scene.dynamic_weights(0.3, 1.5, 1)
    found = measured(scene, subjects, model, lambda **more: scene.dynamic_sampler(subject=None, **more))
    assert found == [0.3, 1.5, 1.5, 1.5, 1.5]


def test_our_sampler_reports_what_others_put_on_the_model(bench: Bench) -> None:
    scene = bench.scene()
    model = scene.dynamic_weights(0.3, 1.5, 1)
    lora = {"lora": "second.safetensors", "lambda_s": 0.0, "lambda_l": 1.0, "k": 4}
    both = scene.add("CustomCrafterDynamicLoRAWeights", model=model, **lora)[0]
    one, two, none = (scene.dynamic_sampler(subject=None, model=given) for given in (model, both, scene.model))
    first = "[0.3, 1.5, 1.5, 1.5, 1.5]"
    texts = scene.result(one[2], two[2], none[2])
    assert texts == [first, f"{first}\n[0.0, 0.0, 0.0, 0.0, 1.0]", ""]
    pictures = scene.result(one[1], two[1], none[1])
    assert len({picture.numpy().tobytes() for picture in pictures}) == 3


def test_steps_from_the_hosts_cache_are_gaps(bench: Bench) -> None:
    if "EasyCache" not in bench.host.get("/object_info"):
        pytest.skip("this host has no such node")
    scene = bench.scene()
    options = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    scene.model = scene.add("EasyCache", model=scene.model, **options)[0]
    applied = json.loads(scene.result(scene.dynamic_sampler(0.3, 1.5, 1)[2]))
    skipped = int(re.findall(r"EasyCache - skipped (\d)/5 steps", bench.host.log)[-1])
    assert skipped >= 2 and applied.count(None) == skipped  # how many differs between hosts
    assert applied[:2] == [0.3, 1.5] and set(applied[2:]) <= {None, 1.5}


def test_curve(bench: Bench, subjects: dict[str, Subject]) -> None:
    scene = bench.scene()
    model = scene.dynamic_weights(curve="0:0, 0.5:1, 1:0.2")
    assert measured(scene, subjects, model, scene.host_sampler) == [0.0, 0.5, 1.0, 0.6, 0.2]


def test_curve_of_the_host(bench: Bench, subjects: dict[str, Subject]) -> None:
    if "CurveEditor" not in bench.host.get("/object_info"):
        pytest.skip("this host has no curves")
    scene = bench.scene()
    curve = scene.add("CurveEditor", curve={"points": [[0, 0], [1, 1]], "interpolation": "linear"})[0]
    model = scene.dynamic_weights(curve=curve)
    assert measured(scene, subjects, model, scene.host_sampler) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_curves_of_the_other_nodes(bench: Bench, subjects: dict[str, Subject]) -> None:
    """As text, and of the host's own kind where it has one: in our sampler, and on a LoRA."""
    scene = bench.scene()
    curves: list[tuple[Any, list[float]]] = [("0:0, 0.5:1, 1:0.2", [0.0, 0.5, 1.0, 0.6, 0.2])]
    if "CurveEditor" in bench.host.get("/object_info"):
        points = {"points": [[0, 0], [1, 1]], "interpolation": "linear"}
        curves.append((scene.add("CurveEditor", curve=points)[0], [0.0, 0.25, 0.5, 0.75, 1.0]))
    for number, (curve, _) in enumerate(curves):
        scene.keep(scene.dynamic_sampler(curve=curve)[2], f"applied{number}")
        lora = {"lora": "first.safetensors", "lambda_s": 0.4, "lambda_l": 0.8, "k": 2, "curve": curve}
        model = scene.add("CustomCrafterDynamicLoRAWeights", model=scene.model, **lora)[0]
        scene.keep(scene.host_sampler(model=probed(scene, subjects, model, f"lora{number}"))[0], f"latent{number}")
    scene.run()
    for number, (_, expected) in enumerate(curves):
        assert json.loads(scene.saved(f"applied{number}")) == pytest.approx(expected)
        assert seen(scene, f"lora{number}") == expected


def test_count_is_on_the_real_list(bench: Bench) -> None:
    scene = bench.scene()
    assert scene.result(scene.dynamic_sampler(0.1, 0.2, 3, steps=6)[2]) == "[0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2]"


def test_loras_in_a_chain(bench: Bench, subjects: dict[str, Subject]) -> None:
    scene = bench.scene()
    lora = "first.safetensors"
    for strengths in ((0.1, 0.2, 1), (0.0, 0.5, 3), (0.3, 0.0, 2)):
        values = dict(zip(("lambda_s", "lambda_l", "k"), strengths, strict=True))
        scene.model = scene.add("CustomCrafterDynamicLoRAWeights", model=scene.model, lora=lora, **values)[0]
    assert measured(scene, subjects, scene.model, scene.host_sampler) == [0.4, 0.5, 0.2, 0.7, 0.7]
