"""In a real ComfyUI: sampling against bare forward passes, dynamic strength against the host's own ways, start-up.

The host is the newest of ``COMFYUI_PATH`` or of ``~/comfy/*``. On a CPU the time is the processor time of its process,
on a GPU the time until the host says that it is done.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from customcrafter_core.base_model.networks import Networks
from customcrafter_core.base_model.writing import write_checkpoint
from customcrafter_core.subject.file import save_subject

from .results import Row, Section, at_most, missing
from .sampling import random_subject
from .setup import Setup, random_model
from .timing import Timings

ROOT = Path(__file__).parents[1]
if TYPE_CHECKING:
    from tests.host.graphs import Graph
    from tests.host.running_host import RunningHost

NODES = Path(__file__).parent / "host_nodes"
STEPS = 8
MOST_OF_BARE, MOST_SECONDS_OF_START = 1.03, 0.3
NO_HOST = "no ComfyUI found; set COMFYUI_PATH to its folder"
CHECKPOINT, SUBJECT = "benchmark.safetensors", "benchmark_subject.safetensors"


def measure(setup: Setup) -> Section:
    """Whole graphs in turns, from a model that is loaded."""
    how = (
        f"Whole graphs of {steps_of(setup)} steps with guidance and previews in the host ({setup.size}), over the bare "
        "forward passes in the same process. The two ways that the host has for changing a LoRA's strength on the way are beside ours."
    )
    with _host(setup) as host:
        if host is None:
            return Section("host", "Sampling in the host", how, [missing("all", NO_HOST)])
        _write_model(setup, host.base / "models")
        timings = _in_turns(host, setup)
        name, python = f"ComfyUI {host.version}", host.python
    rows = [
        at_most("KSampler, base model", timings.ratio("base", "bare"), MOST_OF_BARE, timings.both("base", "bare")),
        at_most("Dynamic Weighted KSampler", timings.ratio("ours", "bare"), MOST_OF_BARE, timings.both("ours", "bare")),
        Row("two KSampler Advanced + two LoraLoader / ours", timings.both("two samplers", "ours")),
        Row("hook keyframes / ours", timings.both("hooks", "ours")),
    ]
    medians = ", ".join(f"{way} {timings.median(way):.3f} s" for way in timings)
    return Section("host", "Sampling in the host", how, rows, [f"{name}. Medians: {medians}."], python=python)


def measure_start(setup: Setup) -> Section:
    """Starts with the pack and without it, in turns."""
    how = "The host started with this pack and without any, in turns, until it answers: time of its process."
    seconds = Timings({"with": [], "without": []})
    for _ in range(setup.rounds + 1):  # the first start of each fills the system's cache
        for way, packs in (("with", ("customcrafter",)), ("without", ())):
            with _host(setup, packs) as host:
                if host is None:
                    return Section("start", "Start-up", how, [missing("all", NO_HOST)])
                seconds[way].append(_seconds(host))
                python = host.python
    seconds = Timings({way: values[1:] for way, values in seconds.items()})
    more = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    median = sorted(more)[len(more) // 2]
    shown = f"{median:.2f} ({min(more):.2f} to {max(more):.2f})"
    rows = [at_most("seconds added to the host's start", median, MOST_SECONDS_OF_START, shown)]
    return Section("start", "Start-up", how, rows, [f"Without: {seconds.median('without'):.2f} s."], python=python)


def steps_of(setup: Setup) -> int:
    """On a GPU as many as people take: with fewer, asking the host whether it is done would count."""
    return setup.steps(50 if setup.device.type == "cuda" else STEPS)


@contextmanager
def _host(setup: Setup, packs: tuple[str, ...] = ("customcrafter", "benchmark_nodes")) -> Iterator[RunningHost | None]:
    from tests.host.running_host import RunningHost, found_hosts, host_version

    found = found_hosts()
    if not found:
        print(NO_HOST, file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory(dir=setup.folder) as base:
        links = {"customcrafter": ROOT, "benchmark_nodes": NODES}
        host = RunningHost(max(found, key=host_version), Path(base), on_cpu=setup.device.type == "cpu")
        host.arguments = ("--whitelist-custom-nodes", *(packs or ("none",)))  # the last one counts
        (Path(base) / "custom_nodes").mkdir(parents=True)
        for pack in packs:
            (Path(base) / "custom_nodes" / pack).symlink_to(links[pack], target_is_directory=True)
        try:
            yield host.start()
        finally:
            host.stop()


def _write_model(setup: Setup, models: Path) -> None:
    """A checkpoint of the setup's size with random weights, and a subject of it, where the host looks for them."""
    model = random_model(setup)
    write_checkpoint(
        models / "checkpoints" / CHECKPOINT, Networks(model.unet, model.text_encoder, model.vae), model.config,
        defaults=model.defaults, dtype=setup.dtype,
    )  # fmt: skip
    save_subject(random_subject(model), models / "loras" / SUBJECT)


def _in_turns(host: RunningHost, setup: Setup) -> Timings:
    numbers = count(1)
    ways: dict[str, Callable[[_Given], Graph]] = {
        "bare": _bare, "base": _base, "ours": _ours, "two samplers": _two_samplers, "hooks": _hooks,
    }  # fmt: skip
    seconds = Timings({way: [] for way in ways})
    for way, make in [*ways.items()] * setup.rounds:
        for _ in range(2):  # the first time the host may load anew what the way before has changed
            took = _run(host, make(_Given(next(numbers), steps_of(setup), setup.latent, setup.dtype_name)), setup)
        seconds[way].append(took)
    return seconds


