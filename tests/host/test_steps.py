"""K steps are K steps of the sampler's own: with every sampler of the host, whatever it tells the model and whatever its list."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host.bench import Bench, Scene, distance
from tests.host.running_host import PromptFailed

STEPS = 6
FREE = {"dpm_fast", "dpm_adaptive"}
"""Samplers that choose levels of their own: there strength follows the noise."""
CANNOT = {"uni_pc", "uni_pc_bh2", "sa_solver", "sa_solver_pece"}
"""They solve equations that a level which comes twice makes unsolvable; with or without a LoRA."""
ONE_STEP = ["euler", "dpmpp_2m", "ddim"]
SEVERAL = ["heun", "dpm_2", "dpmpp_sde", "seeds_3"]
RESTARTS = [14.6, 7.27, 3.26, 1.66, 7.27, 3.26, 1.66, 0.67, 0.03, 0.0]
KINDS = ["one layer", "one layer flow"]


def samplers(bench: Bench) -> list[str]:
    """All of the host's."""
    found: list[str] = bench.host.get("/object_info/KSampler")["KSampler"]["input"]["required"]["sampler_name"][0]
    return found


def seen(bench: Bench, kind: str, cases: list[dict[str, Any]], **lora: Any) -> list[dict[str, Any]]:
    """Run cases on a small model with a LoRA at 0.25, then 1; as `ProbeSteps` tells them."""
    scene = Scene.__new__(Scene)
    scene.host, scene.graph = bench.host, type(bench.scene(subject=None).graph)()
    made = scene.add("ProbeSmallModel", kind=kind)
    given = {"lora": "none", "lora_model": made[3], "lambda_s": 0.25, "lambda_l": 1.0, "k": 3, **lora}
    model = scene.add("CustomCrafterDynamicLoRAWeights", model=made[0], **given)[0]
    scene.add(
        "ProbeSteps", model=model, text=made[1], latent=made[2], change=made[4], layer=made[5], steps=STEPS,
        cases={"__value__": cases}, name="steps",
    )  # fmt: skip
    scene.run()
    found: list[dict[str, Any]] = scene.saved("steps")
    return found


def calls_of(case: dict[str, Any]) -> list[tuple[int, float]]:
    """Step and strength of each call of a run in one part."""
    assert "error" not in case, case
    (calls,) = case["calls"]
    return [(step, strength) for _, _, step, strength in calls]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0, 1, 3, 5, STEPS])
def test_every_sampler(bench: Bench, kind: str, k: int) -> None:
    names = samplers(bench)
    assert len(names) > 40
    for name, case in zip(names, seen(bench, kind, [{"sampler": name} for name in names], k=k), strict=True):
        calls = calls_of(case)
        strengths = [strength for _, strength in calls]
        if name in FREE:
            border = case["levels"][k][0] if k < STEPS else 0.0
            assert all(strength == (0.25 if sigma > border else 1.0) for _, sigma, _, strength in case["calls"][0]), (
                name
            )
        else:
            assert {step for step, _ in calls} == set(range(STEPS)), name
            assert strengths == [0.25 if step < k else 1.0 for step, _ in calls], name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.8, 0.9, 0.95, 1.05])
def test_another_sigma_told_to_the_model(bench: Bench, kind: str, factor: float) -> None:
    names = [name for name in samplers(bench) if name not in FREE]
    for name, case in zip(
        names, seen(bench, kind, [{"sampler": name, "factor": factor} for name in names]), strict=True
    ):
        assert all(strength == (0.25 if step < 3 else 1.0) for step, strength in calls_of(case)), name


