"""The Subject Trainer on a real host: end to end, like the command line, stopped and continued, and gone afterwards."""

from __future__ import annotations

import html
import io
import json
import os
import random
import shutil
import subprocess
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import websocket
from PIL import Image

from customcrafter_core.base_model.model import SCALE_FACTOR, VideoCrafter2
from customcrafter_core.diffusion.strength import TwoPhase
from customcrafter_core.files.tensor_file import open_tensor_file
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject
from customcrafter_core.training.checkpoints import STATE
from tests.host.bench import CFG, SEED, SIZE, STEPS, Bench, Scene, distance
from tests.host.listening import Heard, hear, listen
from tests.host.running_host import ROOT, Interrupted, PromptFailed, RunningHost, host_python

COUNT, WIDTH, HEIGHT = 3, 64, 48
SETTINGS = {"steps": 6, "lr": 1e-3, "seed": 4, "frames": 2, "views": 2}
LONG = {**SETTINGS, "steps": 60}
OBJECTS = ("Trainer", "Learner", "Examples", "VideoCrafter2", "_Run", "Watch")
LINES = "a {} at rest\n\na small {}"


def photos(count: int = COUNT, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Noise that stands in for photos, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def as_values(pixels: np.ndarray) -> dict[str, Any]:
    """An IMAGE for the node that takes a tensor from the test."""
    return {"__value__": (pixels.astype(np.float32) / 255).tolist()}


class Course(Scene):
    """A graph that trains."""

    def __init__(self, host: RunningHost, *, fresh: bool = False) -> None:
        super().__init__(host, "float32", "a bear", None)
        self.loaded = {"model": self.model, "clip": self.clip, "vae": self.vae}
        if fresh:
            self.loaded["model"] = self.fresh().model
        self.images = self.add("ProbeTensor", values=as_values(photos()))[0]

    def trainer(self, **changes: Any) -> Any:
        """The Subject Trainer."""
        inputs: dict[str, Any] = {
            **self.loaded, "images": self.images, "class_word": "bear", "token": "<new1>", "name": "trained",
            "preset": "paper", "start": "continue", "captions": LINES, **SETTINGS,
        }  # fmt: skip
        return self.add("CustomCrafterSubjectTrainer", **(inputs | changes))

    def refused(self, **changes: Any) -> str:
        """What is said about inputs that cannot be used; nothing is written."""
        self.trainer(**changes)
        loras = self.host.base / "models" / "loras"
        before = sorted(loras.rglob("*"))
        with pytest.raises(PromptFailed) as failed:
            self.run()
        assert failed.value.kind.endswith("InputError"), failed.value
        assert sorted(loras.rglob("*")) == before
        return failed.value.message


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file."""
    with open_tensor_file(path) as file:
        return {name: file.read(name) for name in file.tensors}


def subject_file(host: RunningHost, name: str) -> Path:
    """Where the trainer writes."""
    return host.base / "models" / "loras" / f"{name}.safetensors"


def test_learns_as_the_command_line_does(bench: Bench, reference_file: Path, tmp_path: Path) -> None:
    for number, pixels in enumerate(photos()):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    for number, caption in enumerate(LINES.splitlines()):
        if caption:
            (tmp_path / f"{number}.txt").write_text(caption)
    course = Course(bench.host)
    course.trainer(name="here")
    course.run()
    options = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
    out = tmp_path / "there.safetensors"
    subprocess.run(
        [host_python(bench.host.folder), "-m", "customcrafter_core", "train", str(tmp_path), "--base",
         str(reference_file), "--class-word", "bear", "--preset", "paper", "--out", str(out), "--device", "cpu",
         *options],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True,
    )  # fmt: skip
    here, there = tensors_of(subject_file(bench.host, "here")), tensors_of(out)
    assert here.keys() == there.keys()
    assert max(distance(here[name], there[name]) for name in here) < 1e-5
    one, other = load_subject(subject_file(bench.host, "here")), load_subject(out)
    assert one.training == other.training and one.trigger == other.trigger and one.steps == other.steps


def test_result_is_used_at_once(bench: Bench, model: VideoCrafter2) -> None:
    """Everything that hangs on the trainer in one graph, and what its outputs hold."""
    course = Course(bench.host)
    trained = course.trainer(name="used", sample_every=3, sample_steps=2)
    strength = {"lambda_s": 0.4, "lambda_l": 0.8, "k": 2}
    lora = course.add(
        "CustomCrafterDynamicLoRAWeights", model=course.model, lora="none", lora_model=trained[1], **strength
    )[0]
    clip = course.add("CustomCrafterTeachToken", clip=course.clip, subject=trained[0])[0]
    positive = course.add("CLIPTextEncode", clip=clip, text="a <new1> bear")[0]
    ours = course.dynamic_sampler(subject=trained[0], positive=positive)
    theirs = course.dynamic_sampler(subject=None, model=lora, positive=positive)
    video, same, loss, samples, picture, tensors = course.result(
        ours[0], theirs[0], trained[2], trained[3], trained[4], trained[1]
    )
    subject = load_subject(subject_file(bench.host, "used"))
    assert subject.steps == SETTINGS["steps"] and subject.thumbnail and subject.trigger == "<new1> bear"
    assert distance(same, video) < 1e-5
    settings = VideoSettings("a <new1> bear", **SIZE, seed=SEED, steps=STEPS, cfg=CFG)
    expected = generate(model, settings, [AppliedSubject(subject, TwoPhase(0.4, 0.8, 2))]).latent / SCALE_FACTOR
    assert distance(video, expected) < 1e-4
    assert len(loss["loss"]) == SETTINGS["steps"] and all(np.isfinite(loss["loss"]))
    assert len(tensors) == 2 * len(subject.factors)
    assert samples.ndim == picture.ndim == 4 and samples.shape[-1] == picture.shape[-1] == 3
    row = samples.shape[1] // 3  # before the first step, after three and after six
    assert not torch.equal(samples[0, :row], samples[0, row : 2 * row])
    described = bench.host.get("/object_info/CustomCrafterLoadSubject")["CustomCrafterLoadSubject"]
    choices = json.dumps(described["input"]["required"]["subject"])
    assert "used.safetensors" in choices and STATE not in choices


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_outputs_fit_the_hosts_own_nodes(bench: Bench, strength: float) -> None:
    """Load LoRA Model, Save LoRA and Plot Loss Graph; the LoRA gives what Apply Subject gives, from its file as well."""
    prefix = f"loras/given_{strength}"
    course = Course(bench.host)
    trained = course.trainer(name="given", lr=1e-2)
    clip = course.add("CustomCrafterTeachToken", clip=course.clip, subject=trained[0])[0]
    positive = course.add("CLIPTextEncode", clip=clip, text="a <new1> bear")[0]
    applied = course.add(
        "CustomCrafterApplySubject", model=course.model, clip=course.clip, subject=trained[0], strength=strength
    )[0]
    loaded = course.add("LoraModelLoader", model=course.model, lora=trained[1], strength_model=strength, bypass=False)[
        0
    ]
    course.add("SaveLoRA" if bench.host.generation == "newer" else "SaveLoRANode", lora=trained[1], prefix=prefix)
    graph = course.add("LossGraphNode", loss=trained[2], filename_prefix="loss")
    videos = [course.host_sampler(model=model, positive=positive)[0] for model in (applied, loaded, course.model)]
    for number, video in enumerate(videos):
        course.keep(video, f"result{number}")
    shown = course.run()[graph.name]["images"]
    expected, found, without = (course.saved(f"result{number}") for number in range(3))
    assert distance(found, expected) < 1e-5
    assert distance(without, expected) > 1e-3, "the LoRA is seen in the video"

    (file,) = (bench.host.base / "output" / "loras").glob(f"given_{strength}_*.safetensors")
    shutil.copy(file, subject_file(bench.host, f"saved_{strength}"))
    course = Course(bench.host)
    subject = course.load_subject("given")
    clip = course.add("CustomCrafterTeachToken", clip=course.clip, subject=subject)[0]
    positive = course.add("CLIPTextEncode", clip=clip, text="a <new1> bear")[0]
    from_file = course.host_sampler(model=course.lora(strength, f"saved_{strength}"), positive=positive)[0]
    assert distance(course.result(from_file), expected) < 1e-5

    place = f"filename={shown[0]['filename']}&type={shown[0]['type']}&subfolder={shown[0]['subfolder']}"
    with urllib.request.urlopen(f"http://127.0.0.1:{bench.host.port}/view?{place}", timeout=30) as answer:
        plotted = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB")).astype(int)
    assert (plotted[..., 2] - plotted[..., 0] > 200).sum() > 100, "the host's blue line"


def stop(course: Course, total: int, at: int) -> tuple[str, int]:
    """Run a graph and press the stop button when the progress bar of so many items says so.

    Returns the last text, and where the bar was when the run had stopped.
    """
    client, heard = uuid.uuid4().hex, Heard()
    socket = websocket.create_connection(f"ws://127.0.0.1:{course.host.port}/ws?clientId={client}", timeout=120)
    try:
        prompt = course.host.queue(course.graph.nodes, client)
        while heard.bar(total) < at:
            assert not hear(heard, socket.recv(), prompt), f"it ended before: {heard.messages[-1]}"
        course.host.post("/interrupt")
        while not hear(heard, socket.recv(), prompt):
            pass
    finally:
        socket.close()
    assert heard.messages[-1][0] == "execution_interrupted", heard.messages[-1]
    with pytest.raises(Interrupted):
        course.host.wait(prompt)
    return heard.texts[-1][1], heard.bar(total)


def interrupted(course: Course, at: int) -> int:
    """Stop a run of the trainer, which says what was kept; returns how many steps that were."""
    text, reached = stop(course, LONG["steps"], at)
    with open_tensor_file(course.host.base / "models" / "loras" / "stopped.training" / STATE) as file:
        kept = len(file.read("history"))
    assert text.endswith(f"Saved at step {kept} of {LONG['steps']}. Run it again to go on from there.")
    assert reached <= kept
    assert course.host.generation == "newer" or kept <= reached + 1, "the step that ran is the last"
    return kept


def test_stopped_anywhere_and_continued_it_is_the_same(bench: Bench) -> None:
    whole = Course(bench.host)
    whole.trainer(name="not_stopped", **LONG)
    whole.run()
    expected = tensors_of(subject_file(bench.host, "not_stopped"))
    stops = sorted(random.sample(range(1, 18), 2))
    for at in stops:
        course = Course(bench.host)
        course.trainer(name="stopped", **LONG)
        kept = interrupted(course, at)
        assert at <= kept < LONG["steps"]
        assert load_subject(subject_file(bench.host, "stopped")).steps == kept
    course = Course(bench.host)
    loss = course.trainer(name="stopped", **LONG)[2]
    trainer = str(len(course.graph.nodes))
    course.keep(loss)
    told = html.unescape(
        "\n".join(text for node, text in listen(bench.host, course.graph.nodes).texts if node == trainer)
    )
    assert f"Goes on from step {kept} of {LONG['steps']}" in told
    assert f"learned in {LONG['steps']} steps, the first {kept} of them before" in told
    assert len(course.saved("value")["loss"]) == LONG["steps"]
    found = tensors_of(subject_file(bench.host, "stopped"))
    assert all(torch.equal(found[name], value) for name, value in expected.items()), stops


def test_start_over_forgets(bench: Bench) -> None:
    course = Course(bench.host)
    course.trainer(name="anew")
    course.run()
    course = Course(bench.host)
    course.trainer(name="anew", seed=9, make_prior=2)
    with pytest.raises(PromptFailed, match="seed 4 then, 9 now"):
        course.run()
    assert not list((bench.host.base / "output" / "customcrafter").rglob("bear_*_stills_9")), "said before that hour"
    course = Course(bench.host)
    course.trainer(name="anew", seed=9, start="start over")
    course.run()
    assert load_subject(subject_file(bench.host, "anew")).training["seed"] == 9


def test_model_is_untouched_and_memory_is_free(bench: Bench) -> None:
    """After a run and after a stop the base model gives the same, and nothing of the training is left."""

    def look() -> tuple[torch.Tensor, dict[str, int]]:
        scene = bench.scene(subject=None, prompt="a dog").fresh()
        latent = scene.result(scene.dynamic_sampler(subject=None)[0])
        scene = bench.scene(subject=None)
        scene.graph.nodes.clear()  # nothing of ours runs when it is counted
        scene.add("ProbeLive", names={"__value__": list(OBJECTS)}, name="live")
        scene.run()
        return latent, scene.saved("live")

    before, counts = look()
    course = Course(bench.host)
    course.trainer(name="untouched", seed=5)
    course.run()
    after, left = look()
    assert torch.equal(before, after)
    assert {**left, "loaded": 0} == {**counts, "loaded": 0}
    course = Course(bench.host)
    course.trainer(name="stopped", start="start over", **LONG)
    interrupted(course, 5)
    after, left = look()
    assert torch.equal(before, after)
    assert {**left, "loaded": 0} == {**counts, "loaded": 0}
    assert left["Trainer"] == left["Learner"] == 0


def test_page_is_told(bench: Bench) -> None:
    course = Course(bench.host)
    course.trainer(name="told", sample_every=4, sample_steps=2, **{**SETTINGS, "steps": 12})
    trainer = str(len(course.graph.nodes))
    heard = listen(bench.host, course.graph.nodes)
    steps = [value for value, end in heard.progress(trainer) if end == 12]
    assert steps == sorted(steps) and steps[-1] == 12
    assert heard.previews and all(max(picture.size) <= 512 for picture in heard.previews)
    told = "\n".join(text for node, text in heard.texts if node == trainer)
    assert "Training takes about" in told
    assert "<new1> bear: learned in 12 steps" in html.unescape(told)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images": {"__value__": np.zeros((0, 48, 64, 3)).tolist()}}, "one photo"),
        ({"class_word": " "}, "class word"),
        ({"token": "dog"}, "already is a word"),
        ({"token": "<a b>"}, "without spaces"),
        ({"token": "(new)"}, "weights"),
        ({"name": "../outside"}, "plain file name"),
        ({"name": "a/b"}, "plain file name"),
        ({"name": ""}, "plain file name"),
        ({"name": "first"}, "which exists"),
        ({"preset": "best"}, "preset"),
        ({"captions": "one {}\ntwo {}"}, "a caption for each of 3 photos"),
        ({"method": "dreamvideo"}, "token_steps"),
        ({"settings": "rank 8"}, "settings such as"),
        ({"settings": "min_snr_gamma = 5.0, rank = 8]"}, "found ']'"),
        ({"settings": 'min_snr_gamma = 5.0, resize = [0.6, 1.2]; loss = "l3"\n'}, "l3"),
        ({"settings": "ranks = 8"}, "unknown: ranks"),
        ({"settings": "width = 60"}, "divisible by"),
        ({"sample_prompt": "a dog"}, "one {}"),
    ],
)
def test_bad_inputs(bench: Bench, changes: dict[str, Any], complaint: str) -> None:
    course = Course(bench.host)
    if "images" in changes:
        changes = {"images": course.add("ProbeTensor", values=changes["images"])[0]}
    try:
        assert complaint in course.refused(**changes)
    except RuntimeError as error:  # newer hosts check choices themselves
        assert "value_not_in_list" in str(error) and "preset" in changes


@pytest.mark.parametrize("count", [1, 30])
def test_one_photo_and_many(bench: Bench, count: int) -> None:
    course = Course(bench.host)
    images = course.add("ProbeTensor", values=as_values(photos(count, width=40, height=56)))[0]
    course.trainer(name=f"of{count}", images=images, captions="")
    course.run()
    assert load_subject(subject_file(bench.host, f"of{count}")).steps == SETTINGS["steps"]


def test_list_of_photos_of_any_size_and_with_transparent_places(bench: Bench) -> None:
    """What is transparent does not count, whatever colour lies under it."""
    first, second = photos(1), photos(1, seed=1, width=40, height=56)
    transparent = np.concatenate([second, np.full((1, 56, 40, 1), 255, np.uint8)], -1)
    transparent[:, :20, :, 3] = 0
    other = transparent.copy()
    other[:, :20, :, :3] = 255 - other[:, :20, :, :3]
    for name, pictures in (("transparent", (first, transparent)), ("other", (first, other))):
        course = Course(bench.host)
        values = [as_values(pixels)["__value__"] for pixels in pictures]
        images = course.add("ProbeTensors", values={"__value__": values})[0]
        course.trainer(name=name, images=images, captions="a {}\n{} alone", steps=2)
        course.run()
    found, expected = (tensors_of(subject_file(bench.host, name)) for name in ("transparent", "other"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_only_what_was_loaded_together(bench: Bench) -> None:
    def other(kind: str) -> str:
        course = Course(bench.host)
        changes = {
            "lora": lambda: {"model": course.lora(0.5)},
            "frame rate": lambda: {"model": course.add("CustomCrafterFrameRate", model=course.model, fps=3)[0]},
            "token": lambda: {
                "clip": course.add("CustomCrafterTeachToken", clip=course.clip, subject=course.load_subject("first"))[0]
            },
            "layer": lambda: {"clip": course.add("CLIPSetLastLayer", clip=course.clip, stop_at_clip_layer=-2)[0]},
            "demo": lambda: {
                "vae": course.add("CustomCrafterLoadVideoCrafter2", checkpoint="customcrafter_demo", dtype="float32")[2]
            },
            "small": lambda: {"model": course.add("ProbeSmallModel", kind="sd15")[0]},
        }[kind]()
        return course.refused(**changes)

    assert "Connect that node's MODEL" in other("lora")
    assert "Connect that node's MODEL" in other("frame rate")
    assert "Connect that node's CLIP" in other("token")
    assert "Connect that node's CLIP" in other("layer")
    assert "one of demo_base.safetensors, while the MODEL is of reference.safetensors" in other("demo")
    assert "found another one" in other("small")


def test_prior_pictures_are_made_once(bench: Bench) -> None:
    def run(name: str) -> list[tuple[str, int]]:
        course = Course(bench.host)
        prior = course.add("ProbeTensor", values=as_values(photos(2, seed=1)))[0]
        course.trainer(name=name, prior=prior, make_prior=3)
        course.run()
        kept = (bench.host.base / "output" / "customcrafter" / "prior").rglob("*.png")
        return sorted((path.name, path.stat().st_mtime_ns) for path in kept)

    first = run("with_prior")
    assert len(first) == 3
    assert run("with_prior_again") == first
    one, again = (tensors_of(subject_file(bench.host, name)) for name in ("with_prior", "with_prior_again"))
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_prior_clips_of_another_base_model_have_a_folder_of_their_own(bench: Bench) -> None:
    """Nobody can choose the folder on the page, so one that is taken must not be in the way."""
    folder = bench.host.base / "output" / "customcrafter" / "prior"

    def run(name: str) -> list[Path]:
        course = Course(bench.host)
        course.trainer(name=name, class_word="goat", steps=1, make_prior=1, prior_clips=True)
        course.run()
        return sorted(folder.glob("goat_*_clips_*"))

    (first,) = run("goat")
    assert Image.open(first / "prior-00000.webp").n_frames > 1
    record = json.loads((first / "prior.json").read_text())
    base = json.loads(record["base"])
    other = {**base, "numbers": [2 * number for number in base["numbers"]]}
    (first / "prior.json").write_text(json.dumps({**record, "base": json.dumps(other)}))
    kept = (first / "prior.json").read_bytes()
    found = run("another_goat")
    assert [path.name for path in found] == [first.name, f"{first.name}_2"]
    assert (found[1] / "prior-00000.webp").is_file() and (first / "prior.json").read_bytes() == kept
    assert run("goat_again") == found


def test_making_prior_pictures_can_be_stopped(bench: Bench) -> None:
    folder, count = bench.host.base / "output" / "customcrafter" / "prior", 13
    prior = {"make_prior": count, "class_word": "cat", "steps": 1, "name": "cat"}
    course = Course(bench.host)
    course.trainer(**prior)
    stop(course, count, 2)
    kept = sorted(folder.glob("cat_*/*.png"))
    assert 2 <= len(kept) < count and not subject_file(bench.host, "cat").exists()
    times = [path.stat().st_mtime_ns for path in kept]
    course = Course(bench.host)
    course.trainer(**prior)
    course.run()
    assert len(list(folder.glob("cat_*/*.png"))) == count
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_half_precision_is_trained_in_bfloat16(bench: Bench) -> None:
    course = Course(bench.host)
    loaded = course.add("CustomCrafterLoadVideoCrafter2", checkpoint="reference.safetensors", dtype="float16")
    course.trainer(name="half", model=loaded[0], clip=loaded[1], vae=loaded[2])
    course.trainer(name="precise")
    course.run()
    half, precise = (tensors_of(subject_file(bench.host, name)) for name in ("half", "precise"))
    ups = [name for name in precise if ".lora_B." in name]
    assert 1e-4 < float(np.median([distance(half[name], precise[name]) for name in ups])) < 0.5
