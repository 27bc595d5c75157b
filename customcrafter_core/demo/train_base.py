"""Training of the demo base model, from nothing: autoencoder, encoded clips, then the text-to-video UNet."""

from __future__ import annotations

import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet3DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..base_model.loading import load_videocrafter2
from ..base_model.text import PromptTokenizer, encode_ids
from ..diffusion.schedule import NoiseSchedule
from ..errors import InputError
from . import demo_checkpoint, world
from .attention import SharedTextAttention
from .base import CONFIG, build_demo_text_encoder, build_demo_unet, grow, identity_path, keep_precise
from .clips import MOTION_NAMES, ClipPool, build_clips, load_clips, probe_clips
from .codec import CodecSettings, train_codec
from .workers import (
    Ema,
    Report,
    average_gradients,
    load_state,
    pack_training,
    run_workers,
    save_state,
    unpack_training,
)

FIRST_MOTIONS = {"left": 1.0, "right": 0.2, "up": 0.7, "down": 0.15, "still": 0.35}
"""Frequencies of the motions at first. With equal ones from the start, direction was not learned at all.

It is a parity of three things: word, frame and place. When one direction of each axis prevails, place over time is
learned first, and then the word has only to turn it around. Nearly pure noise is where this is decided, so there is
more of it at first.
"""
NEARLY_NOISE = (960, 1000)
PROBE_TIMESTEP = 980
TOY_SHARE, FINE_TOY_SHARE = 0.3, 0.7
"""Share of toys among the clips of the first and of the second stage."""
FINE_THING_SHARE = 0.2
"""Share of the second stage's clips that show a second object."""
FINE: dict[str, Any] = {
    "learning_rate": 8e-4,
    "ema": 0.998,
    "pure_noise_share": 0.08,
    "unbalanced_steps": 0,
    "blend_steps": 1,
}


@dataclass(frozen=True)
class UNetSettings:
    """How the UNet is trained. Batch is per worker; a view is one clip seen once."""

    work_dir: str
    steps: int = 6000
    batch: int = 8
    learning_rate: float = 1e-3
    ema: float = 0.997
    empty_share: float = 0.1
    first_pure_noise_share: float = 0.6
    first_high_share: float = 0.6
    pure_noise_share: float = 0.12
    high_share: float = 0.3
    unbalanced_steps: int = 1250
    blend_steps: int = 500
    seed: int = 0
    save_every: int = 250
    probe_every: int = 100
    device: str = "cpu"
    start: str = ""
    """State of a first stage that this one grows from; empty: from nothing."""


def motion_weights(step: int, settings: UNetSettings) -> np.ndarray:
    """Frequencies of the motions at a step: unbalanced first, then blending into equal ones."""
    first = np.array([FIRST_MOTIONS[name] for name in MOTION_NAMES])
    first = first / first.sum()
    blend = min(max((step - settings.unbalanced_steps) / settings.blend_steps, 0.0), 1.0)
    return (1 - blend) * first + blend / len(first)


