"""What the graph samples is what the core samples, and what the host's own nodes sample with the same weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from customcrafter_core.base_model.model import SCALE_FACTOR, VideoCrafter2
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.subject import Subject
from tests.host.bench import CFG, PROMPT, SEED, SIZE, STEPS, Bench, distance


def core_latent(model: VideoCrafter2, subjects: list[AppliedSubject], prompt: str = PROMPT, **changes) -> torch.Tensor:
    settings = VideoSettings(prompt, **SIZE, seed=SEED, steps=STEPS, cfg=CFG, **changes)
    return generate(model, settings, subjects).latent / SCALE_FACTOR


@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_graph_equals_core(bench: Bench, model: VideoCrafter2, subjects: dict[str, Subject], eta: float) -> None:
    expected = core_latent(model, [AppliedSubject(subjects["first"], TwoPhase(0.4, 0.8, 2))], eta=eta)
    scene = bench.scene()
    assert distance(scene.result(scene.dynamic_sampler(eta=eta)[0]), expected) < 1e-4


def test_batch_equals_core(bench: Bench, model: VideoCrafter2, subjects: dict[str, Subject]) -> None:
    expected = core_latent(model, [AppliedSubject(subjects["first"], TwoPhase(0.4, 0.8, 2))], batch=2)
    scene = bench.scene()
    scene.latent = scene.add("CustomCrafterEmptyVideoLatent", **SIZE, batch_size=2)[0]
    assert distance(scene.result(scene.dynamic_sampler()[0]), expected) < 1e-4


def test_sizes_of_zero_are_the_models_own(bench: Bench, model: VideoCrafter2) -> None:
    for given in ({}, {"frames": 5}, {"width": 64, "height": 48}):
        scene, size = bench.scene(subject=None), {"width": 0, "height": 0, "frames": 0, **given}
        latent = scene.add("CustomCrafterEmptyVideoLatent", **size, batch_size=2, model=scene.model)[0]
        width, height, frames = (size[name] or getattr(model.defaults, name) for name in size)
        assert scene.result(latent).shape == model.latent_shape(width, height, frames, 2)


def test_frame_rate_equals_core(bench: Bench, model: VideoCrafter2) -> None:
    expected = core_latent(model, [], "a dog", fps=3)
    scene = bench.scene(subject=None, prompt="a dog")
    scene.model = scene.add("CustomCrafterFrameRate", model=scene.model, fps=3)[0]
    assert distance(scene.result(scene.dynamic_sampler()[0]), expected) < 1e-4
    assert distance(core_latent(model, [], "a dog", fps=30), expected) > 1e-3


def test_sampler_custom_equals_core(bench: Bench, model: VideoCrafter2) -> None:
    """Ending where VideoCrafter2 does, and at the clean latent."""
    scene = bench.scene(subject=None, prompt="a dog")
    sigmas = scene.add("BasicScheduler", model=scene.model, scheduler="ddim_uniform", steps=STEPS, denoise=1.0)[0]
    given = {
        "model": scene.model, "add_noise": True, "noise_seed": SEED, "cfg": CFG, "positive": scene.positive,
        "negative": scene.negative, "sigmas": sigmas, "latent_image": scene.latent,
    }  # fmt: skip
    samplers = [scene.add("CustomCrafterDDIMSampler", eta=1.0, exact_tail=tail)[0] for tail in (False, True)]
    results = scene.result(*(scene.add("SamplerCustom", **given, sampler=sampler)[0] for sampler in samplers))
    for exact_tail, result in zip((False, True), results, strict=True):
        assert distance(result, core_latent(model, [], "a dog", exact_tail=exact_tail)) < 1e-4
    assert distance(*results) > 1e-3


def test_two_subjects_equal_core(bench: Bench, model: VideoCrafter2, subjects: dict[str, Subject]) -> None:
    prompt = "a <new1> and a <new2> play"
    applied = [
        AppliedSubject(subjects["first"], TwoPhase(0.4, 0.8, 2)),
        AppliedSubject(subjects["second"], Constant(0.5)),
    ]
    expected = core_latent(model, applied, prompt)
    scene = bench.scene()
    both = scene.add(
        "CustomCrafterApplySubject",
        model=scene.model,
        clip=scene.clip,
        subject=scene.load_subject("second"),
        strength=0.5,
    )
    scene.model, scene.clip = both[0], both[1]
    scene.encode(prompt)
    assert distance(scene.result(scene.dynamic_sampler()[0]), expected) < 1e-4


def test_two_subjects_in_a_chain_equal_core(bench: Bench, model: VideoCrafter2, subjects: dict[str, Subject]) -> None:
    prompt = "a <new1> and a <new2> play"
    strengths = {"first": 0.7, "second": 0.4}
    applied = [AppliedSubject(subjects[name], Constant(strength)) for name, strength in strengths.items()]
    expected = core_latent(model, applied, prompt)
    scene = bench.scene(subject=None)
    for name, strength in strengths.items():
        given = {"model": scene.model, "clip": scene.clip, "subject": scene.load_subject(name)}
        both = scene.add("CustomCrafterApplySubject", **given, strength=strength)
        scene.model, scene.clip = both[0], both[1]
    scene.encode(prompt)
    assert distance(scene.result(scene.dynamic_sampler()[0]), expected) < 1e-4


@pytest.mark.parametrize("k", [0, 2, STEPS])
def test_equals_two_advanced_samplers_with_loras(bench: Bench, k: int) -> None:
    scene = bench.scene()
    ours = scene.dynamic_sampler(0.4, 0.8, k, sampler_name="ddim")[0]
    weak, strong = scene.lora(0.4), scene.lora(0.8)
    if k == 0:
        theirs = scene.advanced_sampler(0, STEPS, model=strong)
    elif k == STEPS:
        theirs = scene.advanced_sampler(0, STEPS, model=weak)
    else:
        first = scene.advanced_sampler(0, k, model=weak)
        theirs = scene.advanced_sampler(k, STEPS, model=strong, latent_image=first[0])
    result, expected = scene.result(ours, theirs[0])
    assert distance(result, expected) < 1e-5


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_ancestral"])
def test_host_sampler_with_dynamic_weights_equals_ours(bench: Bench, sampler: str) -> None:
    scene = bench.scene()
    ours = scene.dynamic_sampler(sampler_name=sampler)[0]
    theirs = scene.host_sampler(sampler, model=scene.dynamic_weights())[0]
    result, expected = scene.result(ours, theirs)
    assert distance(result, expected) < 1e-6


def test_denoise_counts_k_on_the_steps_that_run(bench: Bench) -> None:
    """On a given video the last part of the steps only, as the host's sampler has it; weak in the first K of those."""
    scene = bench.scene()
    video = scene.add("ProbeLatent", channels=4, frames=4, height=6, width=8)[0]
    part = {"latent_image": video, "denoise": 0.5}
    ours = scene.dynamic_sampler(sampler_name="ddim", **part)
    theirs = scene.host_sampler(model=scene.dynamic_weights(), **part)[0]
    whole = scene.dynamic_sampler(sampler_name="ddim", latent_image=video)
    result, expected, applied, noised = scene.result(ours[0], theirs, ours[2], whole[0])
    assert applied == "[0.4, 0.4, 0.8, 0.8, 0.8]"
    assert distance(result, expected) < 1e-6
    assert distance(result, noised) > 1e-2


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_host_noise_of_each_video_of_a_batch(bench: Bench, sampler: str) -> None:
    """With a sampler of the host's the noise is the host's, that of a video taken out of a batch included."""
    scene = bench.scene()
    both = scene.add("CustomCrafterEmptyVideoLatent", **SIZE, batch_size=2)[0]
    second = scene.add("LatentFromBatch", samples=both, batch_index=1, length=1)[0]
    model = scene.dynamic_weights()
    ours, theirs = [], []
    for latent in (both, second):
        ours.append(scene.dynamic_sampler(sampler_name=sampler, latent_image=latent)[0])
        theirs.append(scene.host_sampler(sampler, model=model, latent_image=latent)[0])
    our_both, our_second, their_both, their_second = scene.result(*ours, *theirs)
    assert distance(our_both, their_both) < 1e-6
    assert distance(our_second, their_second) < 1e-6
    if sampler == "ddim":  # its steps add no noise of their own, which the host draws anew for each run
        assert distance(our_second, our_both[1:]) < 1e-5  # a batch is summed up in another order
    assert distance(our_second, our_both[:1]) > 1e-2


