"""Weight Sweep and Motion Onset on video models of the host's own: what KSampler gives, strength by strength."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from customcrafter_core.diffusion.strength import TwoPhase
from customcrafter_core.experiments.motion_onset import fixed_shares, moves_at_all, suggest_k
from tests.host.bench import Bench, Scene
from tests.host.graphs import Graph, Node
from tests.host.listening import listen
from tests.host.running_host import PromptFailed
from tools.schemas import input_type

KINDS = ["wan21", "wan22", "ltxv", "hunyuan", "sd15"]
STEPS = 5
RUN = {"seed": 3, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
FRAMES = {"sd15": 3}  # the others' VAE makes 9 of 3


class Video(Scene):
    """A graph around a small video model of the host's."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self.host, self.graph = bench.host, Graph()
        self.made = self.add("ProbeVideoModel", kind=kind)
        self.model, self.positive, self.negative, self.latent, self.vae, self.loaded_lora = (
            self.made[i] for i in range(6)
        )
        self.frames = FRAMES.get(kind, 9)

    def dynamic(self, lambda_s: float, lambda_l: float, k: int, model: list[Any] | None = None) -> list[Any]:
        """The model behind Dynamic LoRA Weights."""
        return self.add(
            "CustomCrafterDynamicLoRAWeights", model=model or self.model, lora="none", lora_model=self.loaded_lora,
            lambda_s=lambda_s, lambda_l=lambda_l, k=k,
        )[0]  # fmt: skip

    @property
    def given(self) -> dict[str, Any]:
        """What KSampler and the nodes that stand in its place have."""
        links = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        return {**links, **RUN}

    def video(self, **changes: Any) -> list[Any]:
        """Frames with the host's KSampler."""
        sampled = self.add("KSampler", **(self.given | changes))
        return self.add("VAEDecode", samples=sampled[0], vae=self.vae)[0]

    def sweep(self, **changes: Any) -> Node:
        """Weight Sweep over two K, behind Dynamic LoRA Weights."""
        lists = {"lambda_s": "0.25", "lambda_l": "1", "k": "1, 3"}
        given = {**self.given, "model": self.dynamic(0.5, 0.75, 2), "vae": self.vae, **lists}
        return self.add("CustomCrafterAnyModelSweep", **(given | changes))

    def onset(self, **changes: Any) -> Node:
        """Motion Onset."""
        return self.add("CustomCrafterAnyModelOnset", **({**self.given, "vae": self.vae} | changes))


def refused(scene: Video, node: Node) -> str:
    """What is said about inputs that cannot be used."""
    scene.keep(node[0])
    with pytest.raises(PromptFailed) as failed:
        scene.run()
    assert failed.value.kind.endswith("InputError"), failed.value
    return failed.value.message


LABELS = ["constant λ 0", "λs 0.25, λl 1, K 1", "λs 0.25, λl 1, K 3"]


def check_sweep(scene: Video, node: Node, expected: list[list[Any]]) -> list[str]:
    """Frames and table of a sweep against videos; gives the table's other lines."""
    table, frames, *videos = scene.result(node[1], node[2], *expected)
    assert torch.equal(frames, torch.cat(videos))
    assert len(videos[0]) == scene.frames and len({tuple(video.flatten().tolist()) for video in videos}) == len(videos)
    lines = table.splitlines()
    assert [line.partition(":")[0] for line in lines[: len(LABELS)]] == LABELS
    return lines[len(LABELS) :]


@pytest.mark.parametrize("kind", KINDS)
def test_sweep_is_ksampler_bit_for_bit(bench: Bench, kind: str) -> None:
    """First without the LoRA; runs with the same strengths in their first step share it."""
    scene = Video(bench, kind)
    alone = [scene.video()] + [scene.video(model=scene.dynamic(0.25, 1.0, k)) for k in (1, 3)]
    saved, best = check_sweep(scene, scene.sweep(), alone)
    assert saved.startswith("14 of 15 steps computed")
    assert best.startswith(("Best: λs 0.25", "No best: the video without the LoRA does not move"))


