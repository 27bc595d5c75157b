"""Memory of a training step: layers computed again, and the estimate before the first step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import is_fake
from torch.profiler import ProfilerActivity, profile

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import PromptTokenizer
from customcrafter_core.diffusion.guidance import GuidanceBatch
from customcrafter_core.diffusion.strength import Constant
from customcrafter_core.errors import InputError
from customcrafter_core.memory.counting import RESERVE_OF_HEAP, DryRun
from customcrafter_core.memory.free import gigabytes
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.subject import LoRAFactors
from customcrafter_core.subject.targets import lora_targets
from customcrafter_core.training.batches import Batch
from customcrafter_core.training.callbacks import Callbacks
from customcrafter_core.training.config import TrainConfig, preset
from customcrafter_core.training.examples import IMAGES_AT_ONCE
from customcrafter_core.training.gradient_checkpointing import CheckpointedLayer, gradient_checkpointing
from customcrafter_core.training.learner import TOKEN, Learner
from customcrafter_core.training.loop import train_subject
from customcrafter_core.training.lora_layers import lora_layers
from customcrafter_core.training.memory import MemoryEstimate, encoding_memory, estimate_memory, sample_memory
from customcrafter_core.training.memory_plan import plan_memory, plan_prior
from customcrafter_core.training.objective import Captions, compute_losses
from customcrafter_core.training.photos import Photo
from customcrafter_core.training.run_options import RunOptions
from tests.core import tiny_models


def factors(model: VideoCrafter2, rank: int = 2) -> dict[str, LoRAFactors]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: LoRAFactors(
            nn.Parameter(torch.randn(rank, layer.in_features, generator=generator)),
            nn.Parameter(torch.randn(layer.out_features, rank, generator=generator) * 0.1),
        )
        for name, layer in lora_targets(model.unet).items()
    }


def backward(model: VideoCrafter2, learned: dict[str, LoRAFactors]) -> list[torch.Tensor]:
    """Gradients of one step, text embeddings included."""
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(2, 77, model.config.unet.cross_attention_dim, generator=generator).requires_grad_()
    x = torch.randn(*model.latent_shape(64, 48, 3, 2), generator=generator)
    predicted = model.unet(x, torch.tensor([3, 700]), text, timestep_cond=torch.tensor([8, 8])).sample
    predicted.pow(2).mean().backward()
    values = [text, *(part for pair in learned.values() for part in (pair.down, pair.up))]
    assert all(value.grad is not None for value in values)
    return [value.grad for value in values if value.grad is not None]


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_the_same(model: VideoCrafter2, training: bool) -> None:
    """Also with the dropout of the temporal convolutions, which must drop the same values the second time."""
    results = []
    model.unet.train(training)
    try:
        for again in (False, True):
            learned = factors(model)
            torch.manual_seed(0)
            context = gradient_checkpointing(model.unet) if again else nullcontext()
            with lora_layers(model.unet, learned), context:
                results.append(backward(model, learned))
    finally:
        model.unet.eval()
    assert len(results[0]) == 2 * len(lora_targets(model.unet)) + 1
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_every_layer_of_all_blocks_is_computed_again(model: VideoCrafter2) -> None:
    calls: dict[str, int] = {}
    kinds = ("ResnetBlock2D", "TemporalConvolution", "SpatialTransformer", "TemporalTransformer")
    layers = {n: m for n, m in model.unet.named_modules() if type(m).__name__ in kinds and n != "transformer_in"}
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1))
        for name, layer in layers.items()
    ]
    learned = factors(model)
    with lora_layers(model.unet, learned), gradient_checkpointing(model.unet):
        with torch.no_grad():
            assert sum(isinstance(m, CheckpointedLayer) for m in model.unet.modules()) == len(layers)
        backward(model, learned)
    for hook in hooks:
        hook.remove()
    first = {"down_blocks.0.resnets.0", "down_blocks.0.temp_convs.0"}  # before them nothing is learned
    assert calls == {name: 1 if name in first else 2 for name in layers}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_the_network_is_what_it_was_afterwards(model: VideoCrafter2, error: type[BaseException] | None) -> None:
    before = dict(model.unet.named_modules())
    with pytest.raises(error) if error else nullcontext(), gradient_checkpointing(model.unet):
        assert dict(model.unet.named_modules()).keys() != before.keys()
        if error:
            raise error
    after = dict(model.unet.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is module for name, module in before.items())


def test_without_gradients_a_layer_just_runs(model: VideoCrafter2) -> None:
    x, text = torch.zeros(1, 4, 2, 6, 8), torch.zeros(1, 77, model.config.unet.cross_attention_dim)
    with torch.no_grad():
        plain = model.unet(x, 5, text, timestep_cond=torch.tensor([8])).sample
        with gradient_checkpointing(model.unet):
            assert torch.equal(model.unet(x, 5, text, timestep_cond=torch.tensor([8])).sample, plain)


SIZE = {"width": 64, "height": 48}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter2:
    """Few layers: an estimate goes through each of them."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return load_videocrafter2(tiny_models.write(path, tiny_models.state_dict()))