def test_video_taken_out_of_a_batch_keeps_its_noise(bench: Bench) -> None:
    scene = bench.scene()
    both = scene.add("CustomCrafterEmptyVideoLatent", **SIZE, batch_size=2)[0]
    second = scene.add("LatentFromBatch", samples=both, batch_index=1, length=1)[0]
    result, batch = scene.result(*(scene.dynamic_sampler(latent_image=latent)[0] for latent in (second, both)))
    assert distance(result, batch[1:]) < 1e-5  # a batch is summed up in another order
    assert distance(result, batch[:1]) > 1e-2


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
@pytest.mark.parametrize("curve", ["0:0, 0.5:1, 1:-0.5", ""])
def test_parts_of_a_run_are_the_run(bench: Bench, sampler: str, curve: str) -> None:
    """Two and three KSampler Advanced sample what one sampler does: a curve, and K beyond the first part.

    Told their parts, or not: then one model for all will do, or one with the same values for each, as of two experts.
    """
    scene = bench.scene()
    given = {"k": 3, "curve": curve}
    results = [scene.host_sampler(sampler, model=scene.dynamic_weights(**given))[0]]
    for told, edges in ((True, (0, 2, STEPS)), (False, (0, 2, STEPS)), (False, (0, 1, 4, STEPS))):
        latent = scene.latent
        for start, end in pairwise(edges):
            part = {"start_at_step": start, "total_steps": STEPS} if told else {}
            model = scene.dynamic_weights(**given, **part)
            latent = scene.advanced_sampler(start, end, model=model, sampler_name=sampler, latent_image=latent)[0]
        results.append(latent)
    expected, *found = scene.result(*results)
    for result in found:
        assert distance(result, expected) < 1e-5


