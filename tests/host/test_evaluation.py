"""Evaluate Video, Weight Sweep and Motion Onset: the core's numbers, the sampler's videos, nothing half done."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.demo.run import load_demo_base
from customcrafter_core.evaluation.scoring import CLIP_I, CLIP_T, CONSISTENCY, DINO_I, MOTION, open_scorer
from customcrafter_core.experiments.motion_onset import MotionOnset, motion_onset
from customcrafter_core.sampling.settings import VideoSettings
from tests.core import small_encoders
from tests.host.bench import CFG, PROMPT, SEED, SIZE, STEPS, Bench, Scene, distance
from tests.host.graphs import Node
from tests.host.listening import listen
from tests.host.running_host import LOST, Interrupted, PromptFailed, found_hosts, host_python, host_version

SIDE = small_encoders.SIDE  # pictures of the encoders' own size: nothing is scaled
PAPERS_K = 5


def noise(count: int, seed: int = 0) -> torch.Tensor:
    """Frames ``(count, SIDE, SIDE, 3)`` of whole bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=generator) / 255


def image(scene: Scene, values: torch.Tensor) -> list[Any]:
    """An IMAGE of the test's."""
    return scene.add("ProbeTensor", values={"__value__": values.tolist()})[0]


def evaluate(bench: Bench, frames: torch.Tensor, photos: torch.Tensor | None = None, **inputs: Any) -> list[Any]:
    """Text, JSON and picture of Evaluate Video."""
    scene = bench.scene(subject=None)
    if inputs.pop("vision", None):
        inputs["clip_vision"] = scene.add("ProbeClipVision", folder="clip")[0]
    if photos is not None:
        inputs["photos"] = image(scene, photos)
    given = {"frames": image(scene, frames), "prompt": "", "fps": 8, **inputs}
    node = scene.add("CustomCrafterEvaluateVideo", **given)
    text, record, picture = scene.result(node[0], node[1], node[2])
    return [text, json.loads(record), picture]


def refused(run: Any) -> str:
    """What is said about inputs that cannot be used."""
    with pytest.raises(PromptFailed) as failed:
        run()
    assert failed.value.kind.endswith("InputError"), failed.value
    return failed.value.message


@pytest.fixture
def folders(bench: Bench) -> Iterator[dict[str, Path]]:
    """A CLIP and a DINO in the host's folder of image encoders, which is empty again afterwards."""
    root = bench.host.base / "models" / "clip_vision"
    yield {"clip": small_encoders.write_clip(root / "clip"), "dino": small_encoders.write_dino(root / "dino")}
    for name in ("clip", "dino"):
        shutil.rmtree(root / name)


def test_motion_without_models(bench: Bench) -> None:
    text, record, picture = evaluate(bench, noise(6), prompt="a bear")
    assert list(record["means"]) == [MOTION] and f"{MOTION}: 0.000" in text and "Video 1" not in text
    assert set(record["absent"]) == {CLIP_T, CLIP_I, DINO_I, CONSISTENCY, "Dynamic degree"}
    for name in ("openai/clip-vit-base-patch32", "facebook/dino-vits16", "raft_large"):
        assert name in text
    assert picture.ndim == 4 and picture.std() > 0.05


def test_scores_are_the_cores(bench: Bench, folders: dict[str, Path]) -> None:
    frames, photos = noise(6), noise(2, seed=1)
    scorer = open_scorer(**folders)
    expected = scorer.score(frames, PROMPT, photos)
    text, record, _ = evaluate(bench, frames, photos, prompt=PROMPT, clip="clip", dino="dino")
    assert record["videos"] == [pytest.approx(expected, abs=1e-5)]
    assert set(expected) == {CLIP_T, CLIP_I, DINO_I, CONSISTENCY, MOTION}
    assert "cannot be compared with the paper's" in text and f"{DINO_I}: {expected[DINO_I]:.3f}" in text
    literal = replace(scorer, literal=True).score(frames, PROMPT)
    _, record, _ = evaluate(bench, frames, prompt=PROMPT, clip="clip", literal=True)
    assert record["means"] == pytest.approx(literal, abs=1e-5)
    assert literal[CLIP_T] != pytest.approx(expected[CLIP_T], abs=1e-5)
    text, record, _ = evaluate(bench, frames, photos, clip="clip", videos=2)
    halves = [scorer.score(half, photos=photos) for half in frames.split(3)]
    assert [video[CLIP_I] for video in record["videos"]] == pytest.approx([half[CLIP_I] for half in halves], abs=1e-5)
    lines = [line for line in text.splitlines() if line.startswith("Video ")]
    expected = [", ".join(f"{name} {value:.3f}" for name, value in video.items()) for video in record["videos"]]
    assert lines == [f"Video 1: {expected[0]}", f"Video 2: {expected[1]}"]