def measured_peak(
    model: VideoCrafter2, config: TrainConfig, *, has_prior: bool, recompute: bool, token_alone: bool = False
) -> int:
    """Bytes that PyTorch's profiler sees allocated at once in a real forward and backward pass."""
    learner = Learner.start(model, config, torch.Generator().manual_seed(0))
    for name, parameter in learner.parameters().items():
        parameter.requires_grad_(name == TOKEN or not token_alone)

    def batch(caption: str) -> Batch:
        x = torch.randn(model.latent_shape(**SIZE, frames=config.frames, batch=config.batch))
        ids = PromptTokenizer({config.placeholder: 1})([caption] * config.batch)
        return Batch(
            x, x.clone(), torch.zeros(config.batch, dtype=torch.long), ids, torch.ones(config.batch, 1, 1, 6, 8)
        )

    batches = [batch("a <new1> dog")] + [batch("a dog")] * has_prior
    captions = Captions(model)
    with learner.attached(model), gradient_checkpointing(model.unet) if recompute else nullcontext():
        sum(compute_losses(model, captions, config, batches)).backward()  # fills the cache of captions
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            sum(compute_losses(model, captions, config, batches)).backward()
    return most_at_once(profiled)


def most_at_once(profiled: profile) -> int:
    """The bytes that were allocated at once."""
    changes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "has_prior", "recompute"),
    [("paper", True, False), ("paper", True, True), ("custom_diffusion", False, False), ("dreamvideo", False, False)],
)
def test_the_estimate_is_what_a_real_step_takes(
    model: VideoCrafter2, name: str, has_prior: bool, recompute: bool
) -> None:
    config = preset(name, "dog", frames=3, batch=2, **SIZE)
    estimate = estimate_memory(model, config, has_prior=has_prior, recompute=recompute)
    measured = measured_peak(model, config, has_prior=has_prior, recompute=recompute)
    assert estimate.activations == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_the_estimate_counts_the_larger_stage(model: VideoCrafter2) -> None:
    """Of few frames in the main stage, and many pictures in the one before, where V* alone is learned."""
    config = preset("dreamvideo", "dog", frames=1, token_batch=6, **SIZE)
    main = estimate_memory(model, replace(config, token_batch=1), has_prior=False, recompute=False)
    both = estimate_memory(model, config, has_prior=False, recompute=False)
    as_one_step = replace(config, batch=config.token_batch)
    measured = measured_peak(model, as_one_step, has_prior=False, recompute=False, token_alone=True)
    assert both.activations > 3 * main.activations
    assert both.activations == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_the_estimate_of_half_precision_is_what_a_real_step_takes(reference_checkpoint: Path) -> None:
    half = load_videocrafter2(reference_checkpoint, dtype=torch.bfloat16)
    config = preset("paper", "dog", frames=3, batch=2, **SIZE)
    estimate = estimate_memory(half, config, has_prior=True, recompute=False)
    measured = measured_peak(half, config, has_prior=True, recompute=False)
    assert estimate.activations == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_encoding_photos_is_counted(model: VideoCrafter2) -> None:
    config = TrainConfig("dog", width=128, height=96)
    images = torch.zeros(IMAGES_AT_ONCE, 3, 96, 128)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model.encode_moments(images)
    counted = encoding_memory(model, config)
    assert counted == pytest.approx(most_at_once(profiled) + images.nbytes, rel=0.05)
    estimate = estimate_memory(model, config, has_prior=False, recompute=False)
    assert estimate.encoding == counted
    larger = replace(estimate, encoding=2 * estimate.activations)
    assert larger.total == estimate.total + estimate.activations
    assert "encoding photos" in str(larger) and "encoding photos" not in str(replace(estimate, encoding=1))


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [GuidanceBatch.AUTO, GuidanceBatch.ONE_BY_ONE])
@pytest.mark.parametrize("method", ["customcrafter", "dreamvideo"])
def test_the_estimate_of_a_sample_video_is_what_it_takes(
    model: VideoCrafter2, guidance: GuidanceBatch, method: str
) -> None:
    config = TrainConfig("dog", method=method, token_steps=1, width=128, height=96)
    learner = Learner.start(model, config, torch.Generator().manual_seed(0))
    subject = learner.subject(config, model, 1, b"")
    settings = VideoSettings(subject.trigger, width=128, height=96, steps=1, guidance=guidance)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        latent = generate(model, settings, [AppliedSubject(subject, Constant(1.0))]).latent
        with torch.no_grad():
            model.decode(latent)
    assert sample_memory(model, config, guidance) == pytest.approx(most_at_once(profiled), rel=0.05)


