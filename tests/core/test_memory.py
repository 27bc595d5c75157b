"""Free memory, what is counted without doing it, and how guidance runs by both."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake

from customcrafter_core.base_model.model import MAX_POSITIONS, VideoCrafter2, frames_at_once
from customcrafter_core.diffusion.guidance import GuidanceBatch
from customcrafter_core.memory.counting import DryRun, allocator_reserve
from customcrafter_core.memory.free import free_in_groups, free_memory, gigabytes
from customcrafter_core.memory.sampling import PLENTY, choose_guidance, decoding_memory, prediction_memory
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject, prepare
from customcrafter_core.sampling.settings import VideoSettings
from tests.core import small_subjects


def test_free_memory_of_this_machine() -> None:
    assert 0 < free_memory(torch.device("cpu")) <= psutil.virtual_memory().total


def test_free_memory_is_what_a_container_may_still_take(tmp_path: Path) -> None:
    """Of its own group and those around it the smallest; files that are only cached do not count as taken."""
    own, groups = tmp_path / "own", tmp_path / "groups"

    def group(path: str, files: dict[str, str]) -> None:
        (groups / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (groups / path / name).write_text(text + "\n")

    own.write_text("0::/a/b\n")
    group("a/b", {"memory.max": "max", "memory.current": "500"})
    assert free_in_groups(groups, own) == math.inf
    group("a", {"memory.max": "1000", "memory.current": "700"})
    assert free_in_groups(groups, own) == 300
    group("a", {"memory.stat": "anon 500\ninactive_file 120\nactive_file 80\nfile_dirty 9"})
    assert free_in_groups(groups, own) == 500
    group("", {"memory.max": "900", "memory.current": "1000"})
    assert free_in_groups(groups, own) == 0

    own.write_text("5:cpu:/x\n4:memory:/a\n0::/\n")  # version 1, as seen from inside a container: /a is not there
    group("memory", {"memory.limit_in_bytes": "4000", "memory.usage_in_bytes": "1500"})
    (groups / "memory.max").write_text("max")
    assert free_in_groups(groups, own) == 2500
    group("memory/a", {"memory.limit_in_bytes": str(2**63 - 4096), "memory.usage_in_bytes": "900"})
    assert free_in_groups(groups, own) == 2500
    assert free_in_groups(tmp_path / "absent", tmp_path / "absent") == math.inf


def test_free_memory_heeds_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = psutil.Process().memory_info().shared
    monkeypatch.setattr("customcrafter_core.memory.free.free_in_groups", lambda: mapped + 2**40)
    assert 0 < free_memory(torch.device("cpu")) < psutil.virtual_memory().total
    monkeypatch.setattr("customcrafter_core.memory.free.free_in_groups", lambda: 2 * mapped)
    assert free_memory(torch.device("cpu")) == pytest.approx(mapped, rel=0.05)
    monkeypatch.setattr("customcrafter_core.memory.free.free_in_groups", lambda: 4096)
    assert free_memory(torch.device("cpu")) == 0


def test_attention_is_counted_without_its_table_of_pairs() -> None:
    dry = DryRun()
    with dry.fake:
        q, k, v = (torch.empty(1, 2, 4096, 8, requires_grad=True) for _ in range(3))
    with dry.counted([q, k, v]):
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    assert 3 * q.nbytes <= dry.peak < 8 * q.nbytes < 2 * 4096 * 4096


# what goes through the autoencoder together


def test_frames_that_are_decoded_together(model: VideoCrafter2) -> None:
    """One frame of 512x320, or as many small ones as have its positions; memory follows."""
    assert [frames_at_once(*size) for size in ((40, 64), (8, 8), (20, 32), (41, 64), (200, 200), (0, 0))] == [
        1, 40, 4, 1, 1, MAX_POSITIONS,
    ]  # fmt: skip
    seen: list[int] = []
    hook = model.vae.decoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        with torch.no_grad():
            assert model.decode(torch.zeros(2, 4, 3, 32, 32)).shape[:2] == (2, 3)
    finally:
        hook.remove()
    assert seen == [2, 2, 2]
    assert decoding_memory(model, (2, 4, 3, 32, 32)) == decoding_memory(model, (1, 4, 2, 32, 32))
    assert decoding_memory(model, (1, 4, 1, 32, 32)) < decoding_memory(model, (1, 4, 2, 32, 32))


# how guidance runs


@pytest.fixture
def long_video(model: VideoCrafter2) -> tuple[int, ...]:
    """A latent so large that a prediction takes more than its weights' rounding."""
    return model.latent_shape(64, 48, 16)


def needed(model: VideoCrafter2, shape: tuple[int, ...], guidance: GuidanceBatch, cfg: float = 12.0) -> int:
    return round(allocator_reserve(model.device) * prediction_memory(model, shape, [], guidance, cfg=cfg))


def test_guidance_follows_free_memory(
    model: VideoCrafter2, long_video: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    together, each = (needed(model, long_video, g) for g in (GuidanceBatch.TOGETHER, GuidanceBatch.ONE_BY_ONE))
    assert each < 0.7 * together
    assert choose_guidance(model, long_video, [], cfg=12.0, free=together) is GuidanceBatch.AUTO
    assert not caplog.text
    assert choose_guidance(model, long_video, [], cfg=12.0, free=together - 1) is GuidanceBatch.ONE_BY_ONE
    assert "one by one" in caplog.text and gigabytes(together) in caplog.text and gigabytes(each) in caplog.text
    assert choose_guidance(model, long_video, [], cfg=1.0, free=0) is GuidanceBatch.AUTO  # there is one prediction only
    assert needed(model, long_video, GuidanceBatch.TOGETHER, cfg=1.0) == each


def test_what_is_plenty_is_not_counted(
    model: VideoCrafter2, long_video: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And would have fitted: a bound that costs nothing must not hide what the count would say."""
    b, _, t, h, w = long_video
    plenty = PLENTY * 2 * b * t * h * w * model.config.unet.block_out_channels[0] * model.dtype.itemsize
    assert needed(model, long_video, GuidanceBatch.TOGETHER) < plenty
    monkeypatch.setattr("customcrafter_core.memory.sampling.prediction_memory", None)
    assert choose_guidance(model, long_video, [], cfg=12.0, free=plenty) is GuidanceBatch.AUTO
    assert choose_guidance(model, long_video, [], cfg=12.0, free=plenty // PLENTY - 1) is GuidanceBatch.ONE_BY_ONE
    with pytest.raises(TypeError):
        choose_guidance(model, long_video, [], cfg=12.0, free=plenty - 1)


def test_a_video_is_made_one_by_one_where_memory_is_short(
    model: VideoCrafter2, long_video: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = small_subjects.random_subject(model)
    settings = VideoSettings(subject.trigger, width=64, height=48, frames=16, steps=1)
    sizes: list[int] = []

    def note(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if not is_fake(args[0]):  # what is only counted
            sizes.append(len(args[0]))

    hook = model.unet.register_forward_pre_hook(note)
    try:
        for free in (10**12, needed(model, long_video, GuidanceBatch.TOGETHER) - 1):
            monkeypatch.setattr("customcrafter_core.sampling.preparation.free_memory", lambda _, free=free: free)
            steps = len(generate(model, settings, [AppliedSubject(subject)]).timesteps)
    finally:
        hook.remove()
    assert sizes == [2] * steps + [1, 1] * steps
    wanted = replace(settings, guidance=GuidanceBatch.TOGETHER)  # what is asked for is done
    assert prepare(model, wanted).unet.batch is GuidanceBatch.TOGETHER