def draw_timesteps(
    rng: np.random.Generator, count: int, *, high_share: float, pure_noise_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps ``(n,)``, a share of them high, and which samples get pure noise as input ``(n,)``."""
    high, uniform = rng.integers(500, 1000, count), rng.integers(0, 1000, count)
    timesteps = np.where(rng.random(count) < high_share, high, uniform)
    pure = rng.random(count) < pure_noise_share
    return np.where(pure, rng.integers(*NEARLY_NOISE, count), timesteps), pure


@dataclass(frozen=True)
class Batch:
    """Clean and noisy latents ``(b, 4, f, h, w)``, text ``(b, 77, d)``, timesteps and frame rates ``(b,)``."""

    clean: torch.Tensor
    noisy: torch.Tensor
    text: torch.Tensor
    timesteps: torch.Tensor
    fps: torch.Tensor


def denoising_loss(unet: UNet3DConditionModel, batch: Batch, schedule: NoiseSchedule) -> torch.Tensor:
    """Noise-prediction error ``(b,)`` weighted by ``1 + 1 / SNR``: the error of eps plus the error of the clean latent.

    The target follows from the input, ``(noisy - signal * clean) / noise``; with pure noise as input the best
    prediction is the mean clean latent under the prompt, which is what sampling starts from.
    """
    shape = (-1, 1, 1, 1, 1)
    signal = schedule.signal[batch.timesteps.cpu()].to(batch.clean).view(shape)
    noise = schedule.noise[batch.timesteps.cpu()].to(batch.clean).view(shape)
    target = (batch.noisy - signal * batch.clean) / noise
    # half precision with the plain attention kernel: 1.5 times as fast on a CPU as single precision
    on_cpu = batch.noisy.device.type == "cpu"
    kernel = sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
    with torch.autocast(batch.noisy.device.type, torch.bfloat16), kernel:
        predicted = unet(batch.noisy, batch.timesteps, batch.text, timestep_cond=batch.fps).sample
    weight = (1 + (noise / signal) ** 2).view(-1)
    return weight * ((predicted - target) ** 2).mean((1, 2, 3, 4))


class BatchSource:
    """Draws batches from the pool; each one depends on the seed, the step and the rank only."""

    def __init__(self, pool: ClipPool, settings: UNetSettings, rank: int, workers: int) -> None:
        self.pool, self.settings, self.rank, self.workers = pool, settings, rank, workers
        self.groups = pool.by_motion()
        self.schedule = NoiseSchedule.videocrafter2()
        self.text = embed_prompts([*pool.captions, ""])

    def draw(self, step: int) -> Batch:
        """The batch of a step on this rank."""
        settings, n = self.settings, self.settings.batch
        rng = np.random.default_rng([settings.seed, 29, step, self.rank])
        weights = motion_weights(step, settings)
        motions = rng.choice(len(MOTION_NAMES), n, p=weights)
        chosen = torch.tensor([int(rng.choice(self.groups[m])) for m in motions])
        clean = self.pool.latents[chosen].float()
        is_first = step < settings.unbalanced_steps
        timesteps, pure = draw_timesteps(
            rng,
            n,
            high_share=settings.first_high_share if is_first else settings.high_share,
            pure_noise_share=settings.first_pure_noise_share if is_first else settings.pure_noise_share,
        )
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        t = torch.from_numpy(timesteps)
        noisy = torch.where(
            torch.from_numpy(pure).view(-1, 1, 1, 1, 1), noise, self.schedule.add_noise(clean, noise, t)
        )
        empty = torch.from_numpy(rng.random(n) < settings.empty_share)
        caption = torch.where(empty, len(self.pool.captions), self.pool.caption_index[chosen])
        # mostly the world's own rate; others now and then, so that none surprises the network
        fps = np.where(rng.random(n) < 0.7, world.FPS, rng.integers(1, 31, n))
        device = settings.device
        return Batch(
            clean.to(device),
            noisy.to(device),
            self.text[caption].to(device),
            t.to(device),
            torch.from_numpy(fps).to(device),
        )


@torch.no_grad()
def embed_prompts(prompts: list[str]) -> torch.Tensor:
    """Text embeddings of prompts ``(n, 77, d)`` by the demo's text encoder."""
    encoder, ids = build_demo_text_encoder(), PromptTokenizer()(prompts)
    return torch.cat([encode_ids(encoder, part) for part in ids.split(64)])


class DirectionProbe:
    """How much worse clips are predicted under the opposite motion's prompt at nearly pure noise."""

    def __init__(self, work_dir: Path, device: str) -> None:
        clean, right, wrong = probe_clips(work_dir / "codec.safetensors")
        self.is_across = torch.tensor(["moving left" in caption or "moving right" in caption for caption in right])
        generator = torch.Generator().manual_seed(3)
        timesteps = torch.full((len(clean),), PROBE_TIMESTEP)
        self.schedule = NoiseSchedule.videocrafter2()
        noisy = self.schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), timesteps)
        fps = torch.full_like(timesteps, world.FPS)
        self.batches = [
            Batch(clean.to(device), noisy.to(device), embed_prompts(p).to(device), timesteps.to(device), fps.to(device))
            for p in (right, wrong)
        ]

    @torch.no_grad()
    def __call__(self, unet: UNet3DConditionModel) -> tuple[float, float, float]:
        """Loss under the right prompt; relative penalty of the opposite one (0: not read), all and left/right only."""
        right, wrong = (denoising_loss(unet, batch, self.schedule) for batch in self.batches)
        across = self.is_across
        return (
            float(right.mean()),
            float(wrong.mean() / right.mean()) - 1,
            float(wrong[across].mean() / right[across].mean()) - 1,
        )


