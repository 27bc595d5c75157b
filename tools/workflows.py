"""The workflow templates that ship with the pack. Writes them, their pictures and the subgraph blueprint.

python -m tools.workflows        # needs a ComfyUI host and uses the newest: COMFYUI_PATH, else ~/comfy/*
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
    """Add model, subject, prompts and latent in the first two columns."""
    loaded = graph.add(0, "CustomCrafterLoadVideoCrafter2", checkpoint=DEMO_MODEL)
    found = {"model": loaded[0], "vae": loaded[2]}
    found["subject"] = graph.add(0, "CustomCrafterLoadSubject", subject=DEMO_SUBJECT)[0]
    return found | prompts(graph, (0, 1), loaded, found["subject"], prompt)


def prompts(
    graph: Graph, columns: tuple[int, int], loaded: Node, subject: Link, prompt: str = PROMPT
) -> dict[str, Link]:
    """Add the subject's token in the first column, prompts and latent in the second."""
    clip = graph.add(columns[0], "CustomCrafterTeachToken", clip=loaded[1], subject=subject)[0]
    column = columns[1]
    return {
        "positive": graph.add(column, "CLIPTextEncode", title="Prompt", clip=clip, text=prompt)[0],
        "negative": graph.add(column, "CLIPTextEncode", title="Negative prompt", clip=clip, text="")[0],
        "latent_image": graph.add(column, "CustomCrafterEmptyVideoLatent", model=loaded[0])[0],
    }


def sample(
    graph: Graph, found: dict[str, Link], column: int, title: str = "", seed: int = SEED, **strength: Any
) -> Node:
    """Add a Dynamic Weighted KSampler."""
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
    """Decode, upscale the demo's small frames to VideoCrafter2's width, and save a video."""
    pixels = graph.add(column, "VAEDecode", samples=latent, vae=vae)
    larger = graph.add(
        column, "ImageScale", title="Upscale small frames", image=pixels[0],
        upscale_method="nearest-exact", width=Defaults().width, height=0, crop="disabled",
    )  # fmt: skip
    video = graph.add(column, "CreateVideo", images=larger[0], fps=float(PLAYBACK_FPS))
    for node in (pixels, larger, video):
        node.folded = True
    graph.add(column, "SaveVideo", video=video[0], filename_prefix=f"customcrafter/{name}", format="auto", codec="auto")


COLUMNS = ["Model and subject", "Prompt and size", "Try λs, λl and K", "Video"]
HINT = (
    "Too little motion? Lower **lambda_s** or raise **k**. Does not look like the subject? Raise **lambda_l** or lower "
    "**k**.\n\nThe curve below the sliders shows the strength at each step. Run again to see the effect."
)


def demo() -> Graph:
    """A demo that runs on what ships with the pack."""
    graph = Graph(
        "1 Demo - runs at once",
        COLUMNS,
        moves=[2],
        note="Press **Run**. The small demo model is included, so nothing is downloaded. All it knows is a world of moving "
        "shapes; try prompts like *a blue square moving up on a black background*.",
        hint=HINT,
    )
    found = load(graph)
    save(graph, sample(graph, found, 2, k=DYNAMIC.k)[0], found["vae"], 3, "demo")
    return graph


def generate() -> Graph:
    """A video of a subject."""
    graph = Graph(
        "2 Generate with a subject",
        COLUMNS,
        moves=[2],
        note="Choose VideoCrafter2's checkpoint and your subject, and put the subject's trigger text in the prompt (Load "
        "Subject shows it after the first run). Sizes of 0 use the model's own size.\n\nSet **cfg** to 12 and **k** to 5; "
        "the values here, 3.5 and 10, are for the demo model. If you set your own width, bypass *Upscale small frames* "
        "(Ctrl+B), which makes all frames 512 wide.",
        hint=HINT,
    )
    found = load(graph, OTHER_PROMPT)
    save(graph, sample(graph, found, 2, seed=OTHER_SEED, k=DYNAMIC.k)[0], found["vae"], 3, "subject")
    return graph


def compare() -> Graph:
    """The same seed at different strengths."""
    choices: dict[str, dict[str, Any]] = {
        "constant": {"lambda_s": 0.8, "lambda_l": 0.8, "k": 0},
        "paper": {},
        "weaker start": {"lambda_s": 0.0, "lambda_l": 1.0, "k": 10},
    }
    graph = Graph(
        "3 Compare weights",
        [*COLUMNS[:2], "Constant strength", "As in the paper", "Try your own λs, λl and K"],
        moves=[4],
        note="The same prompt and seed three times: at constant strength, with the paper's dynamic weights, and with "
        "weights of your choice.",
        hint="Compare the three videos: same prompt, same noise. Move these sliders and run again; only this video is "
        "regenerated.",
    )
    found = load(graph)
    for number, (name, strength) in enumerate(choices.items()):
        sampled = sample(graph, found, 2 + number, title=f"Dynamic Weighted KSampler: {name}", **strength)
        save(graph, sampled[0], found["vae"], 2 + number, name.replace(" ", "_"))
    return graph


