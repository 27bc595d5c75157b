"""After an error, an interrupt or lack of memory at any step the next runs are what they would have been."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from tests.host.bench import Bench, Scene
from tests.host.listening import started
from tests.host.running_host import Interrupted, PromptFailed

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"  # one of those a subject changes
STEPS, K = 3, 1  # the first, one with the other strength, the last
PLACES = [(sampler, layer) for sampler in ("ours", "the host's") for layer in ("", LAYER)]
FAULTS: dict[str, str | None] = {"error": "probe fault at step", "interrupt": None, "memory": "probe out of memory"}
ALWAYS = ("HostUNet", "FrameByFrame", "OpenClipTower", "Subject")  # as long as the host keeps results of the nodes
OBJECTS = ("HostUNet", "FrameByFrame", "OpenClipTower", "ScheduledStrength", "WeightChange", "Subject")


def base_and_subject(bench: Bench) -> list[torch.Tensor]:
    """A run of the base model and one with the subject, never from the host's cache."""
    scene = bench.scene().fresh()
    given = {"k": K, "steps": STEPS}
    return scene.result(scene.dynamic_sampler(subject=None, **given)[0], scene.dynamic_sampler(**given)[0])


def fault(bench: Bench, kind: str, **more: Any) -> None:
    """A run that a fault of this kind ends."""
    scene = bench.scene().fresh()
    sampler = more.pop("sampler")
    model = scene.model if sampler == "ours" else scene.dynamic_weights(k=K)
    broken = scene.add("ProbeFault", model=model, kind=kind, **more)[0]
    make = scene.dynamic_sampler if sampler == "ours" else scene.host_sampler
    node = make(model=broken, steps=STEPS)
    scene.keep(node[0], "broken")
    with pytest.raises(Interrupted if kind == "interrupt" else PromptFailed, match=FAULTS[kind]):
        scene.run()


@pytest.mark.parametrize(
    ("kind", "places"),
    [("error", PLACES), ("interrupt", PLACES), ("memory", PLACES[-1:])],
    ids=["error", "interrupt", "memory"],
)
def test_fault_at_every_step_leaves_no_trace(bench: Bench, kind: str, places: list[tuple[str, str]]) -> None:
    """Before the network runs, and in the middle of it, inside a layer whose weight carries the subject."""
    expected = base_and_subject(bench)
    for step in range(STEPS):
        for sampler, layer in places:
            fault(bench, kind, step=step, layer=layer, sampler=sampler)
            for result, wanted in zip(base_and_subject(bench), expected, strict=True):
                assert torch.equal(result, wanted), f"changed after {kind} at step {step} of {sampler} in {layer!r}"


def test_interrupt_by_the_user(bench: Bench) -> None:
    expected = base_and_subject(bench)
    scene = bench.scene().fresh()
    sampler = scene.dynamic_sampler(steps=1000)
    scene.keep(sampler[0], "long")
    prompt = started(bench.host, scene.graph.nodes, sampler.name)
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


def count_live(scene: Scene) -> Scene:
    """Have a graph count, before anything else in it runs, how many of our objects and loaded models the host holds."""
    scene.add("ProbeLive", names={"__value__": list(OBJECTS)}, name="live")
    return scene


def live(bench: Bench) -> dict[str, int]:
    """What the host holds while no graph of ours runs."""
    scene = bench.scene(subject=None)
    scene.graph.nodes.clear()
    count_live(scene).run()
    return scene.saved("live")


def test_unload_button(bench: Bench) -> None:
    """The button frees models and subject although the same graph is run again, and the next run is the same."""
    expected = base_and_subject(bench)
    scene = count_live(bench.scene())
    sampled = scene.dynamic_sampler(k=K, steps=STEPS)[0]
    scene.result(sampled)
    scene.run()
    held = scene.saved("live")
    assert held["loaded"] > 0 and all(held[name] > 0 for name in ALWAYS), held
    until, seconds = time.monotonic() + 60, 0.25
    while any(held.values()):  # the host does so when its queue is empty, later on a busy machine
        assert time.monotonic() < until, held
        bench.host.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(seconds)
        scene.run()
        held, seconds = scene.saved("live"), 2 * seconds
    assert torch.equal(scene.saved("result0"), expected[1])
    for result, wanted in zip(base_and_subject(bench), expected, strict=True):
        assert torch.equal(result, wanted)


def let_go(bench: Bench) -> None:
    """Have the host drop all it holds, and wait until it has: it does so between graphs, later on a busy machine."""
    bench.host.post("/free", {"free_memory": True})
    until = time.monotonic() + 60
    while any((held := live(bench)).values()):
        assert time.monotonic() < until, held
        time.sleep(0.2)


def test_runs_in_a_row_hold_no_more_each(bench: Bench) -> None:
    """Runs that each load the base and the subject anew: as many objects after the last as after the first."""
    held: list[dict[str, int]] = []
    memory: list[int] = []
    for _ in range(8):
        let_go(bench)
        scene = bench.scene().fresh()
        pixels = scene.add("VAEDecode", vae=scene.vae, samples=scene.dynamic_sampler()[0])[0]
        scene.keep(pixels, "pixels").run()
        held.append(live(bench))
        memory.append(bench.host.memory())
    assert held[0] == held[-1] == max(held, key=lambda counts: sum(counts.values())), held
    assert memory[-1] < memory[3] * 1.02, [f"{number:,}" for number in memory]


def test_queues_in_a_row_need_no_more_memory(bench: Bench) -> None:
    """The base and the subject over and over, as a person does who never frees anything."""
    memory: list[int] = []
    for _ in range(8):
        base_and_subject(bench)
        memory.append(bench.host.memory())
    warm = memory[3:]
    assert max(warm) <= warm[0] * 1.02, [f"{number:,}" for number in memory]
