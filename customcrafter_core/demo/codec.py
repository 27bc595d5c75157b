"""The demo world's autoencoder: pictures of 32 x 32 to latents of 4 x 8 x 8 and back, and how it is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from . import world
from .base import build_demo_codec
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

LATENT_FACTOR = 0.18215
"""VideoCrafter2's own factor between the autoencoder's latents and the diffusion's."""
DIFFUSION_STD = 1.4
"""Wanted spread of the diffusion's latents: times the schedule's final scale of 0.7 it is about 1.

A larger spread lets the noisy input give away the direction of motion, and the network stops reading the prompt for it.
"""


@dataclass(frozen=True)
class CodecSettings:
    """How the autoencoder is trained. Batch is per worker."""

    work_dir: str
    steps: int = 7000
    batch: int = 8
    learning_rate: float = 7e-4
    kl_weight: float = 2e-5
    object_weight: float = 4.0
    ema: float = 0.998
    seed: int = 0
    save_every: int = 500
    device: str = "cpu"


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 ``(..., h, w, 3)`` to float ``(n, 3, h, w)`` in [-1, 1]."""
    flat = torch.from_numpy(np.ascontiguousarray(pictures)).reshape(-1, *pictures.shape[-3:])
    return flat.permute(0, 3, 1, 2).float() / 127.5 - 1


def random_pictures(rng: np.random.Generator, count: int) -> np.ndarray:
    """Training pictures, uint8 ``(count, 32, 32, 3)``: mostly toys, anywhere in the frame, of any size."""
    pictures = []
    for _ in range(count):
        scene = world.sample_scene(rng, toy_share=0.65)
        radius = float(rng.uniform(0.15, 0.29))
        low, high = radius * 0.9, 1 - radius * 0.9
        spot = (float(rng.uniform(low, high)), float(rng.uniform(low, high)))
        scene = replace(scene, radius=radius, start=spot, end=spot, motion="still")
        pictures.append(world.render_scene(scene, 1)[0])
    return np.stack(pictures)


def codec_loss(
    codec: AutoencoderKL, pictures: torch.Tensor, noise: torch.Tensor, settings: CodecSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted squared + absolute error and a small KL; returns the loss and the plain squared error."""
    posterior = codec.encode(pictures).latent_dist
    rebuilt = codec.decode(posterior.mean + posterior.std * noise).sample
    error = rebuilt - pictures
    corner = pictures[:, :, :1, :1]
    is_object = ((pictures - corner).abs().amax(1, keepdim=True) > 0.04).float()
    # the rim of the object too: that is where shapes are told apart
    is_object = torch.nn.functional.max_pool2d(is_object, 3, 1, 1)
    weight = 1 + settings.object_weight * is_object
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    loss = (weight * (error**2 + 0.1 * error.abs())).mean() + settings.kl_weight * kl
    return loss, (error.detach() ** 2).mean()