def any_model() -> Graph:
    """A LoRA whose strength changes over the steps, with ComfyUI's own KSampler."""
    graph = Graph(
        "4 Dynamic weights on any model",
        COLUMNS,
        moves=[2],
        note="**Any model, any LoRA, any sampler**: this LoRA is weak in the first **k** steps and strong afterwards. "
        "The demo model stands in for yours, so that the workflow runs right away.\n\nTo use your own model, replace Load "
        "VideoCrafter2 with *Load Checkpoint* or another loader, replace Empty Video Latent with *Empty Latent Image*, and "
        "choose your LoRA. Delete Load Subject and Add Subject Token, which only add the token `<new1>`, and bypass "
        "*Upscale small frames* (Ctrl+B).",
        hint="**lambda_s** 0 and **lambda_l** 1: the base model alone decides the composition. 1 and 0: the LoRA is active "
        "in the first **k** steps only.",
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
    """Add the base model and a trainer with the demo photos."""
    loaded = graph.add(0, "CustomCrafterLoadVideoCrafter2", checkpoint=DEMO_MODEL)
    photos = graph.add(0, "CustomCrafterDemoPhotos", title="Demo Photos (replace with your own)")
    trained = graph.add(
        1, "CustomCrafterSubjectTrainer", model=loaded[0], clip=loaded[1], vae=loaded[2], images=photos[0],
        captions=photos[1], prior=photos[2], prior_captions=photos[3], class_word=world.CLASS_WORD, name="orange_square",
        preset="demo", sample_every=100, sample_prompt=SAMPLE_PROMPT,
    )  # fmt: skip
    return loaded, trained


def train() -> Graph:
    """Train a subject on photos."""
    graph = Graph(
        "5 Train a subject",
        ["Model and photos", "Train", "Results"],
        moves=[1],
        note="Press **Run**: in about a minute, the demo model learns an orange square, which it has never seen. The file "
        "then appears in Load Subject (press R to refresh the list).\n\nTo train your own subject, put three to ten photos "
        "in a folder in ComfyUI's `input` folder, delete Demo Photos (its captions and prior images go with it), and "
        "connect *Load Image (from Folder)* to **images**; older versions of ComfyUI have *Load Image Dataset from "
        "Folder* instead. Then choose VideoCrafter2's checkpoint in Load VideoCrafter2, set **preset** to `quick` or "
        "`paper`, and **make_prior** to 200. **sample_prompt** and **sample_every** 100 are for the demo as well: write a "
        "prompt for your subject, or set sample_every to 0 for no samples.",
        hint="**class_word** is what the subject is; **name** is its file name. **Cancel** keeps what was learned, and "
        "**Run** continues from there.",
    )
    _, trained = trainer(graph)
    graph.add(2, "SaveImage", title="Samples", images=trained[3], filename_prefix="customcrafter/samples")
    graph.add(2, "SaveImage", title="Loss", images=trained[4], filename_prefix="customcrafter/loss")
    return graph


def train_then_generate() -> Graph:
    """Train a subject on photos and make a video of it."""
    graph = Graph(
        "6 Train then generate",
        ["Model and photos", "Train", *COLUMNS[1:]],
        moves=[3],
        note="Trains the subject from workflow 5 and then makes a video of it. If workflow 5 has already run, its result "
        "is reused. The prompt contains the subject's token and class word: `<new1> toy`. Change the prompt and run again: "
        "only the video is regenerated.\n\nFor VideoCrafter2, set up photos and trainer as in workflow 5, **cfg** 12 and "
        "**k** 5.",
        hint=HINT,
    )
    loaded, trained = trainer(graph)
    found = {"model": loaded[0], "vae": loaded[2], "subject": trained[0]}
    found |= prompts(graph, (2, 2), loaded, trained[0])
    save(graph, sample(graph, found, 3, k=DYNAMIC.k)[0], found["vae"], 4, "trained")
    return graph


WORKFLOWS: list[Callable[[], Graph]] = [demo, generate, compare, any_model, train, train_then_generate]


def main(arguments: list[str] | None = None) -> None:
    """Write the workflow files, their pictures and the blueprint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also redo the pictures of workflows that have not changed")
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
