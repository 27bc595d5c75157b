"""The workflows that come with the pack: their contents; writes them, their pictures and the subgraph blueprint.

python -m tools.workflows        # needs a host, the newest is taken: COMFYUI_PATH, else ~/comfy/*
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from customcrafter_core.base_model.config import Defaults
from customcrafter_core.demo import world
from customcrafter_core.demo.run import DYNAMIC
from customcrafter_core.output.video import PLAYBACK_FPS

from . import blueprint
from .demo_values import (
    CFG,
    DEMO_MODEL,
    DEMO_SUBJECT,
    OTHER_PROMPT,
    OTHER_SEED,
    PROMPT,
    SAMPLE_PROMPT,
    SEED,
    STEPS,
)
from .graphs import Graph, Link, Node, to_text
from .on_host import ROOT, newest_host

FOLDER = ROOT / "workflows"


def load(graph: Graph, prompt: str = PROMPT) -> dict[str, Link]:
    """Model, subject, prompts and latent, in the first two columns."""
    loaded = graph.add(0, "CustomCrafterLoadVideoCrafter2", checkpoint=DEMO_MODEL)
    found = {"model": loaded[0], "vae": loaded[2]}
    found["subject"] = graph.add(0, "CustomCrafterLoadSubject", subject=DEMO_SUBJECT)[0]
    return found | prompts(graph, (0, 1), loaded, found["subject"], prompt)


def prompts(
    graph: Graph, columns: tuple[int, int], loaded: Node, subject: Link, prompt: str = PROMPT
) -> dict[str, Link]:
    """The subject's token taught, in the first column; prompts and latent, in the second."""
    clip = graph.add(columns[0], "CustomCrafterTeachToken", clip=loaded[1], subject=subject)[0]
    column = columns[1]
    return {
        "positive": graph.add(column, "CLIPTextEncode", title="What the video shows", clip=clip, text=prompt)[0],
        "negative": graph.add(column, "CLIPTextEncode", title="What it does not show", clip=clip, text="")[0],
        "latent_image": graph.add(column, "CustomCrafterEmptyVideoLatent", model=loaded[0])[0],
    }


def sample(
    graph: Graph, found: dict[str, Link], column: int, title: str = "", seed: int = SEED, **strength: Any
) -> Node:
    """The Dynamic Weighted KSampler."""
    given = {name: link for name, link in found.items() if name != "vae"}
    return graph.add(
        column,
        "CustomCrafterDynamicWeightedKSampler",
        title=title,
        **given,
        seed=seed,
        steps=STEPS,
        cfg=CFG,
        **strength,
    )


def save(graph: Graph, latent: Link, vae: Link, column: int, name: str) -> None:
    """Decode, enlarge the demo's small frames (VideoCrafter2's are as wide), and save a video."""
    pixels = graph.add(column, "VAEDecode", samples=latent, vae=vae)
    larger = graph.add(
        column, "ImageScale", title="Enlarge small frames", image=pixels[0],
        upscale_method="nearest-exact", width=Defaults().width, height=0, crop="disabled",
    )  # fmt: skip
    video = graph.add(column, "CreateVideo", images=larger[0], fps=float(PLAYBACK_FPS))
    for node in (pixels, larger, video):
        node.folded = True
    graph.add(column, "SaveVideo", video=video[0], filename_prefix=f"customcrafter/{name}", format="auto", codec="auto")


COLUMNS = ["Model and subject", "What to show", "Move λs, λl and K", "The video"]
HINT = (
    "Moves too little: **lambda_s** down or **k** up. Not alike: **lambda_l** up or **k** down.\n\n"
    "The line below the sliders is the strength at each step. Run again to see what it does."
)


def demo() -> Graph:
    """Runs on what comes with the pack."""
    graph = Graph(
        "1 Demo - runs at once",
        COLUMNS,
        moves=[2],
        note="Press **Run**: the small demo model comes with the pack, nothing is downloaded. It knows a world of "
        "moving shapes; prompts are like: *a blue square moving up on a black background*.",
        hint=HINT,
    )
    found = load(graph)
    save(graph, sample(graph, found, 2, k=DYNAMIC.k)[0], found["vae"], 3, "demo")
    return graph


def generate() -> Graph:
    """A subject in a video."""
    graph = Graph(
        "2 Generate with a subject",
        COLUMNS,
        moves=[2],
        note="Choose VideoCrafter2's checkpoint and your subject, and write the subject's trigger text into the prompt "
        "(Load Subject shows it once it ran). The size follows: 0 is the model's own.\n\nSet **cfg** to 12 and **k** to "
        "5: 3.5 and 10 are for the demo model. With a width of your own bypass *Enlarge* (Ctrl+B): it makes frames 512 wide.",
        hint=HINT,
    )
    found = load(graph, OTHER_PROMPT)
    save(graph, sample(graph, found, 2, seed=OTHER_SEED, k=DYNAMIC.k)[0], found["vae"], 3, "subject")
    return graph


def compare() -> Graph:
    """The same seed at several strengths."""
    choices: dict[str, dict[str, Any]] = {
        "constant": {"lambda_s": 0.8, "lambda_l": 0.8, "k": 0},
        "paper": {},
        "weaker start": {"lambda_s": 0.0, "lambda_l": 1.0, "k": 10},
    }
    graph = Graph(
        "3 Compare weights",
        [*COLUMNS[:2], "Constant strength", "As in the paper", "Move λs, λl and K: yours"],
        moves=[4],
        note="The same prompt and seed three times: at constant strength, with the paper's dynamic weights, and with "
        "weights of your choice.",
        hint="Compare the three videos: same prompt, same noise. Move these sliders and run again; "
        "only that video is made again.",
    )
    found = load(graph)
    for number, (name, strength) in enumerate(choices.items()):
        sampled = sample(graph, found, 2 + number, title=f"Dynamic Weighted KSampler: {name}", **strength)
        save(graph, sampled[0], found["vae"], 2 + number, name.replace(" ", "_"))
    return graph