@pytest.mark.parametrize("sampler", ["ddim_videocrafter2", "dpmpp_2m"])
def test_strength_zero_is_the_base_bit_for_bit(bench: Bench, sampler: str) -> None:
    scene = bench.scene()
    zero = scene.dynamic_sampler(0.0, 0.0, 2, sampler_name=sampler)[0]
    base = scene.dynamic_sampler(subject=None, sampler_name=sampler)[0]
    result, expected = scene.result(zero, base)
    assert torch.equal(result, expected)


def test_equal_strengths_are_a_plain_lora(bench: Bench) -> None:
    scene = bench.scene()
    ours = scene.dynamic_sampler(0.7, 0.7, 2, sampler_name="ddim")[0]
    loader = scene.host_sampler(model=scene.lora(0.7))[0]
    constant = scene.host_sampler(model=scene.constant_subject(0.7))[0]
    result, expected, applied = scene.result(ours, loader, constant)
    assert distance(result, expected) < 1e-5  # ours adds in one operation, the host multiplies first
    assert torch.equal(applied, expected)


def test_hosts_loader_of_model_and_clip(bench: Bench) -> None:
    """LoraLoader: our CLIP goes through it and keeps its tokens; a subject's file holds nothing for the CLIP to change."""
    scene = bench.scene()
    only = scene.host_sampler(model=scene.lora(0.7))[0]
    texts, videos = [scene.positive], [only]
    for strength in (0.0, 1.0):
        both = scene.add(
            "LoraLoader", model=scene.model, clip=scene.clip, lora_name="first.safetensors",
            strength_model=0.7, strength_clip=strength,
        )  # fmt: skip
        texts.append(scene.add("CLIPTextEncode", clip=both[1], text=PROMPT)[0])
        videos.append(scene.host_sampler(model=both[0], positive=texts[-1])[0])
    found = scene.result(*texts, *videos)
    for text in found[1:3]:
        assert torch.equal(text[0][0], found[0][0][0])
        assert text[0][1]["customcrafter_tokens"] == ("<new1>",)
    for video in found[4:]:
        assert torch.equal(video, found[3])


