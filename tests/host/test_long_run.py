"""A long day of one host: many queues of every kind in a row, and its sudden end in the middle of each kind.

``LONG_RUN=100`` adds 100 queues in a row to the few, and looks at the host's memory.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from customcrafter_core.files.tensor_file import open_tensor_file
from customcrafter_core.subject.file import load_subject
from customcrafter_core.training.checkpoints import STATE
from tests.host.bench import Bench
from tests.host.graphs import Graph
from tests.host.listening import started
from tests.host.running_host import NO_HOST, Interrupted, PromptFailed, RunningHost, found_hosts, host_version

FEW = 8
QUEUES = int(os.environ.get("LONG_RUN", "0"))
NEEDED = 40  # fewer do not tell growth from warming up
WARM = 0.3  # of the queues: what the host keeps for itself is loaded by then
GROWTH = 0.02
MODEL, SUBJECT = "customcrafter_demo", "customcrafter_demo_subject"
SAMPLER = "CustomCrafterDynamicWeightedKSampler"

FOUND = found_hosts() or [None]
KILLED = FOUND if FOUND == [None] or "LONG_RUN" in os.environ else [max(found_hosts(), key=host_version)]
"""Hosts that are killed: in a short run the newest, for each has to start five times."""


@pytest.fixture(params=FOUND, ids=lambda folder: folder.name if folder else "no host")
def own_host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningHost]:
    """A host of its own, which may be killed."""
    if request.param is None:
        pytest.skip(f"{NO_HOST}: set COMFYUI_PATH to its folder")
    running = RunningHost(request.param, tmp_path)
    try:
        yield running.start()
    finally:
        running.stop()


def video(seed: int, steps: int = 6, name: str = "long_run", **strength: Any) -> Graph:
    """A video of the demo subject, saved as pictures; nothing of the sampling comes from the host's cache."""
    graph = Graph()
    loaded = graph.add("CustomCrafterLoadVideoCrafter2", checkpoint=MODEL, dtype="default")
    model = graph.add("ProbeFresh", model=loaded[0])[0]
    subject = graph.add("CustomCrafterLoadSubject", subject=SUBJECT)[0]
    clip = graph.add("CustomCrafterTeachToken", clip=loaded[1], subject=subject)[0]
    text = [graph.add("CLIPTextEncode", clip=clip, text=words)[0] for words in ("a <new1> toy moving left", "")]
    latent = graph.add("CustomCrafterEmptyVideoLatent", width=32, height=32, frames=8, batch_size=1, model=model)
    latents = graph.add(
        SAMPLER, model=model, subject=subject, positive=text[0], negative=text[1],
        latent_image=latent[0], seed=seed, steps=steps, cfg=3.5, eta=1.0, sampler_name="ddim_videocrafter2",
        scheduler="ddim_uniform", denoise=1.0, **({"lambda_s": 0.4, "lambda_l": 0.8, "k": 2} | strength),
    )  # fmt: skip
    pixels = graph.add("VAEDecode", samples=latents[0], vae=loaded[2])
    graph.add("SaveImage", images=pixels[0], filename_prefix=name)
    return graph


def training(name: str, steps: int, start: str = "start over") -> Graph:
    """A subject from the demo's photos."""
    graph = Graph()
    loaded = graph.add("CustomCrafterLoadVideoCrafter2", checkpoint=MODEL, dtype="default")
    photos = graph.add("CustomCrafterDemoPhotos")
    graph.add(
        "CustomCrafterSubjectTrainer", model=loaded[0], clip=loaded[1], vae=loaded[2], images=photos[0],
        captions=photos[1], class_word="toy", token="<new1>", name=name, preset="demo", steps=steps, lr=0.0, seed=0,
        start=start, checkpoint_every=2, batch=1,
    )  # fmt: skip
    return graph


def sampled(host: RunningHost, graph: Graph) -> str:
    """Queue a video and wait until its sampling has begun; returns the run's id."""
    (sampler,) = (name for name, node in graph.nodes.items() if node["class_type"] == SAMPLER)
    return started(host, graph.nodes, sampler)


def generate(host: RunningHost, number: int) -> None:
    """A video, another one each time."""
    assert host.run(video(number).nodes)