def _rate(step: int, settings: UNetSettings) -> float:
    """Learning rate: short warm-up, flat, then down to a twentieth over the last 60 %."""
    falling = max(0.0, (step / settings.steps - 0.4) / 0.6)
    return settings.learning_rate * min(1, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * falling)))


def _optimizer(unet: UNet3DConditionModel) -> torch.optim.AdamW:
    slow = [parameter for module in identity_path(unet) for parameter in module.parameters()]
    known = {id(p) for p in slow}
    rest = [p for p in unet.parameters() if id(p) not in known]
    groups = [{"params": rest, "gain": 1.0}, {"params": slow, "gain": 0.1}]
    return torch.optim.AdamW(groups, 1e-3, (0.9, 0.99), weight_decay=1e-4)


def _unet_worker(rank: int, workers: int, settings: UNetSettings, report: Report | None) -> None:
    work_dir = Path(settings.work_dir)
    unet = grow(load_trained_unet(Path(settings.start))[0]) if settings.start else build_demo_unet(settings.seed)
    if settings.device == "cpu":
        unet.set_attn_processor(SharedTextAttention())
    unet = unet.to(settings.device).eval().requires_grad_(True)  # no dropout: a resumed run is the same run
    keep_precise(identity_path(unet))
    optimizer, ema = _optimizer(unet), Ema(unet, settings.ema)
    state_path = work_dir / "unet_state.safetensors"
    first = 0
    if state_path.exists():
        packed, facts = load_state(state_path)
        unpack_training(packed, unet, ema, optimizer)
        first = facts["step"]
    source = BatchSource(load_clips(work_dir), settings, rank, workers)
    probe = DirectionProbe(work_dir, settings.device) if report and settings.probe_every else None
    started, mean_loss = time.time(), 0.0
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, settings) * group["gain"]
        loss = denoising_loss(unet, source.draw(step), source.schedule).mean()
        optimizer.zero_grad()
        loss.backward()
        average_gradients(unet.parameters(), workers)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        ema.update(unet, step)
        mean_loss += (loss.item() - mean_loss) * max(0.01, 1 / (step - first + 1))
        done = step + 1
        if report and probe and (done % settings.probe_every == 0 or done == settings.steps):
            right, penalty, across = probe(unet)
            speed = (done - first) / (time.time() - started)
            views = done * settings.batch * workers
            report(
                f"unet step {done}/{settings.steps} ({views} views, {speed:.2f} steps/s) loss {mean_loss:.4f}; "
                f"t={PROBE_TIMESTEP}: {right:.4f}, opposite direction {penalty:+.1%}, left/right {across:+.1%}"
            )
        if report and (done % settings.save_every == 0 or done == settings.steps):
            save_state(state_path, pack_training(unet, ema, optimizer), {"step": done, "settings": asdict(settings)})


def train_unet(settings: UNetSettings, *, workers: int, report: Report) -> Path:
    """Train (or go on training) the UNet; returns the state file, which holds the averaged weights as ``ema.*``."""
    run_workers(_unet_worker, workers, settings, Path(settings.work_dir), report)
    return Path(settings.work_dir) / "unet_state.safetensors"


def load_trained_unet(state_path: Path) -> tuple[UNet3DConditionModel, int]:
    """The averaged network of a training state, frozen, and its step."""
    packed, facts = load_state(state_path)
    weights = {k[4:]: v for k, v in packed.items() if k.startswith("ema.")}
    unet = build_demo_unet()
    if weights.keys() != unet.state_dict().keys():
        unet = grow(unet)
    unet.load_state_dict(weights)
    return unet.eval().requires_grad_(False), facts["step"]