def test_images_as_batch_are_the_same_video(bench: Bench) -> None:
    scene = bench.scene()
    images = scene.add("EmptyLatentImage", width=SIZE["width"], height=SIZE["height"], batch_size=SIZE["frames"])[0]
    result, expected = scene.result(scene.dynamic_sampler(latent_image=images)[0], scene.dynamic_sampler()[0])
    assert torch.equal(result, expected[0].movedim(1, 0))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_empty_image_batch_is_one_video_for_host_samplers(
    bench: Bench, model: VideoCrafter2, subjects: dict[str, Subject], sampler: str
) -> None:
    """Empty Latent Image with a batch of 16 through the host's KSampler: one video of 16 frames from the host's noise."""
    scene = bench.scene()
    images = scene.add("EmptyLatentImage", width=SIZE["width"], height=SIZE["height"], batch_size=16)[0]
    dynamic = scene.dynamic_weights()
    as_images = scene.host_sampler(sampler, model=dynamic, latent_image=images)[0]
    ours = scene.dynamic_sampler(sampler_name=sampler, latent_image=images)[0]
    noise = torch.randn(16, 4, 6, 8, generator=torch.Generator().manual_seed(SEED))
    first = model.schedule.ddim_timesteps(STEPS)[0]
    start = (noise / float(model.schedule.signal[first]) / SCALE_FACTOR).movedim(1, 0)[None]
    video = scene.add("ProbeTensor", values={"__value__": start.tolist()})[0]
    as_video = scene.advanced_sampler(
        0, STEPS, add_noise="disable", model=dynamic, latent_image=scene.latent_of(video), sampler_name=sampler
    )[0]
    result, own, expected = scene.result(as_images, ours, as_video)
    assert result.shape == (16, 4, 6, 8)
    assert distance(result, expected[0].movedim(1, 0)) < 1e-5
    assert distance(own, result) < 1e-6


def test_host_samples_images_as_batch_as_the_same_video(bench: Bench) -> None:
    scene = bench.scene()
    start = scene.add("ProbeLatent", channels=4, frames=4, height=6, width=8)
    model = scene.dynamic_weights(start_at_step=2)
    video, images = (scene.advanced_sampler(2, STEPS, latent_image=start[form], model=model)[0] for form in (0, 1))
    expected, result = scene.result(video, images)
    assert torch.equal(result, expected[0].movedim(1, 0))


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 0.001), ("bfloat16", 0.006), ("default", 0.001)])
def test_half_precision(bench: Bench, dtype: str, bound: float) -> None:
    full, half = bench.scene(), bench.scene(dtype=dtype)
    expected = full.result(full.dynamic_sampler()[0])
    assert distance(half.result(half.dynamic_sampler()[0]), expected) < bound


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_half_the_memory_gives_the_same_video(bench: Bench, dtype: str) -> None:
    """Prompt, latents and pixels with half of MODEL, CLIP and VAE loaded: a subject and a LoRA, our sampler and others."""
    scene = bench.scene(dtype=dtype)
    parts = {"model": scene.model, "clip": scene.clip, "vae": scene.vae}
    halves = {
        name: scene.add(f"ProbeHalf{name.upper()}", whole=part, name=f"half_{name}")[0] for name, part in parts.items()
    }
    results = []
    for model, clip, vae in (parts.values(), halves.values(), parts.values()):
        scene.model, scene.clip, scene.vae = model, clip, vae
        scene.fresh().encode(PROMPT)
        dynamic = scene.dynamic_weights()
        samplers = [
            scene.dynamic_sampler(),
            scene.host_sampler("euler_ancestral", model=dynamic),
            scene.host_sampler("dpmpp_2m", model=scene.lora(0.7)),
        ]
        pixels = [scene.add("VAEDecode", vae=scene.vae, samples=sampler[0])[0] for sampler in samplers]
        results += [scene.positive, *(sampler[0] for sampler in samplers), *pixels]
    found = scene.result(*results)
    count = len(found) // 3
    for whole, half, again in zip(*(found[i * count : (i + 1) * count] for i in range(3)), strict=True):
        if isinstance(whole, list):
            whole, half, again = whole[0][0], half[0][0], again[0][0]
        assert torch.equal(whole, again)
        # to half-precision weights that are not loaded the host adds a LoRA in another precision
        assert torch.equal(whole, half) if dtype == "float32" else distance(half, whole) < 1e-3
    for name in parts:
        seen = scene.saved(f"half_{name}")
        assert seen and all(share < 0.6 and offloaded > 0 for share, offloaded in seen), (name, seen)
