"""The pictures of the help pages: what each node does, from real runs on the demo model.

Run: ``python -m tools.help_pictures``    # needs a host: COMFYUI_PATH, else ~/comfy/*
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from customcrafter_core.demo import world
from customcrafter_core.output.sheet import SheetRow, contact_sheet
from customcrafter_core.training.pictures import stack_images

from .demo_values import CFG, DEMO_SIZE, DEMO_SUBJECT, PROMPT, SAMPLE_PROMPT, SEED, STEPS
from .graphs import Graph, Link
from .on_host import ROOT, newest_host
from .workflows import load, sample

FOLDER = ROOT / "web" / "docs" / "pictures"
WIDTH, COLORS = 720, 96
COLUMNS = 6
OURS = "CustomCrafter"
PHOTOS = ("learned from", "images", "prior")  # rows that are no videos
PLAIN = "a red circle moving right on a white background"

Rows = dict[str, Link]
"""Label -> frames of a video, or a picture."""


class Runs:
    """A graph to which runs are added."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found = load(graph)
        self.loaded = graph.nodes[0]
        self.subject = self.found["subject"]

    def add(self, kind: str, /, **inputs: Any) -> Any:
        """A node of this pack."""
        return self.graph.add(0, OURS + kind, **inputs)

    def video(self, **changes: Any) -> Link:
        """Frames of the demo's prompt and seed with the Dynamic Weighted KSampler."""
        links = {name: link for name, link in changes.items() if isinstance(link, Link)}
        numbers = {name: value for name, value in changes.items() if name not in links and value is not None}
        found = {name: link for name, link in (self.found | links).items() if changes.get(name, 0) is not None}
        return self.frames(sample(self.graph, found, 0, **numbers)[0])

    def frames(self, latent: Link) -> Link:
        """The video of a latent."""
        return self.graph.add(0, "VAEDecode", samples=latent, vae=self.found["vae"])[0]

    def text(self, words: str, clip: Link | None = None) -> Link:
        """A prompt, with the subject's token unless another text encoder is given."""
        taught = self.add("TeachToken", clip=self.loaded[1], subject=self.subject)[0]
        return self.graph.add(0, "CLIPTextEncode", clip=clip or taught, text=words)[0]

    def latent(self, **changes: Any) -> Link:
        """An empty latent of another size."""
        return self.add("EmptyVideoLatent", **(DEMO_SIZE | changes), model=self.loaded[0])[0]

    def host_sampled(self, model: Link) -> Link:
        """Frames with the host's own sampler."""
        found = {name: self.found[name] for name in ("positive", "negative", "latent_image")}
        return self.frames(
            self.graph.add(
                0, "KSampler", model=model, **found, seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler",
                scheduler="normal", denoise=1.0,
            )[0]
        )  # fmt: skip


def _subject(runs: Runs, strengths: tuple[float, ...]) -> Rows:
    models = {s: runs.add("ApplySubject", model=runs.loaded[0], clip=runs.loaded[1], subject=runs.subject, strength=s)[0]
              for s in strengths}  # fmt: skip
    return {f"strength {s:g}": runs.video(model=model, subject=None) for s, model in models.items()}


def load_model(runs: Runs) -> Rows:
    """Two prompts of the base model."""
    prompts = (PLAIN, "a blue square moving up on a black background")
    return {words: runs.video(positive=runs.text(words), subject=None) for words in prompts}


def size(runs: Runs) -> Rows:
    """Two lengths."""
    return {f"{count} frames": runs.video(positive=runs.text(PLAIN), subject=None, latent_image=runs.latent(frames=count))
            for count in (3, 6)}  # fmt: skip


def frame_rate(runs: Runs) -> Rows:
    """Two frame rates."""
    models = {fps: runs.add("FrameRate", model=runs.loaded[0], fps=fps)[0] for fps in (4, 16)}
    return {f"told {fps} frames per second": runs.video(model=model, positive=runs.text(PLAIN), subject=None)
            for fps, model in models.items()}  # fmt: skip