def test_clip_vision_of_the_host(bench: Bench, folders: dict[str, Path]) -> None:
    frames, photos = noise(4), noise(2, seed=1)
    expected = open_scorer(clip=folders["clip"]).score(frames, photos=photos)
    text, record, _ = evaluate(bench, frames, photos, prompt=PROMPT, vision=True)
    assert record["means"] == pytest.approx(expected, abs=1e-3)
    assert CLIP_T in record["absent"] and "the text part of CLIP" in text
    assert "one CLIP" in refused(lambda: evaluate(bench, frames, vision=True, clip="clip"))


RAFT = """
import json, sys, torch
from torchvision.models.optical_flow import raft_large
torch.manual_seed(0)
model, video = raft_large(weights=None).eval(), torch.tensor(json.load(sys.stdin)).permute(0, 3, 1, 2) * 2 - 1
for name, share in (("loud", 1.0), ("quiet", 0.1)):
    for parameter in model.update_block.flow_head.conv2.parameters():
        parameter.data *= share
    torch.save(model.state_dict(), f"{sys.argv[1]}/{name}.pth")
    with torch.no_grad():
        flow = model(video[:1], video[1:], num_flow_updates=20)[-1][0]
    print(flow.norm(dim=0).flatten().topk(int(0.05 * flow[0].numel())).values.mean().item())
"""


@pytest.fixture
def flows(bench: Bench) -> Iterator[Path]:
    """The host's folder of optical flow, which is empty again afterwards."""
    folder = bench.host.base / "models" / "optical_flow"
    folder.mkdir(exist_ok=True)
    yield folder
    for path in folder.iterdir():
        path.unlink()


