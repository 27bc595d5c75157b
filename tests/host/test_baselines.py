"""Subjects of the baselines in the graph: identity adapters, differences of whole weights, and a token alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from customcrafter_core.base_model.model import SCALE_FACTOR, VideoCrafter2
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject, save_subject
from customcrafter_core.subject.identity_adapter import IdentityAdapter
from customcrafter_core.subject.subject import LoRAFactors, Subject
from customcrafter_core.subject.targets import lora_targets, spatial_blocks
from tests.core import small_subjects
from tests.host.bench import CFG, PROMPT, SEED, SIZE, STEPS, Bench, Scene, distance
from tests.host.running_host import Interrupted, PromptFailed

DYNAMIC = TwoPhase(0.4, 0.8, 2)


def dreamvideo(model: VideoCrafter2) -> Subject:
    """Adapters in all blocks."""
    generator = torch.Generator().manual_seed(3)
    adapters = {}
    for name, block in spatial_blocks(model.unet).items():
        start = IdentityAdapter.start(block.norm2.weight.shape[0], generator)
        tensors = {part: torch.randn(value.shape, generator=generator) * 0.3 for part, value in start.tensors().items()}
        adapters[name] = IdentityAdapter(**tensors)
    return replace(token_alone(model), adapters=adapters)


def custom_diffusion(model: VideoCrafter2) -> Subject:
    """Whole differences of k and v of cross-attention."""
    generator = torch.Generator().manual_seed(3)
    factors = {
        name: LoRAFactors(
            down=torch.randn(layer.out_features, layer.in_features, generator=generator) * 0.2,
            up=torch.eye(layer.out_features),
        )
        for name, layer in lora_targets(model.unet).items()
        if name.endswith(("attn2.to_k", "attn2.to_v"))
    }
    return replace(token_alone(model), factors=factors)


def token_alone(model: VideoCrafter2) -> Subject:
    """Textual inversion."""
    return replace(small_subjects.random_subject(model, seed=1), factors={})


MAKERS: dict[str, Callable[[VideoCrafter2], Subject]] = {
    "dreamvideo": dreamvideo,
    "custom_diffusion": custom_diffusion,
    "textual_inversion": token_alone,
}
each_method = pytest.mark.parametrize("method", MAKERS)


def scene_with(bench: Bench, model: VideoCrafter2, method: str) -> Scene:
    """A graph whose subject is of this method."""
    path = bench.host.base / "models" / "loras" / f"{method}.safetensors"
    if not path.exists():
        save_subject(MAKERS[method](model), path)
    return bench.scene(subject=method)


def core_latent(model: VideoCrafter2, applied: list[AppliedSubject]) -> torch.Tensor:
    settings = VideoSettings(PROMPT, **SIZE, seed=SEED, steps=STEPS, cfg=CFG)
    return generate(model, settings, applied).latent / SCALE_FACTOR


@each_method
def test_graph_equals_core(bench: Bench, model: VideoCrafter2, method: str) -> None:
    subject = MAKERS[method](model)
    expected = [core_latent(model, [AppliedSubject(subject, strength)]) for strength in (DYNAMIC, Constant(0.7))]
    scene = scene_with(bench, model, method)
    ours = scene.dynamic_sampler()
    before = scene.dynamic_sampler(subject=None, model=scene.dynamic_weights())
    constant = scene.dynamic_sampler(subject=None, model=scene.constant_subject(0.7))
    found = scene.result(ours[0], before[0], constant[0], ours[2])
    assert distance(found[0], expected[0]) < 1e-4
    assert torch.equal(found[1], found[0])
    assert distance(found[2], expected[1]) < 1e-4
    assert found[3] == ("" if method == "textual_inversion" else "[0.4, 0.4, 0.8, 0.8, 0.8]")
    if method != "textual_inversion":
        assert distance(expected[0], expected[1]) > 1e-2


@each_method
def test_strength_zero_is_the_base_model(bench: Bench, model: VideoCrafter2, method: str) -> None:
    scene = scene_with(bench, model, method).fresh()
    base, none, constant = scene.result(
        scene.dynamic_sampler(subject=None)[0],
        scene.dynamic_sampler(0.0, 0.0, 2)[0],
        scene.dynamic_sampler(subject=None, model=scene.constant_subject(0.0))[0],
    )
    assert torch.equal(base, none) and torch.equal(base, constant)


@pytest.mark.parametrize("kind", ["error", "interrupt"])
def test_adapters_are_gone_after_a_fault(bench: Bench, model: VideoCrafter2, kind: str) -> None:
    scene = scene_with(bench, model, "dreamvideo").fresh()
    before = scene.result(scene.dynamic_sampler(subject=None)[0])
    scene = scene_with(bench, model, "dreamvideo").fresh()
    layer = next(iter(lora_targets(model.unet)))
    broken = scene.add("ProbeFault", model=scene.model, step=3, kind=kind, layer=layer)[0]
    scene.keep(scene.dynamic_sampler(model=broken)[0])
    with pytest.raises(Interrupted if kind == "interrupt" else PromptFailed):
        scene.run()
    scene = scene_with(bench, model, "dreamvideo").fresh()
    assert torch.equal(scene.result(scene.dynamic_sampler(subject=None)[0]), before)


def test_two_of_them_equal_core(bench: Bench, model: VideoCrafter2) -> None:
    """Adapters beside a LoRA, each with strengths of its own."""
    adapters, lora = dreamvideo(model), small_subjects.random_subject(model, seed=5, placeholder="<new2>")
    scene = scene_with(bench, model, "dreamvideo")
    save_subject(lora, bench.host.base / "models" / "loras" / "beside.safetensors")
    other = scene.load_subject("beside")
    clip = scene.add("CustomCrafterTeachToken", clip=scene.clip, subject=other)[0]
    weights = {"clip": clip, "subject": other, "lambda_s": 0.0, "lambda_l": 0.5, "k": 1}
    both = scene.add("CustomCrafterDynamicSubjectWeights", model=scene.dynamic_weights(), **weights)
    scene.clip = both[1]
    scene.encode(f"{PROMPT} with a <new2>")
    settings = VideoSettings(f"{PROMPT} with a <new2>", **SIZE, seed=SEED, steps=STEPS, cfg=CFG)
    applied = [AppliedSubject(adapters, DYNAMIC), AppliedSubject(lora, TwoPhase(0.0, 0.5, 1))]
    expected = generate(model, settings, applied).latent / SCALE_FACTOR
    sampler = scene.dynamic_sampler(subject=None, model=both[0])
    found, text = scene.result(sampler[0], sampler[2])
    assert distance(found, expected) < 1e-4
    assert text == "[0.4, 0.4, 0.8, 0.8, 0.8]\n[0.0, 0.5, 0.5, 0.5, 0.5]"


def test_saved_again_it_is_the_same(bench: Bench, model: VideoCrafter2) -> None:
    scene = scene_with(bench, model, "dreamvideo")
    save = {"subject": scene.subject, "name": "again", "overwrite": True}
    scene.add("CustomCrafterSaveSubject", export=False, **save)
    scene.run()
    loras = bench.host.base / "models" / "loras"
    first, again = load_subject(loras / "dreamvideo.safetensors"), load_subject(loras / "again.safetensors")
    assert first.adapters.keys() == again.adapters.keys()
    for name, adapter in first.adapters.items():
        for part, tensor in adapter.tensors().items():
            assert torch.equal(tensor, again.adapters[name].tensors()[part])
    scene = scene_with(bench, model, "dreamvideo")
    scene.add("CustomCrafterSaveSubject", export=True, **{**save, "subject": scene.subject, "name": "exported"})
    with pytest.raises(PromptFailed, match="without export"):
        scene.run()
    assert not (loras / "exported.safetensors").exists()