def sampler(runs: Runs) -> Rows:
    """Base model, constant and dynamic."""
    dynamic = sample(runs.graph, {name: link for name, link in runs.found.items() if name != "vae"}, 0, k=15)
    return {
        "no subject": runs.video(subject=None),
        "constant 0.8": runs.video(lambda_s=0.8, k=0),
        "0.4, then 0.8 from step 16": runs.frames(dynamic[0]),
        "strengths": dynamic[1],
    }


def dynamic_subject(runs: Runs) -> Rows:
    """The host's sampler behind it."""
    rows = {}
    for label, strength in {"constant 0.8": (0.8, 0.8, 0), "0.4, then 0.8 from step 16": (0.4, 0.8, 15)}.items():
        given = dict(zip(("lambda_s", "lambda_l", "k"), strength, strict=True))
        model = runs.add(
            "DynamicSubjectWeights", model=runs.loaded[0], clip=runs.loaded[1], subject=runs.subject, **given
        )
        rows[label] = runs.host_sampled(model[0])
    return rows


def dynamic_lora(runs: Runs) -> Rows:
    """The LoRA in the later and in the first steps."""
    rows = {"without LoRA": runs.host_sampled(runs.loaded[0])}
    for label, (first, later) in {"from step 16": (0.0, 0.8), "up to step 15": (0.8, 0.0)}.items():
        model = runs.add(
            "DynamicLoRAWeights", model=runs.loaded[0], lora=DEMO_SUBJECT, lambda_s=first, lambda_l=later, k=15
        )
        rows[label] = runs.host_sampled(model[0])
    return rows


def load_subject(runs: Runs) -> Rows:
    """What it was learned from, and what it gives."""
    return {"learned from": runs.add("DemoPhotos")[0], PROMPT: runs.video(k=15)}


def teach_token(runs: Runs) -> Rows:
    """The word alone, and with what else was learned."""
    return {"the word alone": runs.video(subject=None), "with the subject on the model": runs.video(k=15)}


def ddim(runs: Runs) -> Rows:
    """Two amounts of noise."""
    return {f"eta {eta:g}": runs.video(eta=eta, k=15) for eta in (0.0, 1.0)}


def photos(runs: Runs) -> Rows:
    """What it hands out."""
    given = runs.add("DemoPhotos")
    return {"images": given[0], "prior": given[2]}


def trainer(runs: Runs) -> Rows:
    """Samples and loss."""
    given = runs.add("DemoPhotos")
    trained = runs.add(
        "SubjectTrainer", model=runs.loaded[0], clip=runs.loaded[1], vae=runs.loaded[2], images=given[0],
        captions=given[1], prior=given[2], prior_captions=given[3], class_word=world.CLASS_WORD, name="help_picture",
        preset="demo", sample_every=50, sample_prompt=SAMPLE_PROMPT,
    )  # fmt: skip
    return {"samples": trained[3], "loss": trained[4]}


def evaluate(runs: Runs) -> Rows:
    """A video and its scores."""
    frames = runs.video(k=15)
    return {"frames": frames, "scores": runs.add("EvaluateVideo", frames=frames)[2]}


def sweep(runs: Runs) -> Rows:
    """The sheet."""
    return {"sheet": runs.add("WeightSweep", **_run(runs), subject=runs.subject, lambda_s="0.4", k="5, 10, 15")[0]}


def onset(runs: Runs) -> Rows:
    """The curve."""
    return {"curve": runs.add("MotionOnset", **_run(runs, PLAIN))[1]}


def _run(runs: Runs, prompt: str = PROMPT) -> dict[str, Any]:
    loaded = dict(zip(("model", "clip", "vae"), (runs.loaded[0], runs.loaded[1], runs.loaded[2]), strict=True))
    return {**loaded, "latent_image": runs.found["latent_image"], "prompt": prompt, "seed": SEED, "steps": STEPS,
            "cfg": CFG}  # fmt: skip


