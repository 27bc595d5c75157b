"""The workflows that come with the pack: their contents, and the script that writes them and their pictures.

python -m tools.workflows        # needs a host: COMFYUI_PATH, else ~/comfy/*
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .graphs import Graph, Link, Node, to_text

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"
ASSETS = ROOT / "customcrafter_core" / "demo" / "assets"
DEMO_MODEL = "CustomCrafter demo model (built in)"
DEMO_SUBJECT = "CustomCrafter demo subject (built in)"
MY_SUBJECT, MY_CHECKPOINT, MY_LORA = "my_subject.safetensors", "my_checkpoint.safetensors", "my_lora.safetensors"
DEMO_SIZE = {"width": 32, "height": 32, "frames": 8, "batch_size": 1}
PLAIN_PROMPT = "a red circle moving right on a white background"
SUBJECT_PROMPT = "a <new1> square moving left on a gray background"
SEED = 7


def demo_subject() -> str:
    """The built-in subject, else the name that a user's own may have."""
    return DEMO_SUBJECT if (ASSETS / "demo_subject.safetensors").is_file() else MY_SUBJECT


def load(graph: Graph, prompt: str, subject: str | None) -> dict[str, Link]:
    """Model, subject, prompts and latent, in the first two columns."""
    loaded = graph.add(0, "CustomCrafterLoadVideoCrafter2", checkpoint=DEMO_MODEL)
    found = {"model": loaded[0], "vae": loaded[2]}
    clip = loaded[1]
    if subject is not None:
        found["subject"] = graph.add(0, "CustomCrafterLoadSubject", subject=subject)[0]
        clip = graph.add(0, "CustomCrafterTeachToken", clip=clip, subject=found["subject"])[0]
    found["positive"] = graph.add(1, "CLIPTextEncode", title="What the video shows", clip=clip, text=prompt)[0]
    found["negative"] = graph.add(1, "CLIPTextEncode", title="What it does not show", clip=clip, text="")[0]
    found["latent_image"] = graph.add(1, "CustomCrafterEmptyVideoLatent", **DEMO_SIZE, model=loaded[0])[0]
    return found


def sample(graph: Graph, found: dict[str, Link], column: int, title: str = "", **strength: Any) -> Node:
    """The Dynamic Weighted KSampler."""
    given = {name: link for name, link in found.items() if name != "vae"}
    return graph.add(
        column, "CustomCrafterDynamicWeightedKSampler", title=title, **given, seed=SEED, steps=50, cfg=3.5, **strength
    )


def save(graph: Graph, latent: Link, vae: Link, column: int, name: str) -> None:
    """Decode, enlarge the demo's small frames, and save a video."""
    pixels = graph.add(column, "VAEDecode", samples=latent, vae=vae)[0]
    larger = graph.add(
        column, "ImageScale", title="Enlarge the demo model's small frames", image=pixels,
        upscale_method="nearest-exact", width=256, height=256, crop="disabled",
    )[0]  # fmt: skip
    video = graph.add(column, "CreateVideo", images=larger, fps=8.0)[0]
    graph.add(
        column + 1, "SaveVideo", video=video, filename_prefix=f"customcrafter/{name}", format="auto", codec="auto"
    )


def demo() -> Graph:
    """Runs on what comes with the pack."""
    subject = demo_subject() if demo_subject() == DEMO_SUBJECT else None
    graph = Graph(
        "1 Demo - runs at once",
        note="Press **Run**: the small demo model comes with the pack, nothing is downloaded.\n\n"
        "The demo model knows a world of moving shapes; prompts are like: *a blue square moving up on a black "
        "background*. Move **lambda_s**, **lambda_l** and **k** in Dynamic Weighted KSampler and run again.",
    )
    found = load(graph, PLAIN_PROMPT if subject is None else SUBJECT_PROMPT, subject)
    save(graph, sample(graph, found, 2)[0], found["vae"], 3, "demo")
    return graph


def generate() -> Graph:
    """A subject in a video."""
    graph = Graph(
        "2 Generate with a subject",
        note="Choose VideoCrafter2's checkpoint and your subject, set the size to 512x320 with 16 frames, and write "
        "the subject's trigger text into the prompt (Load Subject shows it).\n\nFirst K steps: strength **lambda_s**, "
        "for the motion. Later steps: **lambda_l**, for the looks. Remove *Enlarge* when you use VideoCrafter2.",
    )
    found = load(graph, SUBJECT_PROMPT, demo_subject())
    save(graph, sample(graph, found, 2)[0], found["vae"], 3, "subject")
    return graph


def compare() -> Graph:
    """The same seed at several strengths."""
    graph = Graph(
        "3 Compare weights",
        note="The same prompt and seed three times: at constant strength, with the paper's dynamic weights, and with "
        "weights of your choice. The small pictures show the strength that was applied at each step.",
    )
    found = load(graph, SUBJECT_PROMPT, demo_subject())
    choices = {
        "constant": {"lambda_s": 0.8, "lambda_l": 0.8, "k": 0},
        "paper": {},
        "weaker start": {"lambda_s": 0.0, "lambda_l": 1.0, "k": 10},
    }
    for number, (name, strength) in enumerate(choices.items()):
        sampled = sample(graph, found, 2 + number, title=f"Dynamic Weighted KSampler: {name}", **strength)
        save(graph, sampled[0], found["vae"], 2 + number, name.replace(" ", "_"))
    return graph


def any_model() -> Graph:
    """A LoRA of any model by steps."""
    graph = Graph(
        "4 Dynamic weights on any model",
        note="Any checkpoint, any LoRA, any sampler: here the LoRA is off for the first 5 steps, so that the base "
        "model decides the composition, and at full strength afterwards. 1 and 0 instead: only the first steps.",
    )
    loaded = graph.add(0, "CheckpointLoaderSimple", ckpt_name=MY_CHECKPOINT)
    dynamic = graph.add(
        0, "CustomCrafterDynamicLoRAWeights", model=loaded[0], lora=MY_LORA, lambda_s=0.0, lambda_l=1.0, k=5
    )
    positive = graph.add(1, "CLIPTextEncode", clip=loaded[1], text="a teddy bear on a beach")
    negative = graph.add(1, "CLIPTextEncode", clip=loaded[1], text="")
    latent = graph.add(1, "EmptyLatentImage", width=512, height=512, batch_size=1)
    sampled = graph.add(
        2, "KSampler", model=dynamic[0], positive=positive[0], negative=negative[0], latent_image=latent[0],
        seed=SEED, steps=20, cfg=7.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    pixels = graph.add(3, "VAEDecode", samples=sampled[0], vae=loaded[2])
    graph.add(3, "SaveImage", images=pixels[0], filename_prefix="customcrafter/any_model")
    return graph


WORKFLOWS: list[Callable[[], Graph]] = [demo, generate, compare, any_model]


def main(arguments: list[str] | None = None) -> None:
    """Write the workflow files and their pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "tests" / "host"))
    from running_host import RunningHost, found_hosts

    from .pictures import write_picture

    with tempfile.TemporaryDirectory() as base:
        host = RunningHost(found_hosts()[0], Path(base)).start()
        try:
            descriptions = host.get("/object_info")
            for make in WORKFLOWS:
                graph = make()
                (FOLDER / f"{graph.name}.json").write_text(to_text(graph.workflow(descriptions)))
                write_picture(FOLDER / f"{graph.name}.jpg", graph, descriptions, host)
        finally:
            host.stop()


if __name__ == "__main__":
    main()
