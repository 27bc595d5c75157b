"""The training of the demo's base model: its start, what is held, the curriculum, resuming, the checkpoint."""

from __future__ import annotations

import fcntl
from pathlib import Path

import numpy as np
import pytest
import torch

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.demo import creatures as world
from customcrafter_core.diffusion.schedule import NoiseSchedule
from tools.demo_base import network, train
from tools.demo_base.data import FIRST_MOTIONS, Captions, Mix, Source
from tools.demo_base.export import averaged_unet, write_base
from tools.demo_base.probes import Probes

SCHEDULE = NoiseSchedule.videocrafter2()
FAST = train.Settings(steps=3, first_clips=2, first_frames=2, probe_every=100, look_every=100)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(Captions(), SCHEDULE)


def noise(frames: int = world.FRAMES, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, frames, world.CELLS, world.CELLS, generator=torch.Generator().manual_seed(seed))


def predict(unet: network.TrainedUNet, noisy: torch.Tensor, t: int) -> torch.Tensor:
    text = torch.randn(len(noisy), 77, 64, generator=torch.Generator().manual_seed(1))
    times = torch.full((len(noisy),), t)
    with torch.no_grad():
        return unet(noisy, times, text, torch.full_like(times, world.FPS))


@pytest.mark.parametrize("frames", [1, world.FRAMES])
def test_the_start_divides_its_input_by_the_noise(frames: int) -> None:
    unet = network.TrainedUNet(network.build_training_unet())
    for t in (60, 200, 400, 700, 980):
        clean = torch.full_like(noise(frames), 0.5)
        noisy = SCHEDULE.add_noise(clean, noise(frames), torch.tensor([t, t]))
        wanted = noisy / float(SCHEDULE.noise[t])
        assert ((predict(unet, noisy, t) - wanted).std() / wanted.std()) < 0.03
        assert t < 900 or (predict(unet, noisy, t) - wanted).abs().max() < 0.02


def test_what_is_learned_counts_by_the_signal() -> None:
    """So an error costs the same at every timestep."""
    unet = network.TrainedUNet(network.build_training_unet())
    last = unet.unet.up_blocks[-1].resnets[-1]
    kept = list(range(4))
    with torch.no_grad():
        before = {t: predict(unet, noise(), t) for t in (100, 300, 500, 700, 900, 980)}
        last.conv2.weight[kept] = 0.2 * torch.randn(last.conv2.weight[kept].shape)
        last.conv2.weight[:4, network._Times().all] = 0
    sizes = {t: (predict(unet, noise(), t) - value).std().item() for t, value in before.items()}
    ratios = torch.tensor([size / float(SCHEDULE.signal[t] / SCHEDULE.noise[t]) for t, size in sizes.items()])
    assert ratios.min() > 0.5 * ratios.max()
    assert sizes[980] < 0.1 * sizes[300]


def test_training_keeps_the_form_of_the_start(source: Source, tmp_path: Path) -> None:
    training = train.Training(FAST, tmp_path)
    before = {name: value.clone() for name, value in training.unet.state_dict().items()}
    for step in range(2):
        rng = np.random.default_rng(step)
        clips = train.loss_of(training.unet, source.clips(rng, 2, Mix()), source).mean()
        training.update(clips + train.loss_of(training.unet, source.frames(rng, 2), source).mean())
    after, carry = training.unet.state_dict(), network._Carried()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    last = "unet.up_blocks.2.resnets.1"
    for held in ("unet.time_embedding", "unet.conv_out", "unet.conv_norm_out", f"{last}.conv_shortcut"):
        assert not any(name.startswith(held) for name in changed)
    assert {"unet.conv_in.weight", f"{last}.conv1.weight", f"{last}.conv2.weight"} <= changed
    for name, rows in (("unet.conv_in.weight", carry.all), (f"{last}.conv1.weight", network._Times().all)):
        assert torch.equal(before[name][rows], after[name][rows])
    columns = network._Times().all
    assert torch.equal(before[f"{last}.conv2.weight"][:, columns], after[f"{last}.conv2.weight"][:, columns])
    assert any("attn2.to_k" in name for name in changed) and any("temp_convs" in name for name in changed)


def test_a_single_frame_skips_the_layers_over_frames() -> None:
    unet = network.TrainedUNet(network.build_training_unet())
    with torch.no_grad():
        torch.nn.init.normal_(unet.unet.up_blocks[-1].resnets[-1].conv2.weight[:4], std=0.2)
    one, clip = predict(unet, noise(1), 300), predict(unet, noise(), 300)
    for module in unet.modules():
        if isinstance(module, network.TemporalConvolution | network.TemporalTransformer):
            for parameter in module.parameters():
                parameter.data.normal_()
    assert torch.equal(predict(unet, noise(1), 300), one)
    assert not torch.allclose(predict(unet, noise(), 300), clip, atol=0.01)