def any_model_sweep(runs: Runs) -> Rows:
    """The sheet."""
    model = runs.add("DynamicLoRAWeights", model=runs.loaded[0], lora=DEMO_SUBJECT)[0]
    return {"sheet": runs.add("AnyModelSweep", **_sampled(runs, model), lambda_s="0", k="5, 10, 15")[0]}


def any_model_onset(runs: Runs) -> Rows:
    """The curve."""
    return {"curve": runs.add("AnyModelOnset", **_sampled(runs, runs.loaded[0], PLAIN))[1]}


def _sampled(runs: Runs, model: Link, prompt: str | None = None) -> dict[str, Any]:
    found = {name: runs.found[name] for name in ("positive", "negative", "latent_image", "vae")}
    positive = found["positive"] if prompt is None else runs.text(prompt)
    return {**found, "positive": positive, "model": model, "seed": SEED, "steps": STEPS, "cfg": CFG,
            "sampler_name": "euler", "scheduler": "normal"}  # fmt: skip


PICTURES: dict[str, Callable[[Runs], Rows]] = {
    "LoadVideoCrafter2": load_model,
    "EmptyVideoLatent": size,
    "FrameRate": frame_rate,
    "LoadSubject": load_subject,
    "ApplySubject": lambda runs: _subject(runs, (0.0, 0.4, 0.8)),
    "TeachToken": teach_token,
    "SaveSubject": lambda runs: _subject(runs, (0.6,)),
    "DynamicWeightedKSampler": sampler,
    "DynamicSubjectWeights": dynamic_subject,
    "DynamicLoRAWeights": dynamic_lora,
    "DDIMSampler": ddim,
    "SubjectTrainer": trainer,
    "DemoPhotos": photos,
    "EvaluateVideo": evaluate,
    "WeightSweep": sweep,
    "MotionOnset": onset,
    "AnyModelSweep": any_model_sweep,
    "AnyModelOnset": any_model_onset,
}
"""Node -> what its picture shows."""


def picture(rows: dict[str, np.ndarray]) -> Image.Image:
    """Videos ``(t, h, w, 3)`` as labelled rows, single pictures below them; bytes."""
    videos = [
        SheetRow(label, frames / np.float32(255), "photo" if label in PHOTOS else "frame")
        for label, frames in rows.items()
        if len(frames) > 1
    ]
    parts = [contact_sheet(videos, columns=COLUMNS)] if videos else []
    parts += [Image.fromarray(frames[0]) for frames in rows.values() if len(frames) == 1]
    whole = stack_images(parts)
    if whole.width > WIDTH:
        whole = whole.resize((WIDTH, whole.height * WIDTH // whole.width), Image.Resampling.LANCZOS)
    return whole.quantize(COLORS)


def main(arguments: list[str] | None = None) -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of nodes, without CustomCrafter; all if none is given")
    chosen = parser.parse_args(arguments).only or list(PICTURES)
    FOLDER.mkdir(exist_ok=True)
    with newest_host() as host:
        descriptions = host.get("/object_info")
        for name in chosen:
            graph = Graph(name)
            rows = PICTURES[name](Runs(graph))
            saved = {
                label: graph.add(0, "SaveImage", images=link, filename_prefix=f"{name}{number}")
                for number, (label, link) in enumerate(rows.items())
            }
            outputs = host.run(graph.full_api(descriptions), seconds=1800)
            frames = {label: _read(host.base, outputs[str(node.number)]["images"]) for label, node in saved.items()}
            picture(frames).save(FOLDER / f"{OURS}{name}.png", optimize=True)


def _read(base: Path, files: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(base / "output" / file["filename"]).convert("RGB")) for file in files])


if __name__ == "__main__":
    main()