@pytest.mark.parametrize("sampler", ["euler", "ddim", "euler_cfg_pp", "heun", "dpm_2", "exp_heun_2_x0"])
def test_samplers_whose_runs_part_on_the_way(bench: Bench, sampler: str) -> None:
    if (
        sampler
        not in input_type(bench.host.get("/object_info")["KSampler"]["input"]["required"]["sampler_name"])[1]["options"]
    ):
        pytest.skip("this host has no such sampler")
    scene = Video(bench, "wan21")
    alone = [scene.video(sampler_name=sampler)]
    alone += [scene.video(sampler_name=sampler, model=scene.dynamic(0.25, 1.0, k)) for k in (1, 3)]
    assert check_sweep(scene, scene.sweep(sampler_name=sampler), alone)[0].startswith("14 of 15 ")


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "uni_pc", "heunpp2", "lcm"])
def test_samplers_that_remember_look_ahead_or_draw_noise(bench: Bench, sampler: str) -> None:
    """Each run alone, as KSampler does it."""
    scene = Video(bench, "wan21")
    alone = [scene.video(sampler_name=sampler)]
    alone += [scene.video(sampler_name=sampler, model=scene.dynamic(0.25, 1.0, k)) for k in (1, 3)]
    assert check_sweep(scene, scene.sweep(sampler_name=sampler), alone)[0].startswith("15 of 15 ")


def test_a_model_that_something_else_is_hooked_onto(bench: Bench) -> None:
    """It could remember earlier steps, as caches do: each run alone."""
    scene = Video(bench, "wan21")
    hooked = scene.add("ProbeFault", model=scene.dynamic(0.5, 0.75, 2), kind="error", step=99, layer="")[0]
    alone = [scene.video()] + [scene.video(model=scene.dynamic(0.25, 1.0, k)) for k in (1, 3)]
    assert check_sweep(scene, scene.sweep(model=hooked), alone)[0].startswith("15 of 15 ")


def test_all_loras_that_follow_the_steps_get_the_strengths(bench: Bench) -> None:
    scene = Video(bench, "wan21")
    alone = [scene.video()]
    alone += [scene.video(model=scene.dynamic(0.25, 1.0, k, model=scene.dynamic(0.25, 1.0, k))) for k in (1, 3)]
    twice = scene.dynamic(0.1, 0.2, 3, model=scene.dynamic(0.5, 0.75, 2))
    check_sweep(scene, scene.sweep(model=twice), alone)


def test_part_of_the_steps_counts_those_that_run(bench: Bench) -> None:
    scene = Video(bench, "wan21")
    alone = [scene.video(denoise=0.5)] + [scene.video(denoise=0.5, model=scene.dynamic(0.25, 1.0, k)) for k in (1, 3)]
    check_sweep(scene, scene.sweep(denoise=0.5), alone)


def test_sweep_is_watched_and_leaves_the_model_as_it_was(bench: Bench) -> None:
    scene = Video(bench, "wan21")
    node = scene.sweep(seed=77)
    scene.keep(node[0])
    heard = listen(bench.host, scene.graph.nodes)
    assert heard.progress(node.name)[:14] == [(step, 14) for step in range(1, 15)]
    assert heard.previews[-1].format == "PNG" and "est" in dict(heard.texts)[node.name]
    scene = Video(bench, "wan21")
    before, behind = scene.video(), scene.video(model=scene.dynamic(0.25, 1.0, 3))
    scene.result(scene.sweep(sampler_name="dpmpp_2m")[0])
    again = Video(bench, "wan21")
    again.model = again.add("ProbeFresh", model=again.model)[0]
    assert torch.equal(*scene.result(before, before))
    after = again.result(again.video(), again.video(model=again.dynamic(0.25, 1.0, 3)))
    assert all(torch.equal(one, other) for one, other in zip(scene.result(before, behind), after, strict=True))


def test_the_best_is_what_the_table_says(bench: Bench) -> None:
    scene = Video(bench, "wan21")
    node = scene.sweep(lambda_s="0, 0.5", k="2")
    table, *picked = scene.result(*(node[i] for i in (1, 3, 4, 5)))
    lines = table.splitlines()
    motion = {line.partition(":")[0]: float(line.rpartition(" ")[2]) for line in lines[:3]}
    own = motion["constant λ 0"]
    if own <= 0.05:
        assert lines[-1].startswith("No best") and picked == [0.0, 1.0, 2]
        return
    mean = {TwoPhase(lambda_s, 1.0, 2): (2 * lambda_s + 3) / STEPS for lambda_s in (0.0, 0.5)}
    rated = {
        one: min(motion[f"λs {one.lambda_s:g}, λl 1, K 2"] / own, 1) * share / max(mean.values())
        for one, share in mean.items()
    }
    best = max(rated, key=rated.__getitem__)
    assert picked == [best.lambda_s, best.lambda_l, best.k]
    assert f"λs {best.lambda_s:g}, λl 1, K 2 keeps" in lines[-1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lambda_s": "-4"}, "strengths in lambda_s"),
        ({"k": "2.5"}, "whole numbers of 0 or more in k"),
        ({"lambda_s": ",".join(f"{i / 100}" for i in range(40)), "k": "1,2"}, "at most 64 combinations"),
    ],
)
def test_sweep_of_what_is_no_list(bench: Bench, changes: dict[str, Any], said: str) -> None:
    scene = Video(bench, "wan21")
    assert said in refused(scene, scene.sweep(**changes))


