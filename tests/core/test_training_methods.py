"""The baselines: each trains what it should, saves as any subject does, and acts on what is sampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.errors import InputError
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject, save_subject
from customcrafter_core.subject.formats import class_embedding
from customcrafter_core.subject.identity_adapter import IdentityAdapter, adapters_attached
from customcrafter_core.subject.subject import Subject, check_fits
from customcrafter_core.subject.targets import lora_targets, spatial_blocks
from customcrafter_core.training.config import PRESETS, TrainConfig, preset
from customcrafter_core.training.learner import start_token
from customcrafter_core.training.loop import train_subject
from customcrafter_core.training.methods import METHODS
from customcrafter_core.training.photos import Photo

CONFIG = TrainConfig("dog", steps=3, lr=1e-2, width=64, height=48, frames=2, views=2)
VIDEO = VideoSettings("<new1> dog", width=64, height=48, frames=2, steps=3)


def learn(model: VideoCrafter2, method: str, **changes: object) -> Subject:
    photo = Photo(Image.linear_gradient("L").resize((80, 60)).convert("RGB"))
    stages = {} if METHODS[method].trains_token else {"token_steps": 1}
    return train_subject(model, [photo], replace(CONFIG, method=method, **{**stages, **changes})).subject


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_is_a_subject_like_any_other(model: VideoCrafter2, tmp_path: Path, method: str) -> None:
    learned = learn(model, method)
    subject = load_subject(save_subject(learned, tmp_path / "dog.safetensors"))
    check_fits(subject, model)
    assert subject.factors.keys() == learned.factors.keys() and subject.adapters.keys() == learned.adapters.keys()

    def sample(strength: object) -> torch.Tensor:
        return generate(model, VIDEO, [AppliedSubject(subject, strength)]).latent

    none, constant, dynamic = sample(Constant(0.0)), sample(Constant(1.0)), sample(TwoPhase(0.0, 1.0, 2))
    again = sample(Constant(0.0))
    assert torch.equal(none, again)
    if method == "textual_inversion":
        assert torch.equal(none, constant)
    else:
        assert len({float(latent.sum()) for latent in (none, constant, dynamic)}) == 3


def test_what_each_method_changes(model: VideoCrafter2) -> None:
    targets = set(lora_targets(model.unet))
    cross = {name for name in targets if ".attn2." in name}
    found = {method: set(learn(model, method, steps=1).factors) for method in METHODS}
    assert found["customcrafter"] == targets
    assert found["lora_cross_only"] == cross
    assert found["custom_diffusion"] == {name for name in cross if not name.endswith("to_q")}
    assert not found["dreamvideo"] and not found["textual_inversion"]
    assert set(learn(model, "dreamvideo", steps=1).adapters) == set(spatial_blocks(model.unet))


def test_custom_diffusion_moves_every_entry_of_a_weight(model: VideoCrafter2) -> None:
    for name, pair in learn(model, "custom_diffusion").factors.items():
        difference, weight = pair.up @ pair.down, lora_targets(model.unet)[name].weight
        assert difference.shape == weight.shape
        assert (difference != 0).float().mean() > 0.9
        assert torch.linalg.matrix_rank(difference) > CONFIG.rank
        identity = pair.up if len(pair.up) == pair.rank else pair.down
        assert torch.equal(identity, torch.eye(len(identity)))


def test_dreamvideo_learns_the_token_first_and_then_the_adapter(model: VideoCrafter2) -> None:
    start = class_embedding(model, "dog")
    first = learn(model, "dreamvideo", token_steps=2, steps=1, lr=1e-9, token_lr=1e-2)
    token_only = learn(model, "textual_inversion", steps=1, token_lr=1e-9)
    assert not torch.allclose(first.embedding, start)
    assert torch.allclose(token_only.embedding, start, atol=1e-6)
    longer = learn(model, "dreamvideo", token_steps=2, steps=4, lr=1e-2, token_lr=1e-2)
    assert torch.equal(longer.embedding, first.embedding)
    assert all(adapter.up.abs().max() > 0 for adapter in longer.adapters.values())


def test_several_vectors_for_one_token(model: VideoCrafter2) -> None:
    subject = learn(model, "textual_inversion", tokens=3)
    assert subject.embedding.shape == (3, model.config.text.hidden_size)
    assert generate(model, VIDEO, [AppliedSubject(subject)]).latent.isfinite().all()


def test_the_adapter_adds_to_the_residual_stream(model: VideoCrafter2) -> None:
    """Against the block written out: ``x + attn1``, then ``attn2 + x + A(x)``, then the feed-forward."""
    name, block = next(iter(spatial_blocks(model.unet).items()))
    width = block.norm2.weight.shape[0]
    generator = torch.Generator().manual_seed(1)
    adapter = replace(
        IdentityAdapter.start(width, generator),
        up=torch.randn(width, width // 2, generator=generator),
        up_bias=torch.randn(width, generator=generator),
    )
    x, text = (
        torch.randn(2, 12, width, generator=generator),
        torch.randn(2, 5, block.attn2.to_k.in_features, generator=generator),
    )
    with torch.no_grad():
        x1 = block.attn1(block.norm1(x)) + x
        hidden = nn.functional.gelu(x1 @ adapter.down.T + adapter.down_bias)
        branch = hidden @ adapter.up.T + adapter.up_bias
        x2 = block.attn2(block.norm2(x1), encoder_hidden_states=text) + x1 + 0.3 * branch
        expected = block.ff(block.norm3(x2)) + x2
        plain = block(x, encoder_hidden_states=text)
        with adapters_attached(model.unet, {name: adapter}, [0.3]):
            found = block(x, encoder_hidden_states=text)
        with adapters_attached(model.unet, {name: adapter}, [0.0]):
            assert torch.equal(block(x, encoder_hidden_states=text), plain)
        assert torch.equal(block(x, encoder_hidden_states=text), plain)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_adapters_that_do_not_fit_are_refused(model: VideoCrafter2, tmp_path: Path) -> None:
    subject = learn(model, "dreamvideo", steps=1)
    name, adapter = next(iter(subject.adapters.items()))
    wrong = replace(subject, adapters={"down_blocks.9.block": adapter})
    with pytest.raises(InputError, match=r"down_blocks\.9"):
        check_fits(wrong, model)
    narrow = IdentityAdapter.start(16, torch.Generator())
    with pytest.raises(InputError, match="instead of"):
        check_fits(replace(subject, adapters={name: narrow}), model)
    odd = replace(subject, adapters={name: replace(adapter, up_bias=adapter.up_bias[:-1])})
    with pytest.raises(InputError, match="inconsistent shapes"):
        save_subject(odd, tmp_path / "odd.safetensors")


def test_presets_are_the_papers_rows() -> None:
    rows = {name: preset(name, "dog") for name in PRESETS}
    assert (rows["custom_diffusion"].steps, rows["custom_diffusion_long"].steps) == (2_000, 10_000)
    assert rows["custom_diffusion"].lr == 1e-5
    assert [(rows[name].token_steps, rows[name].steps) for name in ("dreamvideo", "dreamvideo_long")] == [
        (3_000, 800),
        (3_000, 3_000),
    ]
    assert (rows["dreamvideo"].token_lr, rows["dreamvideo"].lr, rows["dreamvideo"].prior_weight) == (1e-4, 1e-5, 0)
    assert (rows["dreamvideo"].token_batch, rows["dreamvideo"].offset_noise) == (4, 0.1)


def test_a_class_word_of_several_tokens_starts_v_as_long_as_a_word() -> None:
    rows = torch.tensor([[3.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    start = start_token(rows, 1, torch.Generator())
    assert start.norm().item() == pytest.approx(4) and torch.allclose(
        start / start.norm(), rows.mean(0) / rows.mean(0).norm()
    )
    assert torch.equal(start_token(rows[:1], 1, torch.Generator()), rows[:1])


def test_several_vectors_of_v_do_not_start_alike() -> None:
    """Equal ones would get equal gradients, and be one vector for ever."""
    rows = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    start = start_token(rows, 5, torch.Generator().manual_seed(1))
    assert torch.equal(start[:2], rows)
    for i in range(2, 5):
        assert 0 < (start[i] - rows[i % 2]).norm() < 0.5 * rows[i % 2].norm()
    assert len({tuple(row.tolist()) for row in start}) == 5
    assert torch.equal(start, start_token(rows, 5, torch.Generator().manual_seed(1)))
