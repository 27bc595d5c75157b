"""After an error, an interrupt or lack of memory at any step the next runs are what they would have been."""

from __future__ import annotations

import pytest
import torch
from bench import STEPS, Bench, Scene
from running_host import Interrupted, PromptFailed


def base_and_subject(bench: Bench) -> list[torch.Tensor]:
    """A run of the base model and one with the subject, never from the host's cache."""
    scene = bench.scene().fresh()
    return scene.result(scene.dynamic_sampler(subject=None)[0], scene.dynamic_sampler()[0])


@pytest.mark.parametrize("kind", ["error", "interrupt", "memory"])
def test_fault_at_every_step_leaves_no_trace(bench: Bench, kind: str) -> None:
    expected = base_and_subject(bench)
    for step in range(STEPS):
        scene = bench.scene().fresh()
        broken = scene.add("ProbeFault", model=scene.dynamic_weights(), step=step, kind=kind)[0]
        scene.keep(scene.host_sampler(model=broken)[0], "broken")
        with pytest.raises(Interrupted if kind == "interrupt" else PromptFailed):
            scene.run()
        for result, wanted in zip(base_and_subject(bench), expected, strict=True):
            assert torch.equal(result, wanted), f"changed after {kind} at step {step}"


def test_fault_inside_our_sampler(bench: Bench) -> None:
    expected = base_and_subject(bench)
    for kind, error in (("error", PromptFailed), ("interrupt", Interrupted)):
        scene = bench.scene().fresh()
        scene.model = scene.add("ProbeFault", model=scene.model, step=2, kind=kind)[0]
        scene.keep(scene.dynamic_sampler()[0], "broken")
        with pytest.raises(error):
            scene.run()
        for result, wanted in zip(base_and_subject(bench), expected, strict=True):
            assert torch.equal(result, wanted)


def test_interrupt_by_the_user(bench: Bench) -> None:
    expected = base_and_subject(bench)
    scene = bench.scene().fresh()
    scene.keep(scene.dynamic_sampler(steps=1000)[0], "long")
    prompt = bench.host.queue(scene.graph.nodes)
    while not bench.host.get("/queue")["queue_running"]:
        pass
    bench.host.post("/interrupt")
    with pytest.raises(Interrupted):
        bench.host.wait(prompt, 60)
    for result, wanted in zip(base_and_subject(bench), expected, strict=True):
        assert torch.equal(result, wanted)


def test_changed_strength_is_never_the_one_before(bench: Bench) -> None:
    def run(lambda_l: float) -> torch.Tensor:
        scene = bench.scene().fresh()
        return scene.result(scene.host_sampler(model=scene.dynamic_weights(0.4, lambda_l))[0])

    strong, weak, again = run(0.8), run(0.2), run(0.8)
    assert not torch.equal(strong, weak)
    assert torch.equal(strong, again)


def test_runs_in_a_row_do_not_grow_memory(bench: Bench) -> None:
    def run() -> int:
        for scene in (bench.scene().fresh() for _ in range(4)):
            run_once(scene)
        return bench.host.memory()

    run()
    first, second = run(), run()
    assert second < first * 1.02, f"{first:,} bytes, then {second:,}"


def run_once(scene: Scene) -> None:
    """Sample with the subject and decode."""
    pixels = scene.add("VAEDecode", vae=scene.vae, samples=scene.dynamic_sampler()[0])[0]
    scene.keep(pixels, "pixels")
    scene.run()


def test_unload_button(bench: Bench) -> None:
    expected = base_and_subject(bench)
    bench.host.post("/free", {"unload_models": True, "free_memory": True})
    for result, wanted in zip(base_and_subject(bench), expected, strict=True):
        assert torch.equal(result, wanted)