def test_sweep_needs_a_lora_that_follows_the_steps(bench: Bench) -> None:
    scene = Video(bench, "wan21")
    assert "Dynamic LoRA Weights" in refused(scene, scene.sweep(model=scene.model))


@pytest.mark.parametrize("shape", [[2, 16, 3, 6, 8], [1, 16, 1, 6, 8], [1, 16, 6, 8]])
@pytest.mark.parametrize("make", ["sweep", "onset"])
def test_only_one_video_at_a_time(bench: Bench, make: str, shape: list[int]) -> None:
    scene = Video(bench, "wan21")
    zeros = torch.zeros(shape).tolist()
    scene.latent = scene.latent_of(scene.add("ProbeTensor", values={"__value__": zeros})[0])
    assert "one video of two frames or more" in refused(scene, getattr(scene, make)())


@pytest.mark.parametrize("kind", KINDS)
def test_onset_is_what_the_hosts_own_nodes_show(bench: Bench, kind: str) -> None:
    """After k steps: a run that ends there, and one more step of it to the end with the negative prompt alone."""
    scene = Video(bench, kind)
    node = scene.onset()

    def part(start: int, end: int, latent: list[Any], **changes: Any) -> list[Any]:
        links = {name: value for name, value in scene.given.items() if name not in ("seed", "denoise")}
        given = {
            **links, "latent_image": latent, "noise_seed": RUN["seed"], "start_at_step": start, "end_at_step": end,
            "add_noise": "enable" if start == 0 else "disable", "return_with_leftover_noise": "enable",
        }  # fmt: skip
        return scene.add("KSamplerAdvanced", **(given | changes))[0]

    alone = {"positive": scene.negative, "cfg": 1.0, "return_with_leftover_noise": "disable"}
    held = [part(k, k + 1, part(0, k, scene.latent), **alone) for k in range(1, STEPS)]
    shown = [scene.add("VAEDecode", samples=latent, vae=scene.vae)[0] for latent in held]
    k, curve, text, frames, final, *seen = scene.result(*(node[i] for i in range(4)), scene.video(), *shown)
    assert torch.equal(frames, final) and len(frames) == scene.frames
    motion, detail = fixed_shares([*seen, final], final)
    rows = [line.replace("%", "").split() for line in text.splitlines()[2:]]
    assert [float(row[1]) / 100 for row in rows] == pytest.approx(motion, abs=2e-3)
    assert [float(row[2]) / 100 for row in rows] == pytest.approx(detail, abs=2e-3)
    assert max(motion[:-1]) < 1 and len(set(motion)) > 2
    assert k == (suggest_k(motion) if moves_at_all(final) else 5) and curve.shape[-1] == 3


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_sde", "lcm"])
def test_onset_with_samplers_of_all_kinds(bench: Bench, sampler: str) -> None:
    """The video is KSampler's; there is a row for each step."""
    scene = Video(bench, "wan21")
    node = scene.onset(sampler_name=sampler)
    text, frames, final = scene.result(node[2], node[3], scene.video(sampler_name=sampler))
    assert torch.equal(frames, final)
    assert [line.split()[0] for line in text.splitlines()[2:]] == [str(step + 1) for step in range(STEPS)]
    assert text.splitlines()[-1].split()[1:] == ["100.0%", "100.0%"]


@pytest.mark.parametrize("sampler", ["dpm_fast", "dpm_adaptive"])
def test_onset_needs_steps_that_can_be_told_apart(bench: Bench, sampler: str) -> None:
    scene = Video(bench, "sd15")
    assert "noise level of each step" in refused(scene, scene.onset(sampler_name=sampler))


def test_onset_with_a_cfg_of_one_sees_the_negative_prompt_too(bench: Bench) -> None:
    scene = Video(bench, "wan21")
    node = scene.onset(cfg=1.0)
    frames, final = scene.result(node[3], scene.video(cfg=1.0))
    assert (frames - final).abs().max() < 1e-4  # both predictions are made together, which rounds otherwise