def any_model() -> Graph:
    """A LoRA by steps with the host's own sampler."""
    graph = Graph(
        "4 Dynamic weights on any model",
        COLUMNS,
        moves=[2],
        note="**Any model, any LoRA, any sampler**: this LoRA is weak in the first **k** steps and strong afterwards. "
        "The demo model stands in for yours, so that it runs at once.\n\nFor your own: put *Load Checkpoint* or another "
        "loader in the place of Load VideoCrafter2 and *Empty Latent Image* in the place of Empty Video Latent, choose "
        "your LoRA, remove Load Subject and Teach Token, which only teach the word `<new1>`, and bypass *Enlarge* (Ctrl+B).",
        hint="**lambda_s** 0 and **lambda_l** 1: the base model alone makes the composition. 1 and 0: the LoRA acts in "
        "the first **k** steps only.",
    )
    found = load(graph)
    dynamic = graph.add(
        2, "CustomCrafterDynamicLoRAWeights", model=found["model"], lora=DEMO_SUBJECT,
        lambda_s=0.4, lambda_l=0.8, k=15,
    )  # fmt: skip
    sampled = graph.add(
        2, "KSampler", model=dynamic[0], positive=found["positive"], negative=found["negative"],
        latent_image=found["latent_image"], seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="normal",
        denoise=1.0,
    )  # fmt: skip
    save(graph, sampled[0], found["vae"], 3, "any_model")
    return graph


def trainer(graph: Graph) -> tuple[Node, Node]:
    """The base model, and a subject that is learned from the demo's photos."""
    loaded = graph.add(0, "CustomCrafterLoadVideoCrafter2", checkpoint=DEMO_MODEL)
    photos = graph.add(0, "CustomCrafterDemoPhotos", title="Demo Photos: delete, then connect your own")
    trained = graph.add(
        1, "CustomCrafterSubjectTrainer", model=loaded[0], clip=loaded[1], vae=loaded[2], images=photos[0],
        captions=photos[1], prior=photos[2], prior_captions=photos[3], class_word=world.CLASS_WORD, name="orange_square",
        preset="demo", sample_every=100, sample_prompt=SAMPLE_PROMPT,
    )  # fmt: skip
    return loaded, trained


def train() -> Graph:
    """A subject from photos."""
    graph = Graph(
        "5 Train a subject",
        ["Model and photos", "Train", "What was learned"],
        moves=[1],
        note="Press **Run**: the demo model learns an orange square, which it never saw, in about a minute. The file is "
        "then in Load Subject's list (key R refreshes it).\n\nFor your own: put three to ten photos into a folder in "
        "ComfyUI's `input` folder, delete Demo Photos (its captions and prior go with it), and connect *Load Image (from "
        "Folder)* to **images**; on older hosts it is *Load Image Dataset from Folder*. Then VideoCrafter2's checkpoint "
        "in Load VideoCrafter2, **preset** `quick` or `paper`, and **make_prior** 200. **sample_prompt** and "
        "**sample_every** 100 are for the demo, too: write what yours shall do, or 0 for no samples.",
        hint="Set **class_word** to what the thing is, and **name** to what its file shall be called. **Cancel** keeps "
        "what was learned; **Run** again goes on.",
    )
    _, trained = trainer(graph)
    graph.add(2, "SaveImage", title="The samples", images=trained[3], filename_prefix="customcrafter/samples")
    graph.add(2, "SaveImage", title="The loss", images=trained[4], filename_prefix="customcrafter/loss")
    return graph


def train_then_generate() -> Graph:
    """A subject from photos, in a video."""
    graph = Graph(
        "6 Train then generate",
        ["Model and photos", "Train", *COLUMNS[1:]],
        moves=[3],
        note="Learns the subject of workflow 5 and makes a video of it at once; what workflow 5 learned is used again. "
        "The prompt holds the subject's token and its class word: `<new1> toy`. Change it and run again: only the "
        "video is made again.\n\nFor VideoCrafter2: photos and trainer as in workflow 5, **cfg** 12, **k** 5.",
        hint=HINT,
    )
    loaded, trained = trainer(graph)
    found = {"model": loaded[0], "vae": loaded[2], "subject": trained[0]}
    found |= prompts(graph, (2, 2), loaded, trained[0])
    save(graph, sample(graph, found, 3, k=DYNAMIC.k)[0], found["vae"], 4, "trained")
    return graph


WORKFLOWS: list[Callable[[], Graph]] = [demo, generate, compare, any_model, train, train_then_generate]


def main(arguments: list[str] | None = None) -> None:
    """Write the workflow files and their pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="make the pictures of graphs that did not change again, too")
    options = parser.parse_args(arguments)
    from .pictures import is_picture_of, write_picture

    with newest_host() as host:
        descriptions = host.get("/object_info")
        blueprint.FOLDER.mkdir(exist_ok=True)
        (blueprint.FOLDER / f"{blueprint.NAME}.json").write_text(to_text(blueprint.blueprint(descriptions)))
        for make in WORKFLOWS:
            graph = make()
            (FOLDER / f"{graph.name}.json").write_text(to_text(graph.workflow(descriptions)))
            picture = FOLDER / f"{graph.name}.jpg"
            if options.all or not is_picture_of(picture, graph, descriptions):
                write_picture(picture, graph, descriptions, host)


if __name__ == "__main__":
    main()
