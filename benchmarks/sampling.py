"""A whole guided sampling run against its bare forward passes: nothing can be faster with this network.

    python -m benchmarks.sampling [--base model.ckpt] [--steps 20] [--rounds 5]

- *bare*: ``unet(x)`` with the prompt and without it in one batch, once for each step, and nothing else;
- *base*: `generate` without a subject: text, noise, guidance, DDIM;
- *constant*, *dynamic*: the same with a subject of rank 4 on all targets, at one strength and at two.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.demo import demo_checkpoint
from customcrafter_core.diffusion.guidance import GuidanceBatch
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.generation import AppliedSubject, VideoSettings, generate, resolve
from customcrafter_core.subject.prompts import encode_prompts
from customcrafter_core.subject.subject import LoRAFactors, Subject
from customcrafter_core.subject.targets import lora_targets

from .timing import machine, time_in_turns

RANK = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=demo_checkpoint(), help="a checkpoint (default: the demo model)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--height", type=int, default=0)
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; more than one hurts a small model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model = load_videocrafter2(options.base, dtype=dtype, device=options.device)
    settings = resolve(
        model,
        VideoSettings(
            "a <new1> cup", width=options.width, height=options.height, frames=options.frames, steps=options.steps,
            guidance=GuidanceBatch.TOGETHER,
        ),
    )  # fmt: skip
    timings = time_in_turns(ways_to_sample(model, settings), options.rounds, model.device)
    print(machine(model.device))
    print(f"{settings.frames} frames of {settings.width}x{settings.height}, {settings.steps} steps, {model.dtype}")
    for name in timings:
        print(f"{name:9} {timings.median(name):8.3f} s   {timings.ratio(name, 'bare'):.3f} of bare")


def ways_to_sample(model: VideoCrafter2, settings: VideoSettings) -> dict[str, Callable[[], object]]:
    """The ways by name."""
    subject = random_subject(model)
    shape = model.latent_shape(settings.width, settings.height, settings.frames, 2)
    x = torch.randn(shape).to(model.device, model.dtype)
    text = encode_prompts(model, [settings.prompt, ""], [subject]).detach()
    timestep = torch.full((2,), 500, device=model.device)
    fps = torch.full((2,), settings.fps, device=model.device)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(len(model.schedule.ddim_timesteps(settings.steps))):
            model.unet(x, timestep, text, timestep_cond=fps)

    return {
        "bare": bare,
        "base": lambda: generate(model, settings),
        "constant": lambda: generate(model, settings, [AppliedSubject(subject, Constant(0.8))]),
        "dynamic": lambda: generate(model, settings, [AppliedSubject(subject, TwoPhase())]),
    }


def random_subject(model: VideoCrafter2) -> Subject:
    """A subject that changes all targets."""
    factors = {
        name: LoRAFactors(0.01 * torch.randn(RANK, layer.in_features), 0.01 * torch.randn(layer.out_features, RANK))
        for name, layer in lora_targets(model.unet).items()
    }
    return Subject(factors, torch.randn(1, model.geometry.text.width), class_word="cup", base=model.fingerprint)


if __name__ == "__main__":
    main()