@pytest.mark.parametrize("kind", KINDS)
def test_lists_that_go_up(bench: Bench, kind: str) -> None:
    """Restarts, and from the video back to noise: the steps that run are counted."""
    names = [name for name in samplers(bench) if name not in FREE | CANNOT]
    top = 1.0 if kind.endswith("flow") else 14.6
    lists = [[level * top / 14.6 for level in RESTARTS], [0.001, *(top * i / 6 for i in range(1, 7))]]
    for number, sigmas in enumerate(lists):
        cases = [{"sampler": name, "sigmas": sigmas, "noise": not number} for name in names]
        for name, case in zip(names, seen(bench, kind, cases), strict=True):
            calls = calls_of(case)
            assert {step for step, _ in calls} == set(range(len(sigmas) - 1)), name
            assert all(strength == (0.25 if step < 3 else 1.0) for step, strength in calls), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "switch", [{"k": 3}, {"curve": "0:0, 0.5:1, 1:-0.5"}, {"switch_by": "percent", "switch_at": 50.0}]
)
def test_split_runs_are_the_run(bench: Bench, kind: str, switch: dict[str, Any]) -> None:
    """A list split in two or three, at one model, nothing told: the same strengths, the same result."""
    names = ["euler", "heun", "dpm_2"]
    cuts = [[], [2], [3], [5], [2, 4]]
    cases = [{"sampler": name, "parts": parts} for name in names for parts in cuts]
    found = seen(bench, kind, cases, **switch)
    for i in range(0, len(cases), len(cuts)):
        whole, *split = found[i : i + len(cuts)]
        for case in split:
            assert distance(case["latent"], whole["latent"]) < 1e-5
            if names[i // len(cuts)] == "euler":
                strengths = [strength for part in case["calls"] for *_, strength in part]
                assert strengths == [strength for _, strength in calls_of(whole)]


def test_part_of_an_unknown_run_is_said(bench: Bench) -> None:
    before = len(bench.host.log)
    sigmas = [2.9, 1.6, 0.9, 0.4, 0.0]
    (case,) = seen(bench, "one layer", [{"sampler": "euler", "sigmas": sigmas, "noise": False}])
    assert [strength for _, strength in calls_of(case)] == [0.25] * 3 + [1.0]
    assert "set start_at_step and total_steps" in bench.host.log[before:]
    (case,) = seen(bench, "one layer", [{"sampler": "euler", "sigmas": sigmas, "noise": False}], start_at_step=2)
    assert [strength for _, strength in calls_of(case)] == [0.25] + [1.0] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_prompts_one_by_one(bench: Bench, kind: str) -> None:
    names = ONE_STEP + SEVERAL
    cases = [{"sampler": name, "batch": 2, "apart": apart} for name in names for apart in (False, True)]
    for case, found in zip(cases, seen(bench, kind, cases), strict=True):
        calls = calls_of(found)
        assert all(strength == (0.25 if step < 3 else 1.0) for step, strength in calls), case
        assert {size for size, *_ in found["calls"][0]} == {2}
        if case["apart"]:
            assert calls[0::2] == calls[1::2]


def test_k_counts_the_steps_of_a_part_on_a_given_video(bench: Bench) -> None:
    cases = [{"sampler": name, "denoise": 0.5} for name in ONE_STEP + SEVERAL]
    for case in seen(bench, "one layer", cases, k=2):
        assert all(strength == (0.25 if step < 2 else 1.0) for step, strength in calls_of(case))


def test_a_curve_is_as_many_runs_of_one_step(bench: Bench) -> None:
    (whole,) = seen(bench, "one layer", [{"sampler": "euler"}], curve="0:0, 0.5:1, 1:-0.5")
    single = [{"sampler": "euler", "parts": list(range(1, STEPS))}]
    (parts,) = seen(bench, "one layer", single, curve="0:0, 0.5:1, 1:-0.5")
    assert [strength for _, strength in calls_of(whole)] == pytest.approx([0, 0.4, 0.8, 0.7, 0.1, -0.5])
    assert distance(parts["latent"], whole["latent"]) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["timestep", "sigma"])
def test_noise_levels(bench: Bench, kind: str, unit: str) -> None:
    """Steps that begin above it are at λs; a sampler that chooses levels of its own keeps to it, too."""
    level = {"one layer": {"timestep": 500.0, "sigma": 2.0}, "one layer flow": {"timestep": 930.0, "sigma": 0.93}}[
        kind
    ][unit]
    cases = [{"sampler": name} for name in (*ONE_STEP, *SEVERAL, *FREE)]
    for case, found in zip(cases, seen(bench, kind, cases, switch_by=unit, switch_at=level), strict=True):
        early = [levels[unit == "timestep"] > level for levels in found["levels"]]
        assert 0 < sum(early) < STEPS
        if case["sampler"] not in FREE:
            assert all(strength == (0.25 if early[step] else 1.0) for step, strength in calls_of(found)), case
        elif unit == "sigma":
            assert all(strength == (0.25 if sigma > level else 1.0) for _, sigma, _, strength in found["calls"][0]), (
                case
            )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"switch_by": "percent", "switch_at": 150.0}, "a percentage of the steps from 0 to 100; found 150"),
        ({"switch_by": "timestep", "switch_at": 900.0, "kind": "flux"}, "a model that counts its noise in timesteps"),
        (
            {"curve": {"__value__": [0.4, 0.8]}},
            "0:0.4, 0.1:0.8",
        ),
        ({"start_at_step": 5, "total_steps": 5}, "total_steps above start_at_step"),
        ({"start_at_step": 4, "total_steps": STEPS}, f"a sampler that ends by step {STEPS}"),
        ({"start_at_step": 2, "total_steps": STEPS, "parts": [3]}, "start_at_step 0, where this sampler's part"),
        ({"curve": "0:0, 1:1", "sigmas": [14.6, 7.0, 3.0]}, "total_steps for a curve or a percentage"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_sampled(
    bench: Bench, values: dict[str, Any], message: str
) -> None:
    """Parts that overlap among them."""
    case = {"sampler": "euler", **{name: values[name] for name in ("sigmas", "parts") if name in values}}
    lora = {name: value for name, value in values.items() if name not in ("sigmas", "parts", "kind")}
    try:
        (found,) = seen(bench, values.get("kind", "one layer"), [case], **lora)
    except PromptFailed as failed:
        found = {"error": failed.message}
    assert message in found["error"] and found.keys() == {"error"}