def train_base(
    work_dir: Path,
    *,
    start: str = "",
    workers: int = 2,
    codec_steps: int = 6000,
    clips: int = 20000,
    steps: int = 6000,
    fine_steps: int = 9000,
    batch: int = 8,
    seed: int = 0,
    device: str = "cpu",
    report: Report | None = None,
) -> Path:
    """Train the demo base model from nothing, or go on where an earlier run in ``work_dir`` stopped.

    Args:
        work_dir: holds the autoencoder, the encoded clips and the training states.
        start: a demo checkpoint whose second stage goes on, with its autoencoder; empty: from nothing.
        workers: single-thread processes, one per core; 1 with a GPU.
        codec_steps: optimiser steps of the autoencoder.
        clips: how many training clips are drawn.
        steps: optimiser steps of the UNet's first stage, with ``batch`` clips per worker each.
        fine_steps: steps of the second stage: attention on the fine level too, more toys, second objects.
        batch: clips per worker and step.
        seed: of everything random; the same seed and number of workers give the same model.
        device: ``cpu`` or ``cuda``.
        report: takes one line of progress at a time; default: the file ``train.log`` in ``work_dir``.

    Returns:
        The UNet's training state; :func:`customcrafter_core.demo.export.write_base` makes the checkpoint of it.

    Raises:
        InputError: ``start`` is no checkpoint of this size.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    report = report or log_file(work_dir / "train.log")
    settings = UNetSettings(work_dir=str(work_dir), steps=steps, batch=batch, seed=seed, device=device)
    pool: dict[str, Any] = {"count": clips, "workers": workers, "device": device, "report": report}
    coarse = unpack_checkpoint(Path(start), work_dir) if start else _train_first_stage(settings, codec_steps, pool)
    fine_dir = work_dir / "fine"
    fine_dir.mkdir(exist_ok=True)
    shutil.copy(work_dir / "codec.safetensors", fine_dir)
    build_clips(fine_dir, toy_share=FINE_TOY_SHARE, thing_share=FINE_THING_SHARE, seed=seed + 1, **pool)
    fine = replace(settings, work_dir=str(fine_dir), steps=fine_steps, seed=seed + 1, start=str(coarse), **FINE)
    return train_unet(fine, workers=workers, report=report)


def _train_first_stage(settings: UNetSettings, codec_steps: int, pool: dict[str, Any]) -> Path:
    """The autoencoder, then the UNet without attention on the fine level; returns its state."""
    work_dir, workers, report = Path(settings.work_dir), pool["workers"], pool["report"]
    if not (work_dir / "codec.safetensors").exists():
        codec = CodecSettings(str(work_dir), steps=codec_steps, seed=settings.seed, device=settings.device)
        train_codec(codec, workers=workers, report=report)
    build_clips(work_dir, toy_share=TOY_SHARE, seed=settings.seed, **pool)
    return train_unet(settings, workers=workers, report=report)


def unpack_checkpoint(path: Path, work_dir: Path) -> Path:
    """Write a demo checkpoint's autoencoder and UNet as the files a first stage leaves; returns the UNet's.

    Raises:
        InputError: no such file, or a model of other sizes.
    """
    model = load_videocrafter2(path)
    if model.config != CONFIG:
        raise InputError(
            expected="a checkpoint of the demo's base model",
            found=f"{path.name}, which has other sizes",
            remedy=f"Use {demo_checkpoint().name}, or a file that train-base wrote.",
        )
    save_state(work_dir / "codec.safetensors", dict(model.vae.float().state_dict()), {})
    state = work_dir / "unet_state.safetensors"
    save_state(state, {f"ema.{k}": v for k, v in model.unet.float().state_dict().items()}, {"step": 0})
    return state


def log_file(path: Path) -> Report:
    """A report that appends lines with the time of day to a file."""

    def report(line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    return report
