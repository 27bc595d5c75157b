"""Training of the demo base model's UNet: one process, one thread, resumable at any time.

Run: python -m tools.demo_base.train FOLDER        (again after an interruption: it goes on where it stopped)
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import fcntl
import json
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from customcrafter_core.diffusion.schedule import NoiseSchedule

from .data import Batch, Captions, Mix, Source
from .network import TrainedUNet, build_training_unet
from .probes import Probes

BOUND, LOOSE = 0.45, 0.3
"""Direction is bound when the opposite motion's prompt costs this much more at nearly pure noise; below the second, it is
coming loose."""
MOST_WEIGHT = 4.0
"""Below t = 140 errors count no more than there: what is seen so plainly would drown the rest."""
CLIPS_SHARE = 0.6
"""Share of the loss that is the clips'; the rest is the single frames'."""
BALANCE_STEPS, DOUBT_STEPS = 500, 1200


@dataclass(frozen=True)
class Settings:
    """How the UNet is trained. Counts in pairs are of whole clips and of single frames a step."""

    steps: int = 12_000
    first_clips: int = 4
    first_frames: int = 24
    later_clips: int = 2
    later_frames: int = 56
    """What a step holds once the curriculum is through: motion is known then, and marks are learned on single frames."""
    learning_rate: float = 5e-3
    adam_rate: float = 2e-3
    flat: int = 400
    """Steps until the learning rate begins to fall."""
    lower: float = 0.2
    """Share of the learning rate to which it falls."""
    falling: float = 0.3
    """Share of the steps over which it falls to nearly nothing, at the end."""
    ema: float = 0.998
    seed: int = 0
    save_minutes: float = 4.0
    look_every: int = 50
    """Steps between looks at whether direction is bound."""
    probe_every: int = 200


@dataclass
class Dials:
    """The curriculum: direction is bound first, then motions are balanced, then captions become careless.

    All at once, or too fast, and what was bound comes loose (seen twice). So the dials turn on only while direction is
    bound, and back while it is loose.
    """

    way: float = 0.0
    balance: float = 0.0
    doubt: float = 0.0

    def turn(self) -> None:
        """One step."""
        if self.way > BOUND:
            if self.balance < 1:
                self.balance = min(1.0, self.balance + 1 / BALANCE_STEPS)
            else:
                self.doubt = min(1.0, self.doubt + 1 / DOUBT_STEPS)
        elif self.way < LOOSE:
            if self.doubt > 0:
                self.doubt = max(0.0, self.doubt - 1 / DOUBT_STEPS)
            else:
                self.balance = max(0.0, self.balance - 1 / BALANCE_STEPS)

    @property
    def mix(self) -> Mix:
        """What batches are made of now."""
        return Mix(self.balance, self.doubt)


class Training:
    """Network, optimisers and average of a run, and where it stands."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.path = settings, folder / "state.pt"
        self.unet = TrainedUNet(build_training_unet(settings.seed))
        self.average = AveragedModel(self.unet.unet, avg_fn=_forgetting(settings.ema))
        self.matrices, rest = _groups(self.unet)
        self.flat = [nn.Parameter(p.detach().view(len(p), -1)) for p in self.matrices]
        self.muon = torch.optim.Muon(
            self.flat, settings.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.AdamW(rest, settings.adam_rate, (0.9, 0.99), weight_decay=0.0)
        self.step, self.clips, self.frames, self.seconds, self.dials = 0, 0, 0, 0.0, Dials()
        if self.path.exists():
            self.load()

    def load(self) -> None:
        """Go on from the state in the folder."""
        state = torch.load(self.path, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.average.load_state_dict(state["average"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.step, self.clips, self.frames = state["step"], state["clips"], state["frames"]
        self.seconds, self.dials = state["seconds"], Dials(**state["dials"])

    def save(self) -> None:
        """Write the state, whole or not at all."""
        state = {
            "unet": self.unet.state_dict(),
            "average": self.average.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "step": self.step,
            "clips": self.clips,
            "frames": self.frames,
            "dials": asdict(self.dials),
            "seconds": self.seconds,
            "settings": asdict(self.settings),
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    def rate(self) -> float:
        """Factor of the learning rates: a short rise, high, falling as 1 / step to a lower level, at last to nearly nothing."""
        left = (1 - self.step / self.settings.steps) / self.settings.falling
        falling = max(self.settings.flat / (self.step + 1), self.settings.lower)
        return min((self.step + 1) / 50, falling, 1.0) * min(1.0, max(0.05, left))

    @property
    def counts(self) -> tuple[int, int]:
        """How many clips and single frames the next step holds."""
        settings = self.settings
        if self.dials.doubt < 1:
            return settings.first_clips, settings.first_frames
        return settings.later_clips, settings.later_frames

    def update(self, losses: torch.Tensor) -> None:
        """One step of both optimisers."""
        losses.backward()
        for group in self.muon.param_groups:
            group["lr"] = self.settings.learning_rate * self.rate()
        for group in self.adam.param_groups:
            group["lr"] = self.settings.adam_rate * self.rate()
        for flat, parameter in zip(self.flat, self.matrices, strict=True):
            flat.grad = None if parameter.grad is None else parameter.grad.view(len(parameter), -1)
        nn.utils.clip_grad_norm_([p for g in self.adam.param_groups for p in g["params"]], 1.0)
        self.muon.step()
        self.adam.step()
        self.unet.zero_grad()
        self.average.update_parameters(self.unet.unet)
        self.step += 1


def _groups(unet: TrainedUNet) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices and kernels for Muon, and the rest."""
    trained = [p for p in unet.parameters() if p.requires_grad]
    return [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim == 1]


def _forgetting(decay: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | int], torch.Tensor]:
    """An exponential mean that soon forgets where it began."""

    def average(mean: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        return mean.lerp(value, 1 - min(decay, (1 + float(count)) / (10 + float(count))))

    return average


def loss_of(unet: TrainedUNet, batch: Batch, source: Source) -> torch.Tensor:
    """Error of the clean latent ``(b,)``, weighted by 1 + SNR, at most :data:`MOST_WEIGHT`.

    The target follows from the input, ``(noisy - signal * clean) / noise``; with pure noise as input the best
    prediction is the mean clean latent under the prompt, which is what sampling starts from.
    """
    shape = (-1, 1, 1, 1, 1)
    scale = source.schedule.signal[batch.timesteps].to(batch.clean).view(shape)
    noise = source.schedule.noise[batch.timesteps].to(batch.clean).view(shape)
    target = (batch.noisy - scale * batch.clean) / noise
    predicted = unet(batch.noisy, batch.timesteps, source.captions.text[batch.caption], batch.fps)
    snr = (scale / noise) ** 2
    weight = (1 + snr).clamp(max=MOST_WEIGHT) / snr * batch.weight
    return (weight * (predicted - target) ** 2).mean((1, 2, 3, 4))


def train(folder: Path, settings: Settings, is_asked_to_end: Callable[[], bool] = lambda: False) -> None:
    """Train, or go on training, until all steps are made or ``is_asked_to_end``; either way the state is kept."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")  # held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemExit(f"Another process trains in {folder}; end it first.") from error
    training, source = Training(settings, folder), Source(Captions(), NoiseSchedule.videocrafter2())
    probes = Probes(source.captions, source.schedule)
    mean = {"clip loss": 0.0, "frame loss": 0.0}
    counted, saved, began = 0, time.monotonic(), time.monotonic()
    while training.step < settings.steps and not is_asked_to_end():
        # every step has its own generator, so that resuming needs no generator state
        rng = np.random.default_rng([settings.seed, training.step])
        clips, frames = training.counts
        of_clips = loss_of(training.unet, source.clips(rng, clips, training.dials.mix), source).mean()
        of_frames = loss_of(training.unet, source.frames(rng, frames), source).mean()
        training.update(CLIPS_SHARE * of_clips + (1 - CLIPS_SHARE) * of_frames)
        training.clips, training.frames = training.clips + clips, training.frames + frames
        counted += 1
        for name, value in (("clip loss", of_clips), ("frame loss", of_frames)):
            mean[name] += (value.item() - mean[name]) / min(counted, 100)
        if training.step % settings.look_every == 0:
            training.dials.way = probes.way(training.unet, 980)
        training.dials.turn()
        training.seconds += time.monotonic() - began
        began = time.monotonic()
        if training.step % settings.probe_every == 0:
            log(folder, training, mean | probes(training.unet))
        if time.monotonic() - saved > 60 * settings.save_minutes:
            training.save()
            saved = time.monotonic()
    training.save()


def log(folder: Path, training: Training, values: dict[str, float]) -> None:
    """Add a line of JSON to the folder's log."""
    record: dict[str, Any] = {
        "step": training.step,
        "clips": training.clips,
        "frames": training.frames,
        "balance": round(training.dials.balance, 3),
        "doubt": round(training.dials.doubt, 3),
        "minutes": round(training.seconds / 60, 1),
        "at": time.strftime("%H:%M:%S"),
    } | {name: round(value, 4) for name, value in values.items()}
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the state and the log")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _: asked.append(caught))
    train(options.pop("folder"), Settings(**options), lambda: bool(asked))


if __name__ == "__main__":
    main()