@pytest.mark.slow
def test_the_estimate_follows_the_settings(tiny: VideoCrafter2) -> None:
    def estimate(*, has_prior: bool = False, recompute: bool = False, **changes: int) -> MemoryEstimate:
        config = TrainConfig("dog", **{**SIZE, "frames": 4, **changes})
        return estimate_memory(tiny, config, has_prior=has_prior, recompute=recompute)

    plain = estimate()
    parameters = sum(2 * layer.in_features * 4 for layer in lora_targets(tiny.unet).values())
    assert plain.learned == pytest.approx(16 * parameters, rel=0.5)
    assert estimate(rank=8).learned > 1.8 * plain.learned
    networks = (tiny.unet, tiny.text_encoder, tiny.vae)
    assert plain.weights == pytest.approx(4 * sum(p.numel() for n in networks for p in n.parameters()), rel=0.01)
    for more in (estimate(frames=8), estimate(batch=2), estimate(has_prior=True), estimate(width=128)):
        assert 1.5 * plain.activations < more.activations < 2.1 * plain.activations
    assert estimate(recompute=True).activations < 0.6 * plain.activations
    assert plain.total == plain.weights + plain.learned + plain.activations < plain.weights + plain.needed
    for part in ("GB: weights ", "learned ", "activations "):
        assert part in str(plain)


def test_an_estimate_leaves_the_model_alone(tiny: VideoCrafter2) -> None:
    modules, state = dict(tiny.unet.named_modules()), {n: id(p) for n, p in tiny.unet.named_parameters()}
    estimate_memory(tiny, TrainConfig("dog", **SIZE), has_prior=True, recompute=True)
    assert all(module is modules[name] for name, module in tiny.unet.named_modules())
    assert {n: id(p) for n, p in tiny.unet.named_parameters()} == state
    hollow = DryRun().copy(tiny.unet)
    assert all(is_fake(p) for p in hollow.parameters()) and not any(is_fake(p) for p in tiny.unet.parameters())
    assert [(p.dtype, p.device) for p in hollow.parameters()] == [(p.dtype, p.device) for p in tiny.unet.parameters()]


def test_activations_are_computed_again_only_where_memory_asks_for_it(tiny: VideoCrafter2) -> None:
    config = TrainConfig("dog", **SIZE)
    kept, again = (estimate_memory(tiny, config, has_prior=False, recompute=r) for r in (False, True))
    assert not plan_memory(tiny, config, has_prior=False, free=kept.needed).recompute
    plan = plan_memory(tiny, config, has_prior=False, free=kept.needed - 1)
    assert plan.recompute and plan.estimate == again and "computed twice" in str(plan)
    on = TrainConfig("dog", gradient_checkpointing="on", **SIZE)
    assert plan_memory(tiny, on, has_prior=False, free=kept.needed).recompute
    off = TrainConfig("dog", gradient_checkpointing="off", **SIZE)
    with pytest.raises(InputError, match="This would fit: gradient_checkpointing auto"):
        plan_memory(tiny, off, has_prior=False, free=again.needed)


@pytest.mark.slow
def test_settings_that_would_fit_are_named_and_do_fit(tiny: VideoCrafter2) -> None:
    config = TrainConfig("dog", frames=8, batch=4, gradient_checkpointing="off", **SIZE)
    half = TrainConfig("dog", frames=4, batch=4, **SIZE)
    free = estimate_memory(tiny, half, has_prior=True, recompute=True).needed
    with pytest.raises(InputError) as error:
        plan_memory(tiny, config, has_prior=True, free=free)
    for setting in ("frames 4", "batch 2", "gradient_checkpointing auto"):
        assert setting in error.value.remedy
    assert plan_memory(tiny, half, has_prior=True, free=free).recompute
    with pytest.raises(InputError, match="Even frames 1, batch 1, width 32, height 24 would need"):
        plan_memory(tiny, TrainConfig("dog", **SIZE), has_prior=True, free=1000)