def test_a_word_looks_the_same_whatever_stands_before_it(source: Source) -> None:
    prompts = [
        "a crab moving left on a white background",
        "a tiger robot moving left on a black background",
        "a crab moving right on a white background",
    ]
    left, again, right = (
        source.captions.text[i, p] for i, p in zip(source.captions.find(prompts), (4, 5, 4), strict=True)
    )
    alike = torch.nn.functional.cosine_similarity
    assert alike(left, again, 0) > 0.9 > 0.3 > alike(left, right, 0)


def test_attention_to_the_text_begins_on_its_words(source: Source) -> None:
    unet = network.build_training_unet()
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    text = source.captions.text[source.captions.find(["a crab moving left on a white background"])[0]]
    with torch.no_grad():
        queries = block.attn2.to_q(block.norm2(torch.randn(50, 64))).unflatten(-1, (block.attn2.heads, -1))
        keys = block.attn2.to_k(text).unflatten(-1, (block.attn2.heads, -1))
        shares = torch.softmax(torch.einsum("qhd,khd->hqk", queries, keys) * block.attn2.scale, -1).mean((0, 1))
    assert shares[:10].sum() > 0.5  # of 77 tokens, 67 of which are padding


def test_every_caption_is_known(source: Source) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = world.sample_scene(rng)
        assert source.captions.find([world.noisy_caption(rng, scene, world.CaptionNoise()), scene.caption]).shape == (
            2,
        )


def test_the_curriculum_turns_only_while_direction_is_bound() -> None:
    dials = train.Dials()
    dials.turn()
    assert dials == train.Dials()
    dials.way = 0.9
    for _ in range(train.BALANCE_STEPS):
        dials.turn()
    assert dials.balance == pytest.approx(1) and dials.doubt < 0.01
    for _ in range(train.DOUBT_STEPS + 1):
        dials.turn()
    assert dials.doubt == 1
    assert dials.mix.motions == pytest.approx(dict.fromkeys(world.MOTIONS, 0.2)) and dials.mix.spread == 1
    assert dials.mix.captions == world.CaptionNoise() and dials.mix.pure_noise == 0
    dials.way = 0.1
    dials.turn()
    assert dials.doubt < 1 and dials.balance == 1
    first = Mix()
    assert max(first.motions, key=first.motions.__getitem__) == max(FIRST_MOTIONS, key=FIRST_MOTIONS.__getitem__)
    assert first.captions.wrong_motion == first.captions.no_motion == 0


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="Another process"):
            train.train(tmp_path, FAST)
    assert not (tmp_path / "state.pt").exists()


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train(whole, FAST)
    asked = iter((False, True))
    train.train(parts, FAST, lambda: next(asked))
    stopped = torch.load(parts / "state.pt", weights_only=True)
    assert stopped["step"] == 1
    train.train(parts, FAST)
    one, other = (torch.load(folder / "state.pt", weights_only=True) for folder in (whole, parts))
    assert one["clips"] == other["clips"] == 6 and one["frames"] == 6
    for name, value in one["average"].items():
        assert torch.allclose(value, other["average"][name], atol=1e-5), name


def test_the_checkpoint_holds_what_was_trained(tmp_path: Path, source: Source) -> None:
    train.train(tmp_path, FAST)
    model = load_videocrafter2(write_base(tmp_path, tmp_path / "base.safetensors"))
    assert (tmp_path / "base.safetensors").stat().st_size < 16 * 2**20
    assert (model.defaults.width, model.defaults.frames) == (world.SIDE, world.FRAMES)
    text, times = source.captions.text[:2], torch.tensor([500, 980])
    averaged = averaged_unet(tmp_path / "state.pt")
    with torch.no_grad():
        wanted, found = (
            unet(noise(), times, text, timestep_cond=torch.full((2,), world.FPS)).sample
            for unet in (averaged, model.unet)
        )
    assert torch.allclose(wanted, found, atol=0.01)


def test_probes_of_a_network_that_reads_nothing(source: Source) -> None:
    found = Probes(source.captions, SCHEDULE, count=2)(lambda noisy, t, text, fps: noisy)
    assert all(value == pytest.approx(0, abs=1e-6) for name, value in found.items() if name.startswith(("way", "name")))
    assert found["marks 200"] < 1