def _codec_worker(rank: int, workers: int, settings: CodecSettings, report: Report | None) -> None:
    torch.manual_seed(settings.seed)
    codec = build_demo_codec().to(settings.device)
    optimizer = torch.optim.AdamW(codec.parameters(), settings.learning_rate, (0.9, 0.99), weight_decay=1e-4)
    ema = Ema(codec, settings.ema)
    state_path = Path(settings.work_dir) / "codec_state.safetensors"
    first = 0
    if state_path.exists():
        packed, facts = load_state(state_path)
        unpack_training(packed, codec, ema, optimizer)
        first = facts["step"]
    started, mean_error = time.time(), 0.0
    for step in range(first, settings.steps):
        rate = settings.learning_rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * _cosine(step / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        # every step has its own generator, so that resuming needs no generator state
        rng = np.random.default_rng([settings.seed, step, rank])
        pictures = to_tensor(random_pictures(rng, settings.batch)).to(settings.device)
        noise = torch.from_numpy(rng.standard_normal((settings.batch, 4, 8, 8), np.float32)).to(settings.device)
        loss, error = codec_loss(codec, pictures, noise, settings)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(codec.parameters(), workers)
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        ema.update(codec, step)
        mean_error += (error.item() - mean_error) * max(0.01, 1 / (step - first + 1))
        done = step + 1
        if report and (done % 100 == 0 or done == settings.steps):
            speed = (done - first) / (time.time() - started)
            report(f"codec step {done}/{settings.steps} train {_psnr(mean_error):.2f} dB, {speed:.1f} steps/s")
        if report and (done % settings.save_every == 0 or done == settings.steps):
            save_state(state_path, pack_training(codec, ema, optimizer), {"step": done, "settings": asdict(settings)})
            averaged = build_demo_codec().to(settings.device)
            averaged.load_state_dict(ema.weights)
            values = ", ".join(f"{name} {value:.1f}" for name, value in held_out_psnr(averaged).items())
            report(f"codec step {done} held-out subjects (EMA): {values}")


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _psnr(squared_error: float) -> float:
    """dB, of an error on the [-1, 1] scale (peak to peak 2)."""
    return 10 * math.log10(4 / max(squared_error, 1e-12))


@torch.no_grad()
def held_out_psnr(codec: AutoencoderKL, names: Sequence[str] = tuple(world.HELD_OUT)) -> dict[str, float]:
    """Mean PSNR in dB over photos of each held-out subject, encoded to the posterior mean, and the mean over all."""
    values = {}
    device = next(codec.parameters()).device
    for name in names:
        photos = to_tensor(np.stack(world.subject_photos(name, 10, seed=3))).to(device)
        rebuilt = codec.decode(codec.encode(photos).latent_dist.mean).sample.clamp(-1, 1)
        values[name] = float(np.mean([_psnr(float(e)) for e in ((rebuilt - photos) ** 2).mean((1, 2, 3))]))
    values["mean"] = float(np.mean(list(values.values())))
    return values


@torch.no_grad()
def normalise_latents(codec: AutoencoderKL, seed: int = 1, count: int = 512) -> None:
    """Fold a shift and a scale per channel into the 1 x 1 convolutions around the latent, in place.

    Afterwards the latents' mean is 0 and their spread times VideoCrafter2's own factor is :data:`DIFFUSION_STD`;
    what the autoencoder rebuilds does not change.
    """
    rng = np.random.default_rng([seed, 13])
    clips = np.concatenate([world.render_scene(world.sample_scene(rng)) for _ in range(count // world.FRAMES)])
    device = next(codec.parameters()).device
    mean = codec.encode(to_tensor(clips).to(device)).latent_dist.mean
    centre = mean.mean((0, 2, 3))
    scale = DIFFUSION_STD / LATENT_FACTOR / mean.std((0, 2, 3))
    quant, post = codec.quant_conv, codec.post_quant_conv
    channels = len(scale)
    quant.weight[:channels] *= scale[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - centre) * scale
    quant.bias[channels:] += 2 * scale.log()
    post.bias += post.weight[:, :, 0, 0] @ centre
    post.weight /= scale[None, :, None, None]


def train_codec(settings: CodecSettings, *, workers: int, report: Report) -> Path:
    """Train (or go on training) the autoencoder; returns the finished weights' file ``codec.safetensors``."""
    work_dir = Path(settings.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    finished = work_dir / "codec.safetensors"
    run_workers(_codec_worker, workers, settings, work_dir, report)
    codec = build_demo_codec()
    packed, facts = load_state(work_dir / "codec_state.safetensors")
    codec.load_state_dict({k[4:]: v for k, v in packed.items() if k.startswith("ema.")})
    normalise_latents(codec)
    save_state(finished, dict(codec.state_dict()), facts | {"psnr": held_out_psnr(codec)})
    return finished


def load_codec(path: Path) -> AutoencoderKL:
    """The trained autoencoder, frozen."""
    codec = build_demo_codec()
    codec.load_state_dict(load_state(path)[0])
    return codec.eval().requires_grad_(False)


@torch.no_grad()
def encode_clip(codec: AutoencoderKL, frames: np.ndarray) -> torch.Tensor:
    """uint8 ``(f, h, w, 3)`` to diffusion latents ``(4, f, h/4, w/4)`` (posterior mean x 0.18215)."""
    device = next(codec.parameters()).device
    return (codec.encode(to_tensor(frames).to(device)).latent_dist.mean * LATENT_FACTOR).transpose(0, 1)
