"""The trainer: what is learned, what stays, and that it learns at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)
from PIL import Image
from torch.optim.lr_scheduler import LambdaLR

from customcrafter_core.base_model.config import VIDEOCRAFTER2
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import clip_tokenizer
from customcrafter_core.errors import InputError
from customcrafter_core.subject.subject import Subject
from customcrafter_core.subject.targets import lora_targets
from customcrafter_core.training.augmentation import LARGE_PHRASES, SMALL_PHRASES
from customcrafter_core.training.batches import Batch, BatchSource, draw_timesteps, seeded_generator
from customcrafter_core.training.callbacks import Callbacks, Sample
from customcrafter_core.training.config import PRESETS, TrainConfig, check_preset, preset
from customcrafter_core.training.examples import Examples, ExampleSets, count_views, encode_examples
from customcrafter_core.training.loop import train_subject
from customcrafter_core.training.objective import Captions, compute_losses
from customcrafter_core.training.photos import Clip, Photo
from customcrafter_core.training.pictures import draw_loss
from customcrafter_core.training.run_options import RunOptions
from customcrafter_core.training.trainer import Trainer, TrainStep
from tests.core import tiny_models

SIZE = {"width": 64, "height": 48, "frames": 2, "views": 2}


def photos(count: int = 2) -> list[Photo]:
    return [Photo(Image.linear_gradient("L").resize((80, 60)).rotate(90 * i).convert("RGB")) for i in range(count)]


def learn(model: VideoCrafter2, config: TrainConfig, *, prior: list[Photo | Clip] | None = None) -> Subject:
    return train_subject(model, photos(), config, prior=prior or []).subject


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few and narrow layers, for what does not depend on them."""
    return tiny_models.write(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", tiny_models.state_dict())


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> VideoCrafter2:
    return load_videocrafter2(tiny_checkpoint)


def weights(model: VideoCrafter2) -> dict[str, torch.Tensor]:
    modules = {"unet": model.unet, "text": model.text_encoder, "vae": model.vae}
    return {f"{part}.{name}": value.clone() for part, m in modules.items() for name, value in m.state_dict().items()}


@pytest.mark.slow
def test_everything_learned_moves_and_nothing_else(model: VideoCrafter2) -> None:
    before = weights(model)
    config = TrainConfig("dog", steps=3, lr=1e-3, **SIZE)
    subject = learn(model, config, prior=photos(1))
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(subject.factors) == set(lora_targets(model.unet))
    assert all(pair.up.abs().max() > 0 for pair in subject.factors.values())
    start = learn(model, TrainConfig("dog", steps=1, lr=1e-12, **SIZE))
    assert (subject.embedding - start.embedding).abs().max() > 1e-4
    assert all((subject.factors[n].down - start.factors[n].down).abs().max() > 0 for n in subject.factors)


def test_only_the_learned_parameters_get_gradients(model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from inside a step: 2 x 96 factors (of this model's targets) and one token row."""
    trained: list[int] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        trained.append(sum(p.grad is not None for group in self.param_groups for p in group["params"]))
        assert not any(p.requires_grad for n, p in model.unet.named_parameters() if "lora_" not in n)
        assert not any(p.requires_grad for p in model.vae.parameters())
        assert [tuple(p.shape) for p in model.text_encoder.parameters() if p.requires_grad] == []
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    learn(model, TrainConfig("dog", steps=1, **SIZE))
    assert trained == [2 * len(lora_targets(model.unet)) + 1]


def test_same_seed_same_subject_other_seed_another(model: VideoCrafter2) -> None:
    runs = [learn(model, TrainConfig("dog", steps=2, seed=seed, **SIZE)) for seed in (1, 1, 2)]
    name = next(iter(runs[0].factors))
    assert all(torch.equal(runs[0].factors[n].up, runs[1].factors[n].up) for n in runs[0].factors)
    assert torch.equal(runs[0].embedding, runs[1].embedding)
    assert not torch.equal(runs[0].factors[name].down, runs[2].factors[name].down)


def test_prior_of_weight_zero_is_no_prior(model: VideoCrafter2) -> None:
    without = learn(model, TrainConfig("dog", steps=2, **SIZE))
    zero = learn(model, TrainConfig("dog", steps=2, prior_weight=0.0, **SIZE), prior=photos(1))
    with_prior = learn(model, TrainConfig("dog", steps=2, **SIZE), prior=photos(1))
    assert torch.equal(without.embedding, zero.embedding)
    assert not torch.equal(without.embedding, with_prior.embedding)


@pytest.mark.slow
def test_loss_falls(model: VideoCrafter2) -> None:
    seen: list[TrainStep] = []
    config = TrainConfig("dog", steps=40, lr=2e-2, batch=2, **{**SIZE, "views": 1})
    train_subject(model, photos(1), config, callbacks=Callbacks(on_step=seen.append))
    losses = [step.loss for step in seen]
    assert [step.step for step in seen] == list(range(40))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_token_starts_as_the_mean_of_its_class_words(model: VideoCrafter2) -> None:
    subject = learn(model, TrainConfig("teddy bear", steps=1, lr=1e-12, **SIZE))
    table = model.text_encoder.get_input_embeddings().weight
    ids = clip_tokenizer()("teddy bear", add_special_tokens=False).input_ids
    mean, usual = table[ids].mean(0, keepdim=True), table[ids].norm(dim=1).mean()
    assert len(ids) == 2 and torch.cosine_similarity(subject.embedding, mean) > 1 - 1e-6
    assert mean.norm() < 0.95 * usual, "a mean of words is shorter than a word"
    assert subject.embedding.norm() > mean.norm() * 1.05
    assert subject.trigger == "<new1> teddy bear"


@pytest.mark.slow
def test_five_hundred_photos(model: VideoCrafter2) -> None:
    """Of all kinds of sizes; each is encoded once, in one view."""
    many = [Photo(Image.new("RGB", (40 + i % 50, 30 + i % 31), (i % 256, 0, 0))) for i in range(500)]
    told: list[tuple[int, int]] = []
    callbacks = Callbacks(on_encoded=lambda done, total: told.append((done, total)))
    result = train_subject(model, many, TrainConfig("dog", steps=2, **{**SIZE, "views": 32}), callbacks=callbacks)
    assert len(result.steps) == 2 and told[-1] == (500, 500)


@pytest.mark.slow
def test_an_exception_leaves_the_model_as_it_was(model: VideoCrafter2) -> None:
    before, modules = weights(model), dict(model.unet.named_modules())

    def stop(step: TrainStep) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        config = TrainConfig("dog", steps=5, lr=1e-2, gradient_checkpointing="on", **SIZE)
        train_subject(model, photos(), config, callbacks=Callbacks(on_step=stop))
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module is modules[name] for name, module in model.unet.named_modules())


def test_recomputing_changes_nothing(model: VideoCrafter2) -> None:
    config = TrainConfig("dog", steps=2, lr=1e-3, **SIZE)
    plain, again = (learn(model, replace(config, gradient_checkpointing=way)) for way in ("off", "on"))
    assert all(torch.equal(plain.factors[name].up, again.factors[name].up) for name in plain.factors)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_is_one_forward_pass_and_one_fused_update(tiny: VideoCrafter2, recompute: bool) -> None:
    """Subject and prior together; with ``recompute`` the backward pass runs the layers that learn a second time."""
    config = TrainConfig("dog", **SIZE)
    trainer = Trainer(tiny, config, sets_of(tiny, config, photos(1)), recompute=recompute)
    layers = {n: m for n, m in tiny.unet.named_modules() if type(m).__name__ == "SpatialTransformer"}
    calls: dict[str, list[int]] = {name: [] for name in ("unet", *layers)}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: calls[name].append(len(args[0])))
        for name, module in {"unet": tiny.unet, **layers}.items()
    ]
    with trainer.attached():
        trainer.step()
    for hook in hooks:
        hook.remove()
    assert calls.pop("unet") == [2]
    assert layers and {len(seen) for name, seen in calls.items() if name in layers} == {2 if recompute else 1}
    assert trainer.optimizer.defaults["fused"] is True


