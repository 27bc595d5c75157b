"""A training step against what it cannot do without, and against the authors' recipe.

Three things are timed in turns, on the same weights, photos and settings:

- *bare*: forward and backward through text encoder and UNet, with everything prepared: no draws, no optimiser;
- *ours*: `Trainer.step`, subject and prior in one forward, latents encoded before;
- *recipe*: each step encodes photo and prior image once per frame, all captions, and runs two forwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from PIL import Image

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import encode_ids
from customcrafter_core.training.augmentation import cut_to
from customcrafter_core.training.batches import Batch, BatchSource
from customcrafter_core.training.config import TrainConfig
from customcrafter_core.training.examples import ExampleSets, encode_examples, video_size
from customcrafter_core.training.memory import estimate_memory
from customcrafter_core.training.objective import Captions, compute_losses
from customcrafter_core.training.photos import Photo, images_to_tensor
from customcrafter_core.training.trainer import Trainer

from .memory import peak_of
from .results import Row, Section, at_least, at_most
from .setup import Setup, hollow_full_size, model_for
from .timing import time_in_turns

AT_MOST_OF_BARE, AT_LEAST_OF_RECIPE = 1.10, 1.35


FRAMES = 4
FIRST_STEPS = 3  # with the second one the moments of the optimiser are there and used
MOST_GB = 12  # full size, bf16, recomputed
STEPS, MOST_MINUTES = 10_000, 10  # on an H200


def measure(setup: Setup) -> Section:
    """Time of a step, in turns, and memory of ours."""
    model = model_for(setup)
    config = TrainConfig("cup", frames=FRAMES, steps=10**6)
    photos = [Photo(Image.linear_gradient("L").rotate(30 * i).convert("RGB")) for i in range(5)]
    sets = encode_examples(model, config, photos, photos)
    estimate = estimate_memory(model, config, has_prior=True, recompute=False)
    with peak_of(model.device) as peak:
        trainer = Trainer(model, config, sets)
        with trainer.attached():
            for _ in range(FIRST_STEPS):
                trainer.step()
    with trainer.attached():
        timings = time_in_turns(ways_to_step(trainer, photos, sets), setup.rounds, model.device)
    width, height = video_size(model, config)
    how = (
        f"A step of training ({'full size' if setup.full else 'demo model'}, {FRAMES} frames of {width}x{height}, "
        f"subject and prior, {model.dtype}) over a bare forward and backward pass, and the authors' recipe over it."
    )
    rows = [
        at_most("ours / bare", timings.ratio("ours", "bare"), AT_MOST_OF_BARE, timings.both("ours", "bare")),
        at_least("recipe / ours", timings.ratio("recipe", "ours"), AT_LEAST_OF_RECIPE, timings.both("recipe", "ours")),
        *_full_size(setup, timings.median("ours")),
        *_measured_on_gpu(model, config, sets),
    ]
    medians = ", ".join(f"{name} {timings.median(name):.3f} s" for name in timings)
    expected = estimate.learned + estimate.activations
    added = "what is not known on this system" if peak.added is None else f"{peak.added / 1e6:.0f} MB"
    memory = f"At its peak training adds {added} to the loaded model; estimated {expected / 1e6:.0f} MB."
    speed = f"Ours makes {1 / timings.median('ours'):.2f} steps a second here."
    return Section("training", "Training", how, rows, [f"Medians: {medians}. {speed}", memory])


def _full_size(setup: Setup, seconds: float) -> list[Row]:
    """What the device has to hold, counted on tensors without content, and how long a training takes on a GPU."""
    model = hollow_full_size(setup.device)
    config = TrainConfig("cup", frames=FRAMES, steps=STEPS)
    kept, recomputed = (
        estimate_memory(model, config, has_prior=True, recompute=recompute).total / 1e9 for recompute in (False, True)
    )
    rows = [
        at_most("GB at full size, bf16, recomputed (counted)", recomputed, MOST_GB),
        Row("the same, activations kept (counted)", f"{kept:.1f}"),
    ]
    if setup.device.type == "cuda":
        row = at_most("minutes for 10 000 steps (wanted on an H200)", STEPS * seconds / 60, MOST_MINUTES)
        rows.append(row if setup.on_h200 else replace(row, met=None))
    return rows


def _measured_on_gpu(model: VideoCrafter2, config: TrainConfig, sets: ExampleSets) -> list[Row]:
    """What a training with layers computed again really allocates, weights included."""
    if model.device.type != "cuda":
        return []
    torch.cuda.reset_peak_memory_stats(model.device)
    trainer = Trainer(model, config, sets, recompute=True)
    with trainer.attached():
        for _ in range(FIRST_STEPS):
            trainer.step()
    taken = torch.cuda.max_memory_allocated(model.device) / 1e9
    return [at_most(f"GB allocated, {model.dtype}, recomputed (measured)", taken, MOST_GB)]


def ways_to_step(trainer: Trainer, photos: list[Photo], sets: ExampleSets) -> dict[str, Callable[[], object]]:
    """The three things to time, by name; all run while the learned layers are attached."""
    model, config = trainer.model, trainer.config
    fixed, captions = BatchSource(config, sets, model.schedule).draw(0), Captions(model)

    def bare() -> None:
        sum(compute_losses(model, captions, config, fixed)).backward()
        trainer.optimizer.zero_grad()

    return {"bare": bare, "ours": trainer.step, "recipe": lambda: recipe_step(trainer, photos, sets)}


def recipe_step(trainer: Trainer, photos: list[Photo], sets: ExampleSets) -> None:
    """A step as the authors' code makes it: nothing is kept from step to step."""
    model, config = trainer.model, trainer.config
    drawn = BatchSource(config, sets, model.schedule).draw(0)
    for batch in drawn:
        pixels = images_to_tensor([cut_to(photos[0].image, video_size(model, config))] * config.frames)
        with torch.no_grad():
            mean, std = model.encode_moments(pixels)
        x0 = (mean + std * torch.randn_like(std)).float().cpu().transpose(0, 1)[None]
        noised = model.schedule.add_noise(x0, batch.noise, batch.timesteps)
        uncached = _Uncached(model)
        again = Batch(noised, batch.noise, batch.timesteps, batch.ids, batch.mask)
        compute_losses(model, uncached, config, [again])[0].backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


class _Uncached(Captions):
    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        """Every caption anew."""
        return encode_ids(self._model.text_encoder, ids).to(self._model.dtype)