def interrupt(host: RunningHost, number: int) -> None:
    """A video that is cancelled while it is sampled."""
    prompt = sampled(host, video(number, steps=1000))
    host.post("/interrupt")
    with pytest.raises(Interrupted):
        host.wait(prompt)


def train(host: RunningHost, number: int) -> None:
    """A few steps of training, from the start each time."""
    assert host.run(training("long_run", steps=3 + number % 2).nodes)
    assert (host.base / "models" / "loras" / "long_run.safetensors").is_file()


def wrong(host: RunningHost, number: int) -> None:
    """An input that is refused."""
    with pytest.raises(PromptFailed) as failure:
        host.run(video(number, curve="nonsense").nodes)
    assert "progress:strength" in failure.value.message


KINDS: list[Callable[[RunningHost, int], None]] = [generate, interrupt, train, wrong]


def wait_for(there: Callable[[], Any], host: RunningHost, seconds: float = 120) -> None:
    """Wait until something is there."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, host.log[-3000:]
        time.sleep(0.05)


def test_a_few_queues(bench: Bench) -> None:
    """No failure that was not asked for, and the same video as at first."""
    queues_in_a_row(bench.host, FEW)


@pytest.mark.skipif(QUEUES < NEEDED, reason=f"growth of memory shows from LONG_RUN={NEEDED} on")
def test_memory_of_many_queues(own_host: RunningHost) -> None:
    """The same many times; after the first rounds memory stays as it is."""
    sizes = queues_in_a_row(own_host, QUEUES)
    warm = sizes[round(len(sizes) * WARM) :]
    told = [size >> 20 for size in sizes]
    print(f"{own_host.version}: {len(sizes) * len(KINDS)} queues, MB after each round: {told}")
    assert max(warm) <= warm[0] * (1 + GROWTH), told


def queues_in_a_row(host: RunningHost, count: int) -> list[int]:
    """Rounds of every kind; the host's memory in bytes after each round."""
    first, sizes = generated(host), []
    for number in range(count // len(KINDS)):
        for kind in KINDS:
            kind(host, number)
        sizes.append(host.memory())
    assert host.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert (generated(host) == first).all(), "the same video as at first"
    return sizes


def generated(host: RunningHost) -> Any:
    """The frames of one and the same video, made anew."""
    outputs = host.run(video(7777, name=f"same_{time.monotonic_ns()}").nodes)
    saved = [host.base / "output" / shown["filename"] for out in outputs.values() for shown in out.get("images", [])]
    frames = [np.asarray(Image.open(path)) for path in saved if path.is_file()]
    assert len(frames) == 8
    return np.stack(frames)


@pytest.mark.parametrize("own_host", KILLED, ids=lambda folder: folder.name if folder else "no host", indirect=True)
def test_killed_in_the_middle_of_everything(own_host: RunningHost) -> None:
    """The host is killed while it samples, while it trains, while it loads; afterwards all that was there still is."""
    own_host.run(training("kept", steps=4).nodes)
    loras = own_host.base / "models" / "loras"
    kept = {path: path.read_bytes() for path in sorted(loras.rglob("*")) if path.is_file()}
    assert loras / "kept.safetensors" in kept
    first = generated(own_host)

    sampled(own_host, video(1, steps=1000))
    killed_and_back(own_host)

    own_host.queue(training("cut_off", steps=100_000).nodes)
    wait_for((loras / "cut_off.training" / STATE).is_file, own_host)
    killed_and_back(own_host)
    done = steps_done(loras / "cut_off.training" / STATE)
    own_host.run(training("cut_off", steps=done + 2, start="continue").nodes)
    assert done >= 2 and load_subject(loras / "cut_off.safetensors").steps == done + 2, "it went on"

    own_host.queue(video(2).nodes)  # a fresh process: it has the model to load
    killed_and_back(own_host)

    assert {path: path.read_bytes() for path in kept} == kept
    assert (generated(own_host) == first).all()


def steps_done(state: Path) -> int:
    """How far a killed run had got."""
    with open_tensor_file(state) as file:
        return len(file.read("history"))


def killed_and_back(host: RunningHost) -> None:
    """SIGKILL to the host and what it started, then a new one in the same folders."""
    assert host.process is not None
    os.killpg(host.process.pid, signal.SIGKILL)
    host.process.wait()
    host.start()