def test_dynamic_degree_of_raft(bench: Bench, flows: Path) -> None:
    """Against torchvision's own network, of random weights, and VBench's rule in a line."""
    if bench.host.folder != max(found_hosts(), key=host_version):
        pytest.skip("it is the same torchvision; the newest host tests it")
    frames = torch.randint(0, 256, (2, 128, 128, 3), generator=torch.Generator().manual_seed(0)) / 255
    ran = subprocess.run(
        [host_python(bench.host.folder), "-c", RAFT, str(flows)], input=json.dumps(frames.tolist()),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [float(float(speed) > 6 * 128 / 256) for speed in ran.stdout.split()]
    assert expected == [1.0, 0.0]
    for name, degree in zip(("loud", "quiet"), expected, strict=True):
        text, record, _ = evaluate(bench, frames, raft=f"{name}.pth")
        assert record["means"]["Dynamic degree"] == degree and "Dynamic degree" not in record["absent"]
        assert f"Dynamic degree: {degree:.3f}" in text


def test_what_cannot_be_scored(bench: Bench) -> None:
    assert "2 videos of the same length" in refused(lambda: evaluate(bench, noise(5), videos=2))
    assert "at least two frames" in refused(lambda: evaluate(bench, noise(1)))


RUN = {"seed": SEED, "steps": STEPS, "cfg": CFG, "eta": 1.0, "prompt": PROMPT, "negative": ""}


def onset_node(scene: Scene, **changes: Any) -> Node:
    """Motion Onset."""
    given = {"model": scene.model, "clip": scene.clip, "vae": scene.vae, "latent_image": scene.latent, **RUN}
    return scene.add("CustomCrafterMotionOnset", **(given | changes))


def sweep_node(scene: Scene, **changes: Any) -> Node:
    """Weight Sweep: two λs that differ for two or three steps, and one that never differs from λl."""
    given = {
        "model": scene.model, "clip": scene.clip, "vae": scene.vae, "latent_image": scene.latent,
        "subject": scene.subject, "lambda_s": "0.4, 0.8", "lambda_l": "0.8", "k": "2,3", **RUN,
    }  # fmt: skip
    return scene.add("CustomCrafterWeightSweep", **(given | changes))


def check_onset(found: list[Any], expected: MotionOnset) -> None:
    """Text, K and video of the node against the core's."""
    k, curve, text, frames = found
    rows = [line.replace("%", "").split() for line in text.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == list(range(1, len(expected.motion) + 1))
    assert [float(row[1]) / 100 for row in rows] == pytest.approx(expected.motion, abs=2e-3)
    assert [float(row[2]) / 100 for row in rows] == pytest.approx(expected.detail, abs=2e-3)
    assert k == (expected.suggested_k or PAPERS_K)
    assert ("does not move" in text) == (expected.suggested_k is None)
    assert distance(frames, expected.frames) < 1e-3
    assert curve.shape[-1] == 3


@pytest.mark.parametrize("cfg", [CFG, 1.0])
def test_onset_is_the_cores(bench: Bench, model: VideoCrafter2, cfg: float) -> None:
    expected = motion_onset(model, VideoSettings("a bear", **SIZE, seed=SEED, steps=STEPS, cfg=cfg))
    scene = bench.scene(subject=None)
    node = onset_node(scene, prompt="a bear", cfg=cfg)
    check_onset(scene.result(*(node[i] for i in range(4))), expected)


def test_onset_of_what_moves(bench: Bench) -> None:
    """With the demo model, whose videos move, there is a K to suggest."""
    base = load_demo_base()
    prompt = "a red circle moves right"
    expected = motion_onset(base, VideoSettings(prompt, seed=3, steps=20))
    assert expected.suggested_k is not None
    scene = bench.scene(subject=None)
    scene.graph.nodes["1"]["inputs"]["checkpoint"] = "customcrafter_demo"
    size = base.defaults
    scene.latent = scene.add(
        "CustomCrafterEmptyVideoLatent", width=size.width, height=size.height, frames=size.frames, batch_size=1,
        model=scene.model,
    )[0]  # fmt: skip
    node = onset_node(scene, prompt=prompt, seed=3, steps=20, cfg=size.cfg)
    check_onset(scene.result(*(node[i] for i in range(4))), expected)


def test_sweep_is_the_sampler_bit_for_bit(bench: Bench) -> None:
    scene = bench.scene().fresh()
    sheet, table, frames = scene.result(*(sweep_node(scene)[i] for i in range(3)))
    alone = bench.scene()
    nodes = [alone.dynamic_sampler(*values) for values in ((0.4, 0.8, 2), (0.4, 0.8, 3), (0.8, 0.8, 2))]
    videos = alone.result(*(alone.add("VAEDecode", samples=node[0], vae=alone.vae)[0] for node in nodes))
    assert torch.equal(frames, torch.cat(videos))
    assert not torch.equal(videos[0], videos[1])
    lines = table.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == [
        "λs 0.4, λl 0.8, K 2",
        "λs 0.4, λl 0.8, K 3",
        "constant λ 0.8",
    ]
    # 0.4 for two steps, which both share; then three steps of the one and three of the other; five of the constant
    assert lines[3].startswith("13 of 15 steps computed")
    assert sheet.shape[0] == 1 and sheet.shape[-1] == 3


def test_sweep_is_watched_and_stopped(bench: Bench) -> None:
    scene = bench.scene().fresh()
    node = sweep_node(scene)
    scene.keep(node[0])
    heard = listen(bench.host, scene.graph.nodes)
    assert heard.progress(node.name)[:13] == [(step, 13) for step in range(1, 14)]
    assert heard.previews[-1].format == "PNG" and "steps computed" in dict(heard.texts)[node.name]
    expected = scene.saved("value")
    stopped = bench.scene()
    broken = stopped.add("ProbeFault", model=stopped.model, kind="interrupt", step=3, layer="")[0]
    stopped.keep(sweep_node(stopped, model=broken)[0])
    with pytest.raises(Interrupted):
        stopped.run()
    again = bench.scene().fresh()
    assert torch.equal(again.result(sweep_node(again)[0]), expected)


@pytest.mark.parametrize("kind", ["sweep", "onset", "sampler", "weights"])
def test_no_circle_holds_the_model(bench: Bench, kind: str) -> None:
    """What a circle of references holds is freed late and out of order; the host then takes the model for lost."""
    bench.host.post("/free", {"unload_models": True})
    start = len(bench.host.log)
    for _ in range(3):
        scene = bench.scene().fresh()
        make = {"sweep": sweep_node, "onset": onset_node, "sampler": lambda scene: scene.dynamic_sampler(),
                "weights": lambda scene: scene.host_sampler(model=scene.dynamic_weights())}[kind]  # fmt: skip
        scene.add("ProbeLive", names={"__value__": []}, name="live")  # collects garbage before anything is loaded
        scene.result(make(scene)[0])
    assert LOST not in bench.host.log[start:]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lambda_s": "0.2; 0.4"}, "a list of numbers in lambda_s"),
        ({"lambda_l": "nan"}, "a list of strengths in lambda_l"),
        ({"k": "2.5"}, "a list of whole numbers of 0 or more in k"),
        ({"k": "2, -1"}, "a list of whole numbers of 0 or more in k"),
        ({"k": ""}, "a list of whole numbers of 0 or more in k"),
        ({"lambda_s": ",".join(f"{i / 100}" for i in range(40)), "k": "1,2"}, "at most 64 combinations"),
        ({"prompt": "a bear"}, "<new1> in the positive prompt"),
    ],
)
def test_sweep_of_what_is_no_list(bench: Bench, changes: dict[str, Any], said: str) -> None:
    scene = bench.scene()
    scene.keep(sweep_node(scene, **changes)[0])
    assert said in refused(scene.run)


@pytest.mark.parametrize("size", [{"batch_size": 2}, {"frames": 1}])
def test_only_one_video_at_a_time(bench: Bench, size: dict[str, int]) -> None:
    scene = bench.scene()
    scene.latent = scene.add("CustomCrafterEmptyVideoLatent", **{**SIZE, "batch_size": 1, **size})[0]
    scene.keep(onset_node(scene)[0])
    assert "one video of two frames or more" in refused(scene.run)