def _run(host: RunningHost, graph: Graph, setup: Setup) -> float:
    before, started = _seconds(host), time.perf_counter()
    host.run(graph.nodes, 3600)
    return _seconds(host) - before if setup.device.type == "cpu" else time.perf_counter() - started


def _seconds(host: RunningHost) -> float:
    assert host.process is not None
    times = psutil.Process(host.process.pid).cpu_times()
    return times.user + times.system


@dataclass(frozen=True)
class _Given:
    """What the graph of a run is made from."""

    seed: int
    steps: int
    latent: tuple[int, int, int]
    dtype: str

    @property
    def k(self) -> int:
        """Steps at the first strength."""
        return self.steps // 4 or 1


def _scene(given: _Given) -> tuple[Graph, dict[str, Any]]:
    """A graph with the model, prompts and an empty latent; the host keeps them from run to run."""
    from tests.host.graphs import Graph

    graph = Graph()
    loaded = graph.add("CustomCrafterLoadVideoCrafter2", checkpoint=CHECKPOINT, dtype=given.dtype)
    subject = graph.add("CustomCrafterLoadSubject", subject=SUBJECT)[0]
    clip = graph.add("CustomCrafterTeachToken", clip=loaded[1], subject=subject)[0]
    positive = graph.add("CLIPTextEncode", clip=clip, text="a <new1> cup")[0]
    negative = graph.add("CLIPTextEncode", clip=clip, text="")[0]
    frames, height, width = given.latent
    size = {"width": 8 * width, "height": 8 * height, "frames": frames, "batch_size": 1}
    latent = graph.add("CustomCrafterEmptyVideoLatent", **size, model=loaded[0])[0]
    return graph, {
        "model": loaded[0], "subject": subject, "positive": positive, "negative": negative, "latent": latent,
    }  # fmt: skip


def _sampled(graph: Graph, latent: Any) -> Graph:
    graph.add("SaveLatent", samples=latent, filename_prefix="benchmark")
    return graph


def _bare(given: _Given) -> Graph:
    graph, s = _scene(given)
    graph.add(
        "BenchmarkBareForwards",
        model=s["model"], positive=s["positive"], latent=s["latent"], steps=given.steps, seed=given.seed,
    )  # fmt: skip
    return graph


def _ksampler(s: dict[str, Any], given: _Given) -> dict[str, Any]:
    return {
        "model": s["model"], "positive": s["positive"], "negative": s["negative"], "latent_image": s["latent"],
        "seed": given.seed, "steps": given.steps, "cfg": 5.0, "sampler_name": "ddim",
        "scheduler": "ddim_uniform", "denoise": 1.0,
    }  # fmt: skip


def _base(given: _Given) -> Graph:
    graph, s = _scene(given)
    return _sampled(graph, graph.add("KSampler", **_ksampler(s, given))[0])


def _ours(given: _Given) -> Graph:
    graph, s = _scene(given)
    own = {"subject": s["subject"], "eta": 0.0, "lambda_s": 0.4, "lambda_l": 0.8, "k": given.k}
    return _sampled(graph, graph.add("CustomCrafterDynamicWeightedKSampler", **_ksampler(s, given), **own)[0])


def _two_samplers(given: _Given) -> Graph:
    graph, s = _scene(given)
    latent = s["latent"]
    for strength, start, end in ((0.4, 0, given.k), (0.8, given.k, given.steps)):
        model = graph.add("LoraLoaderModelOnly", model=s["model"], lora_name=SUBJECT, strength_model=strength)[0]
        latent = graph.add(
            "KSamplerAdvanced",
            model=model, positive=s["positive"], negative=s["negative"], latent_image=latent,
            add_noise="enable" if start == 0 else "disable", noise_seed=given.seed, steps=given.steps, cfg=5.0,
            sampler_name="ddim", scheduler="ddim_uniform", start_at_step=start, end_at_step=end,
            return_with_leftover_noise="enable" if end < given.steps else "disable",
        )[0]  # fmt: skip
    return _sampled(graph, latent)


def _hooks(given: _Given) -> Graph:
    graph, s = _scene(given)
    hooks = graph.add("CreateHookLoraModelOnly", lora_name=SUBJECT, strength_model=1.0)[0]
    frames: Any = None
    for strength, start in ((0.4, 0.0), (0.8, given.k / given.steps)):
        frames = graph.add("CreateHookKeyframe", strength_mult=strength, start_percent=start, prev_hook_kf=frames)[0]
    hooks = graph.add("SetHookKeyframes", hooks=hooks, hook_kf=frames)[0]
    both = dict(s)
    for side in ("positive", "negative"):
        both[side] = graph.add("PairConditioningSetProperties", **_pair(s, hooks))[0 if side == "positive" else 1]
    return _sampled(graph, graph.add("KSampler", **_ksampler(both, given))[0])


def _pair(s: dict[str, Any], hooks: Any) -> dict[str, Any]:
    return {
        "positive_NEW": s["positive"], "negative_NEW": s["negative"], "hooks": hooks, "strength": 1.0,
        "set_cond_area": "default",
    }  # fmt: skip