def test_what_is_learned_stays_in_float32(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so do its gradients, also if the model computes in half precision."""
    half = load_videocrafter2(tiny_checkpoint, dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW) -> None:
        learned = [parameter for group in self.param_groups for parameter in group["params"]]
        assert all(
            parameter.grad is not None and parameter.grad.abs().max() > 0
            for parameter in learned
            if parameter.ndim == 1
        )
        seen.extend(tensor.dtype for p in learned for tensor in (p, p.grad) if tensor is not None)
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = TrainConfig("dog", steps=1, **SIZE)
    trainer = Trainer(half, config, sets_of(half, config, photos(1)))
    with trainer.attached():
        trainer.step()
    assert set(seen) == {torch.float32} and len(seen) == 2 * (2 * len(lora_targets(half.unet)) + 1)
    assert {tensor.dtype for tensor in trainer.learner.parameters().values()} == {torch.float32}
    assert half.unet.conv_in.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spoilt", "named"),
    [
        ("prior", "loss of the prior nan in step 3"),
        ("gradient", "gradient nan in step 3"),
        ("sum", "gradient (inf|nan) in step 3"),
    ],
)
def test_loss_that_is_not_finite_is_named(
    tiny: VideoCrafter2, monkeypatch: pytest.MonkeyPatch, spoilt: str, named: str
) -> None:
    def losses(*args: object) -> list[torch.Tensor]:
        subject, prior = compute_losses(*args)
        if spoilt == "gradient":
            subject.register_hook(lambda gradient: gradient * float("nan"))
        return [subject, prior * float("nan")] if spoilt == "prior" else [subject, prior]

    monkeypatch.setattr("customcrafter_core.training.trainer.compute_losses", losses)
    weight = 1e300 if spoilt == "sum" else 1.0
    with pytest.raises(InputError, match=named) as error:
        learn(tiny, TrainConfig("dog", steps=9, prior_weight=weight, **SIZE), prior=photos(1))
    assert "learning rate" in error.value.remedy


def trained(model: VideoCrafter2, config: TrainConfig, changed: Callable[[Trainer], None] | None = None) -> Trainer:
    """A trainer that made all steps."""
    trainer = Trainer(model, config, sets_of(model, config))
    with trainer.attached():
        while not trainer.is_finished:
            trainer.step()
            if changed is not None:
                changed(trainer)
    return trainer


def test_accumulated_batches_equal_a_large_one(tiny: VideoCrafter2) -> None:
    shared = TrainConfig("dog", steps=3, lr=1e-2, **SIZE)
    one, four = (trained(tiny, replace(shared, **c)) for c in ({"batch": 4}, {"batch": 1, "accumulate": 4}))
    for name, value in one.learner.parameters().items():
        assert torch.allclose(four.learner.parameters()[name], value, atol=1e-5), name
    assert [s.loss for s in four.history] == pytest.approx([s.loss for s in one.history], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "library"),
    [
        ({"lr_schedule": "cosine", "warmup_steps": 3}, lambda o: get_cosine_schedule_with_warmup(o, 3, 10)),
        ({"lr_schedule": "linear"}, lambda o: get_linear_schedule_with_warmup(o, 0, 10)),
        ({"warmup_steps": 4}, lambda o: get_constant_schedule_with_warmup(o, 4)),
    ],
)
def test_learning_rates_follow_the_librarys_schedules(
    tiny: VideoCrafter2, settings: dict[str, Any], library: Callable[[torch.optim.Optimizer], LambdaLR]
) -> None:
    """In each stage from its beginning, with a rate of its own for V*."""
    config = TrainConfig("dog", steps=10, lr=1e-3, token_lr=2e-3, **settings, **SIZE)
    rates: list[list[float]] = []
    trained(tiny, config, lambda t: rates.append([group["lr"] for group in t.optimizer.param_groups]))
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)], "lr": 1e-3}, {"params": [torch.zeros(1)], "lr": 2e-3}])
    schedule, expected = library(optimizer), []
    for _ in range(10):
        expected.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert np.allclose(rates, expected)


def test_gradients_are_clipped(tiny: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    real = torch.optim.AdamW.step

    def note(self: torch.optim.AdamW, *args: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        return real(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    config = TrainConfig("dog", steps=1, **SIZE)
    trained(tiny, config)
    trained(tiny, replace(config, max_grad_norm=norms[0] / 10))
    assert norms[1] == pytest.approx(norms[0] / 10, rel=1e-3)


def test_a_bad_step_is_skipped_counted_and_told(
    tiny: VideoCrafter2, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two in a row, then a good one, then two: none of them moves anything, and the run goes on."""
    bad, calls = {1, 2, 4, 5}, []

    def losses(*args: object) -> list[torch.Tensor]:
        calls.append(1)
        return [loss * (float("nan") if len(calls) - 1 in bad else 1) for loss in compute_losses(*args)]

    monkeypatch.setattr("customcrafter_core.training.trainer.compute_losses", losses)
    seen: list[torch.Tensor] = []
    config = TrainConfig("dog", steps=7, lr=1e-2, **SIZE)
    trainer = trained(tiny, config, lambda t: seen.append(t.learner.embedding.detach().clone()))
    assert [step.is_skipped for step in trainer.history] == [i in bad for i in range(7)]
    assert [torch.equal(seen[i], seen[i - 1]) for i in range(1, 7)] == [i in bad for i in range(1, 7)]
    assert caplog.text.count("was skipped: loss of the subject nan") == 4
    assert draw_loss(trainer.history).size and trainer.is_whole()
    calls.clear()
    assert learn(tiny, config).training["skipped_steps"] == 4
    assert "skipped_steps" not in learn(tiny, config).training


# --- the loss ---------------------------------------------------------------------------------------------------------


def losses_without_a_network(
    model: VideoCrafter2, config: TrainConfig, timesteps: list[int], error: float
) -> list[float]:
    """Losses of videos of one set whose predicted noise is off by so much, everywhere."""

    def unet(noised: torch.Tensor, *args: object, **kwargs: object) -> SimpleNamespace:
        return SimpleNamespace(sample=noised)

    shape = model.latent_shape(64, 48, 2)
    noise = torch.randn(shape, generator=seeded_generator(3))
    stand_in = replace(model)
    stand_in.__class__ = type("StandIn", (VideoCrafter2,), {"device": torch.device("cpu"), "dtype": torch.float32})
    stand_in.unet = unet
    ids, mask = torch.full((1, 77), 5), torch.ones(1, 1, 1, *shape[-2:])
    captions = SimpleNamespace(encode=lambda ids: torch.zeros(len(ids), 77, 64))
    losses = [
        compute_losses(stand_in, captions, config, [Batch(noise + error, noise, torch.tensor([t]), ids, mask)])[0]
        for t in timesteps
    ]
    assert {loss.dtype for loss in losses} == {torch.float32}, "not every device has float64"
    return [loss.item() for loss in losses]


def test_the_loss_is_the_square_or_the_size_of_the_error(model: VideoCrafter2) -> None:
    config = TrainConfig("dog")
    assert losses_without_a_network(model, config, [0, 999], -0.3) == pytest.approx([0.09, 0.09], rel=1e-4)
    l1 = losses_without_a_network(model, replace(config, loss="l1"), [0, 999], -0.3)
    assert l1 == pytest.approx([0.3, 0.3], rel=1e-4)


def test_min_snr_lowers_the_weight_of_timesteps_with_little_noise(model: VideoCrafter2) -> None:
    """Against the formula, from the betas and the rescaling of VideoCrafter2 on."""
    timesteps, gamma = [0, 100, 399, 600, 999], 1.0
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    scale = np.concatenate([np.linspace(1, 0.7, 400), np.full(600, 0.7)])
    snr = (scale**2 * abar / (1 - abar))[timesteps]
    expected = np.minimum(snr, gamma) / snr
    assert expected[0] < 1e-2 and expected[-1] == 1
    found = losses_without_a_network(model, TrainConfig("dog", min_snr_gamma=gamma), timesteps, 1.0)
    assert found == pytest.approx(expected.tolist(), rel=1e-4)


# --- what a step sees -------------------------------------------------------------------------------------------------


def sets_of(model: VideoCrafter2, config: TrainConfig, prior: list[Photo | Clip] | None = None) -> ExampleSets:
    return encode_examples(model, config, photos(), prior or [])


def source(model: VideoCrafter2, config: TrainConfig, prior: list[Photo | Clip] | None = None) -> BatchSource:
    return BatchSource(config, sets_of(model, config, prior), model.schedule)


def test_a_masked_border_has_no_part_in_the_loss(model: VideoCrafter2) -> None:
    """Whatever stands outside the pasted photo, the loss is the same; inside it is not."""
    config = TrainConfig("dog", batch=2, **{**SIZE, "resize": (0.4, 0.5)})
    sets = sets_of(model, config)
    assert 0 < sets.subject.mask.mean() < 0.4
    trainer = Trainer(model, config, sets)
    batch = BatchSource(config, sets, model.schedule).draw(0)[0]
    outside, inside = (1 - batch.mask).expand_as(batch.noise), batch.mask.expand_as(batch.noise)
    with trainer.attached(), torch.no_grad():
        losses = [
            compute_losses(model, Captions(model), config, [replace(batch, noise=batch.noise + added)])[0].item()
            for added in (torch.zeros_like(batch.noise), 5 * outside, 5 * inside)
        ]
    assert losses[0] == losses[1]
    assert losses[2] > losses[0] + 10


def test_captions_say_how_large_the_photo_is_shown(model: VideoCrafter2) -> None:
    """What reaches the text encoder, for small views and for large ones."""
    tokenizer = clip_tokenizer()
    for resize, phrases in (((0.4, 0.5), SMALL_PHRASES), ((1.2, 1.4), LARGE_PHRASES), ((0.7, 0.9), ())):
        sets = sets_of(model, TrainConfig("dog", **{**SIZE, "views": 4, "resize": resize}))
        said = set()
        for ids in torch.cat(sets.subject.captions).tolist():
            text = tokenizer.decode([token for token in ids if token < tokenizer.vocab_size], skip_special_tokens=True)
            own = {phrase for phrase in (*SMALL_PHRASES, *LARGE_PHRASES) if phrase in text}
            assert len(own) == bool(phrases), text
            said |= own
        assert said == set(phrases)


def test_frames_are_fresh_draws_and_noises_of_their_own(model: VideoCrafter2) -> None:
    batch = source(model, TrainConfig("dog", **SIZE)).draw(3)[0]
    assert not torch.equal(batch.noise[:, :, 0], batch.noise[:, :, 1])
    still = Examples(torch.zeros(1, 4, 1, 6, 8), torch.ones(1, 4, 1, 6, 8), torch.ones(1, 1, 1, 6, 8), [])
    drawn = still.draw(torch.tensor([0]), 3, seeded_generator(0))
    assert drawn.shape == (1, 4, 3, 6, 8)
    assert not torch.equal(drawn[:, :, 0], drawn[:, :, 1])


def test_prior_clips_move_and_keep_the_order_of_their_frames(model: VideoCrafter2) -> None:
    greys = [Image.new("RGB", (64, 48), (40 * i,) * 3) for i in range(5)]
    config = TrainConfig("dog", **SIZE)
    sets = sets_of(model, config, [Clip(tuple(greys), "a {} that fades")])
    (clips,) = sets.prior
    assert clips.mean.shape[2] == 5
    quiet = replace(clips, std=torch.zeros_like(clips.std))
    for step in range(8):
        drawn = quiet.draw(torch.tensor([0]), 2, seeded_generator(step))[0]
        places = [[torch.equal(drawn[:, t], clips.mean[0, :, i]) for i in range(5)].index(True) for t in range(2)]
        assert places[1] == places[0] + 1
    with pytest.raises(InputError, match="at least 2 frames"):
        sets_of(model, config, [Clip((greys[0],), "")])


def test_stills_and_clips_take_turns(model: VideoCrafter2) -> None:
    config = TrainConfig("dog", **SIZE)
    clip = Clip(tuple(photo.image for photo in photos(2)), "a {} moving")
    sets = sets_of(model, config, [*photos(1), clip])
    assert [examples.mean.shape[2] for examples in sets.prior] == [1, 2]
    drawn = BatchSource(config, sets, model.schedule)
    assert len(drawn.draw(0)) == 2
    moving = clip_tokenizer()("a dog moving").input_ids
    held = [set(moving) <= set(drawn.draw(step)[1].ids[0].tolist()) for step in range(4)]
    assert held == [False, True, False, True]


def test_timesteps_stay_in_their_range_and_lean_where_asked() -> None:
    whole = draw_timesteps(TrainConfig("dog"), 20_000, seeded_generator(1))
    assert (whole.min(), whole.max()) == (0, 999)
    assert abs(whole.double().mean() - 499.5) < 10
    part = draw_timesteps(TrainConfig("dog", timestep_range=(100, 600)), 20_000, seeded_generator(1))
    assert (part.min(), part.max()) == (100, 600)
    early, late = (
        draw_timesteps(TrainConfig("dog", timestep_bias=bias), 50_000, seeded_generator(1)).double() / 1000
        for bias in (-2.0, 2.0)
    )
    expected = 1 / (1 - torch.exp(torch.tensor(-2.0))).item() - 0.5  # mean of the density exp(2u) on 0 … 1
    assert abs(late.mean() - expected) < 0.01
    assert abs(early.mean() - (1 - expected)) < 0.01


def test_caption_dropout_leaves_that_share_empty(model: VideoCrafter2) -> None:
    config = TrainConfig("dog", batch=400, caption_dropout=0.25, **{**SIZE, "frames": 1})
    ids = source(model, config).draw(0)[0].ids
    empty = (ids[:, 1] == clip_tokenizer().eos_token_id).float().mean()
    assert abs(empty - 0.25) < 0.07


def test_captions_without_the_token_are_encoded_once(model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        "customcrafter_core.training.objective.encode_ids",
        lambda encoder, ids: calls.append(len(ids)) or torch.zeros(len(ids), 77, 64),
    )
    captions, plain = Captions(model), torch.full((3, 77), 5)
    captions.encode(plain)
    captions.encode(plain)
    assert calls == [1]
    captions.encode(torch.full((2, 77), clip_tokenizer().vocab_size))
    captions.encode(torch.full((2, 77), clip_tokenizer().vocab_size))
    assert calls == [1, 2, 2]


def test_a_caption_whose_end_with_the_token_is_cut_off_is_refused(model: VideoCrafter2) -> None:
    config = TrainConfig("dog", steps=1, **SIZE)
    long = [replace(photo, caption="very " * 90 + "old {}") for photo in photos()]
    with pytest.raises(InputError, match="at most 75 tokens"):
        train_subject(model, long, config)
    with pytest.raises(InputError, match="number of vectors"):
        train_subject(model, photos(), replace(config, tokens=90))


def test_a_step_without_the_token_in_any_caption_still_counts(model: VideoCrafter2) -> None:
    config = TrainConfig("dog", steps=3, method="textual_inversion", caption_dropout=1.0, **SIZE)
    assert len(train_subject(model, photos(), config).steps) == 3


def test_few_photos_have_many_views_and_many_photos_few() -> None:
    config = TrainConfig("dog")
    assert [count_views(config, count) for count in (1, 5, 100, 500, 5000)] == [32, 32, 5, 1, 1]
    assert count_views(replace(config, resize=(1.0, 1.0)), 5) == 1


@pytest.mark.slow
def test_each_picture_is_encoded_once(model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = VideoCrafter2.encode_moments

    def spy(self: VideoCrafter2, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(VideoCrafter2, "encode_moments", spy)
    told: list[tuple[int, int]] = []
    callbacks = Callbacks(on_encoded=lambda done, total: told.append((done, total)))
    config = TrainConfig("dog", steps=5, batch=2, **{**SIZE, "views": 3, "frames": 4})
    train_subject(model, photos(2), config, prior=photos(1), callbacks=callbacks)
    assert sum(encoded) == 2 * 3 + 1
    assert told[-1] == (7, 7)


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sample_videos_do_not_change_what_is_learned(model: VideoCrafter2) -> None:
    config = TrainConfig("dog", steps=4, lr=1e-3, **SIZE)
    seen: list[Sample] = []
    run_options = RunOptions(sample_every=2, sample_steps=2)
    sampled = train_subject(
        model, photos(), config, run_options=run_options, callbacks=Callbacks(on_sample=seen.append)
    )
    assert [sample.step for sample in seen] == [0, 2, 4]
    assert seen[0].frames.shape == (model.defaults.frames, 48, 64, 3)
    assert not vars(sampled).keys() & {"samples"}, "31 MB each at full size"
    assert not torch.equal(seen[0].frames, seen[2].frames)
    assert torch.equal(sampled.subject.embedding, learn(model, config).embedding)


def test_sample_videos_of_a_subject_that_stays_the_same_are_the_same(tiny: VideoCrafter2) -> None:
    """One seed for all of them."""
    seen: list[Sample] = []
    config, run_options = TrainConfig("dog", steps=2, lr=1e-12, **SIZE), RunOptions(sample_every=1, sample_steps=2)
    train_subject(tiny, photos(), config, run_options=run_options, callbacks=Callbacks(on_sample=seen.append))
    assert len(seen) == 3
    assert all(torch.allclose(sample.frames, seen[0].frames, atol=1e-4) for sample in seen)
    assert seen[0].frames.std() > 1e-2


BAD_SETTINGS = [
    {"steps": 0},
    {"rank": 0},
    {"frames": 0},
    {"batch": 0},
    {"lr": 0.0},
    {"lr": float("nan")},
    {"prior_weight": -1.0},
    {"class_word": " "},
    {"lr": 1e40},
    {"token_lr": 1.5},
    {"placeholder": "dog"},
    {"placeholder": "<a b>"},
    {"captions": ("no place",)},
    {"method": "magic"},
    {"method": "dreamvideo"},
    {"loss": "l3"},
    {"gradient_checkpointing": "maybe"},
    {"resize": (1.4, 0.4)},
    {"resize": (0.4,)},
    {"timestep_range": (0, 1000)},
    {"timestep_bias": float("nan")},
    {"caption_dropout": 1.5},
    {"views": 0},
    {"token_steps": -1},
    {"seed": -1},
    {"width": -8},
    {"fps": -3},
]


@pytest.mark.parametrize("change", BAD_SETTINGS)
def test_settings_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(InputError) as error:
        TrainConfig(**{"class_word": "dog", **change})
    assert error.value.found and error.value.remedy


def test_presets() -> None:
    assert preset("paper", "dog") == TrainConfig("dog")
    assert (TrainConfig("dog").steps, TrainConfig("dog").lr, TrainConfig("dog").weight_decay) == (10_000, 3e-5, 1e-2)
    assert all(preset(name, "dog", seed=3).seed == 3 for name in PRESETS)
    with pytest.raises(InputError, match="paper"):
        preset("fast", "dog")


def test_no_photos(model: VideoCrafter2) -> None:
    with pytest.raises(InputError, match="at least one photo"):
        train_subject(model, [], TrainConfig("dog", **SIZE))


def test_size_not_divisible(model: VideoCrafter2) -> None:
    with pytest.raises(InputError, match="divisible by 8"):
        train_subject(model, photos(), TrainConfig("dog", width=63, height=48))


def test_float16_is_refused(model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoCrafter2, "dtype", torch.float16)
    with pytest.raises(InputError, match="Use bfloat16"):
        train_subject(model, photos(), TrainConfig("dog", steps=1, **SIZE))


def test_settings_as_plain_values_and_back() -> None:
    config = TrainConfig("dog", resize=(0.5, 1.0), captions=("a {}",), timestep_range=(10, 20))
    assert TrainConfig.from_metadata(config.as_metadata()) == config
    assert TrainConfig.from_metadata({"class_word": "dog", "lr": 1}).lr == 1.0
    for wrong in ({}, {"class_word": "dog", "rate": 1}, {"class_word": "dog", "steps": "many"}, {"class_word": 3}):
        with pytest.raises(InputError):
            TrainConfig.from_metadata(wrong)


def test_the_demos_preset_is_not_for_videocrafter2(model: VideoCrafter2) -> None:
    with pytest.raises(InputError, match="demo, whose learning rate is 100 times the paper's"):
        check_preset("demo", VIDEOCRAFTER2.unet)
    check_preset("demo", model.config.unet)
    check_preset("paper", VIDEOCRAFTER2.unet)