@pytest.mark.slow
def test_settings_of_both_stages_are_named(tiny: VideoCrafter2) -> None:
    config = preset("dreamvideo", "dog", **SIZE, gradient_checkpointing="on")
    half = replace(config, frames=2, token_batch=2)
    free = estimate_memory(tiny, half, has_prior=False, recompute=True).needed
    with pytest.raises(InputError) as error:
        plan_memory(tiny, config, has_prior=False, free=free)
    assert "frames 2, token_batch 2 (" in error.value.remedy
    plan_memory(tiny, half, has_prior=False, free=free)


@pytest.mark.slow
def test_sample_videos_are_planned_too(tiny: VideoCrafter2) -> None:
    """Of many frames, so that a prediction takes more than decoding a few frames."""
    model = replace(tiny, defaults=replace(tiny.defaults, frames=32))
    config = TrainConfig("dog", frames=1, gradient_checkpointing="on", **SIZE)
    training = plan_memory(model, config, has_prior=False, free=10**12)
    assert training.estimate.sampling == 0 and "sample video" not in str(training)
    both = plan_memory(model, config, has_prior=False, free=10**12, samples=True)
    assert both.guidance is GuidanceBatch.AUTO
    assert both.estimate.sampling > both.estimate.activations == training.estimate.activations
    assert "or in their place a sample video" in str(both) and "one by one" not in str(both)
    fitting = plan_memory(model, config, has_prior=False, free=both.estimate.needed - 1, samples=True)
    assert training.estimate.needed < fitting.estimate.needed < both.estimate.needed
    assert fitting.guidance is GuidanceBatch.ONE_BY_ONE and "one by one" in str(fitting)
    short = fitting.estimate.needed - 1
    with pytest.raises(InputError) as error:
        plan_memory(model, config, has_prior=False, free=short, samples=True)
    assert f"sample_every 0 ({gigabytes(training.estimate.needed)} GB)" in error.value.remedy
    assert "width 48, height 36" in error.value.remedy
    plan_memory(model, replace(config, width=48, height=36), has_prior=False, free=short, samples=True)


@pytest.mark.slow
def test_a_run_that_cannot_make_its_samples_makes_no_step(tiny: VideoCrafter2) -> None:
    model = replace(tiny, defaults=replace(tiny.defaults, frames=32))
    config, run_options = TrainConfig("dog", frames=1, steps=1, **SIZE), RunOptions(sample_every=1, sample_steps=1)
    free = plan_memory(model, config, has_prior=False, free=10**12).estimate.needed
    photo, steps = Photo(Image.linear_gradient("L").convert("RGB")), []
    with pytest.raises(InputError, match="sample_every 0"):
        train_subject(
            model, [photo], config, run_options=run_options, callbacks=Callbacks(on_step=steps.append), free=free
        )
    assert not steps
    train_subject(model, [photo], config, free=free)


@pytest.mark.slow
def test_what_will_not_fit_is_said_before_pictures_of_the_class_are_made(tiny: VideoCrafter2) -> None:
    """The pictures are of the model's own size and length, the training may be smaller."""
    model = replace(tiny, defaults=replace(tiny.defaults, frames=64))
    config = TrainConfig("dog", frames=1, gradient_checkpointing="on", width=32, height=24)
    training = plan_memory(model, config, has_prior=True, free=10**12).estimate.needed
    together, each = (
        round(RESERVE_OF_HEAP * sample_memory(model, replace(config, width=0, height=0), guidance))
        for guidance in (GuidanceBatch.AUTO, GuidanceBatch.ONE_BY_ONE)
    )
    assert training < each < together
    assert plan_prior(model, config, free=together) is GuidanceBatch.AUTO
    assert plan_prior(model, config, free=together - 1) is GuidanceBatch.ONE_BY_ONE
    with pytest.raises(InputError, match="pictures of the class"):
        plan_prior(model, config, free=each - 1)
    with pytest.raises(InputError, match="for this training"):
        plan_prior(model, config, free=training - 1)
