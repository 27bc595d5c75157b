"""A training step against what it cannot do without, and against the authors' recipe.

    python -m benchmarks.training [--base model.ckpt] [--frames 4] [--rounds 12]

Three things are timed in turns, on the same weights, photos and settings:

- *bare*: forward and backward through text encoder and UNet, with everything prepared: no draws, no optimiser;
- *ours*: `Trainer.step`, subject and prior in one forward, latents encoded before;
- *recipe*: each step encodes photo and prior image once per frame, all captions, and runs two forwards.

Ratios are medians over rounds, so that a busy machine hurts all three alike. The peak of memory is what the first steps of
*ours*, optimiser included, add to the loaded model; beside it stands what the estimate before the first step said.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from PIL import Image

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import encode_ids
from customcrafter_core.demo import demo_checkpoint
from customcrafter_core.training.batches import Batch, BatchSource
from customcrafter_core.training.config import TrainConfig
from customcrafter_core.training.examples import ExampleSets, encode_examples, size_of
from customcrafter_core.training.memory import MemoryEstimate, estimate_memory
from customcrafter_core.training.objective import Captions, losses_of
from customcrafter_core.training.photos import Photo, images_to_tensor
from customcrafter_core.training.trainer import Trainer

from .memory import Peak, peak_of
from .timing import Timings, machine, time_in_turns

AT_MOST_OF_BARE, AT_LEAST_OF_RECIPE = 1.10, 1.35
FIRST_STEPS = 3  # with the second one the moments of the optimiser are there and used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=demo_checkpoint(), help="a checkpoint (default: the demo model)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; more than one hurts a small model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model = load_videocrafter2(options.base, dtype=dtype, device=options.device)
    config = TrainConfig("cup", frames=options.frames, steps=10**6)
    photos = [Photo(Image.linear_gradient("L").rotate(30 * i).convert("RGB")) for i in range(5)]
    sets = encode_examples(model, config, photos, photos)
    estimate = estimate_memory(model, config, has_prior=True, recompute=False)
    with peak_of(model.device) as peak:
        trainer = Trainer(model, config, sets)
        with trainer.attached():
            for _ in range(FIRST_STEPS):
                trainer.step()
    with trainer.attached():
        timings = time_in_turns(ways_to_step(trainer, photos, sets), options.rounds, model.device)
    report(timings, model, config)
    report_memory(peak, estimate)


def ways_to_step(trainer: Trainer, photos: list[Photo], sets: ExampleSets) -> dict[str, Callable[[], object]]:
    """The three things to time, by name; all run while the learned layers are attached."""
    model, config = trainer.model, trainer.config
    fixed, captions = BatchSource(config, sets, model.schedule).draw(0), Captions(model)

    def bare() -> None:
        sum(losses_of(model, captions, config, fixed)).backward()
        trainer.optimizer.zero_grad()

    return {"bare": bare, "ours": trainer.step, "recipe": lambda: recipe_step(trainer, photos, sets)}


def recipe_step(trainer: Trainer, photos: list[Photo], sets: ExampleSets) -> None:
    """A step as the authors' code makes it: nothing is kept from step to step."""
    model, config = trainer.model, trainer.config
    drawn = BatchSource(config, sets, model.schedule).draw(0)
    for batch in drawn:
        pixels = images_to_tensor([photos[0].image] * config.frames, *size_of(model, config))
        with torch.no_grad():
            mean, std = model.encode_moments(pixels)
        x0 = (mean + std * torch.randn_like(std)).float().cpu().transpose(0, 1)[None]
        noised = model.schedule.add_noise(x0, batch.noise, batch.timesteps)
        uncached = _Uncached(model)
        again = Batch(noised, batch.noise, batch.timesteps, batch.ids, batch.mask)
        losses_of(model, uncached, config, [again])[0].backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


class _Uncached(Captions):
    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        """Every caption anew."""
        return encode_ids(self._model.text_encoder, ids).to(self._model.dtype)


def report(timings: Timings, model: VideoCrafter2, config: TrainConfig) -> None:
    """Print medians, ratios within rounds."""
    width, height = size_of(model, config)
    print(machine(model.device))
    print(f"{config.frames} frames of {width}x{height}, batch {config.batch} and prior, {model.dtype}")
    for name in timings:
        print(f"{name:8} {timings.median(name):8.3f} s a step")
    print(f"ours / bare   {timings.ratio('ours', 'bare'):.3f}  (wanted: at most {AT_MOST_OF_BARE})")
    print(f"recipe / ours {timings.ratio('recipe', 'ours'):.3f}  (wanted: at least {AT_LEAST_OF_RECIPE})")


def report_memory(peak: Peak, estimate: MemoryEstimate) -> None:
    """Print what training added, and what was expected."""
    expected = estimate.learned + estimate.activations
    print(f"peak memory   {peak.added / 1e6:.0f} MB added by training, {expected / 1e6:.0f} MB estimated")


if __name__ == "__main__":
    main()
