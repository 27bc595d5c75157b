"""Wrong use ends in one sentence in the node's error box: what was expected, what was found, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.subject.file import save_subject
from tests.core import small_subjects
from tests.host import host_models
from tests.host.bench import STEPS, Bench, Scene
from tests.host.running_host import PromptFailed


def refused(scene: Scene) -> str:
    """The message of the run's error."""
    with pytest.raises(PromptFailed) as caught:
        scene.run()
    message = caught.value.message
    assert caught.value.kind.endswith("InputError"), caught.value
    assert message.startswith("Expected ") and "; found " in message
    return message


def models(bench: Bench) -> Path:
    """The host's models folder."""
    return bench.host.base / "models"


def test_image_model_in_our_loader(bench: Bench) -> None:
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}
    save_file(weights, models(bench) / "checkpoints" / "sd15.safetensors")
    scene = bench.scene(subject=None)
    scene.graph.nodes["1"]["inputs"]["checkpoint"] = "sd15.safetensors"
    scene.keep(scene.dynamic_sampler()[0])
    assert "an image model" in refused(scene)


def test_subject_of_another_base(bench: Bench, tmp_path: Path) -> None:
    other = load_videocrafter2(host_models.write_model(tmp_path / "other.safetensors", seed=9))
    save_subject(small_subjects.random_subject(other), models(bench) / "loras" / "other.safetensors")
    scene = bench.scene(subject="other")
    scene.keep(scene.dynamic_sampler()[0])
    assert "trained on this base model" in refused(scene)
    allowed = bench.scene(subject="other")
    allowed.result(allowed.dynamic_sampler(any_base=True)[0])


def test_lora_that_fits_nothing(bench: Bench) -> None:
    save_file({"lora_unet_nowhere.lora_up.weight": torch.zeros(2, 2)}, models(bench) / "loras" / "nowhere.safetensors")
    scene = bench.scene()
    scene.model = scene.add(
        "CustomCrafterDynamicLoRAWeights",
        model=scene.model,
        lora="nowhere.safetensors",
        lambda_s=0.4,
        lambda_l=0.8,
        k=5,
    )[0]
    scene.keep(scene.dynamic_sampler()[0])
    message = refused(scene)
    assert "none fits" in message and "nowhere.safetensors" in message


@pytest.mark.parametrize("kind", ["sd15", "flux"])
@pytest.mark.parametrize("letter", ["A", "B"])
def test_lora_of_another_width(bench: Bench, kind: str, letter: str) -> None:
    """Every name fits, every size but one does: the host would log that and sample with the rest."""
    scene = bench.scene(subject=None)
    made = scene.add("ProbeSmallModel", kind=kind)
    scene.keep(made[3], "lora").run()
    lora = {name: value.contiguous() for name, value in scene.saved("lora").items()}
    name = [name for name in lora if f"lora_{letter}" in name][-1]
    lora[name] = torch.cat([lora[name]] * 2, dim=1 if letter == "A" else 0)
    save_file(lora, models(bench) / "loras" / "wide.safetensors")
    wide = scene.add(
        "CustomCrafterDynamicLoRAWeights", model=made[0], lora="wide.safetensors", lambda_s=0.4, lambda_l=0.8, k=5
    )
    scene.keep(scene.host_sampler(model=wide[0], latent_image=made[2], positive=made[1], negative=made[1])[0])
    message = refused(scene)
    assert "sizes do not fit diffusion_model." in message and "wide.safetensors" in message


def test_no_lora_at_all(bench: Bench) -> None:
    scene = bench.scene()
    node = scene.add("CustomCrafterDynamicLoRAWeights", model=scene.model, lora="none", lambda_s=0.4, lambda_l=0.8, k=5)
    scene.keep(scene.host_sampler(model=node[0])[0])
    assert "one LoRA" in refused(scene)


def test_subject_without_token(bench: Bench) -> None:
    loras = models(bench) / "loras"
    from safetensors import safe_open

    with safe_open(loras / "first.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = {name: value for name, value in load_file(loras / "first.safetensors").items() if name != "emb_params"}
    save_file(tensors, loras / "tokenless.safetensors", metadata)
    scene = bench.scene(subject="tokenless")
    scene.keep(scene.dynamic_sampler()[0])
    assert "a learned token" in refused(scene)


def test_plain_lora_as_subject(bench: Bench) -> None:
    save_file({"a.lora_A.weight": torch.zeros(2, 2)}, models(bench) / "loras" / "plain.safetensors")
    scene = bench.scene(subject="plain")
    scene.keep(scene.dynamic_sampler()[0])
    assert "a CustomCrafter subject" in refused(scene)


def test_prompt_without_the_token(bench: Bench) -> None:
    scene = bench.scene(prompt="a teddy bear runs")
    scene.keep(scene.dynamic_sampler()[0])
    assert "<new1> in the positive prompt" in refused(scene)
    unknown = bench.scene()
    unknown.clip = ["1", 1]
    unknown.encode("a <new1> teddy bear")
    unknown.keep(unknown.dynamic_sampler()[0])
    message = refused(unknown)
    assert "<new1> in the positive prompt" in message and "CLIP output of Teach Token" in message


def test_conditioning_that_no_prompt_of_ours_made(bench: Bench) -> None:
    scene = bench.scene()
    foreign = scene.add("ProbeSmallModel", kind="sd15")[1]
    scene.keep(scene.dynamic_sampler(positive=foreign)[0])
    assert "<new1> in the positive prompt" in refused(scene)


def test_token_in_a_prompt_that_is_mixed_in(bench: Bench) -> None:
    """Nodes that mix prompts keep the marks of the first only; timestep ranges keep the text as it is."""
    scene = bench.scene()
    plain = scene.add("CLIPTextEncode", clip=scene.clip, text="a video of")[0]
    held = scene.add("ConditioningConcat", conditioning_to=plain, conditioning_from=scene.positive)[0]
    mixed = scene.add(
        "ConditioningAverage", conditioning_to=plain, conditioning_from=scene.positive, conditioning_to_strength=0.5
    )[0]
    both = scene.add("ConditioningCombine", conditioning_1=plain, conditioning_2=scene.positive)[0]
    for positive in (held, mixed, both):
        scene.keep(scene.dynamic_sampler(positive=positive)[0])
    scene.run()
    scene = bench.scene()
    plain = scene.add("CLIPTextEncode", clip=scene.clip, text="a video of")[0]
    part = scene.add("ConditioningSetTimestepRange", conditioning=plain, start=0.0, end=0.5)[0]
    scene.keep(scene.dynamic_sampler(positive=part)[0])
    assert "<new1> in the positive prompt" in refused(scene)


@pytest.mark.parametrize("name", ["dtype", "sampler_name", "scheduler"])
def test_choice_that_is_not_in_the_list(bench: Bench, name: str) -> None:
    if bench.host.generation != "older":
        pytest.skip("newer hosts refuse it before the graph runs")
    scene = bench.scene(dtype="float64" if name == "dtype" else "float32")
    scene.keep(scene.dynamic_sampler(**({} if name == "dtype" else {name: "nonsense"}))[0])
    assert f"a {name} from the list" in refused(scene)


def test_latent_of_other_channels(bench: Bench) -> None:
    scene = bench.scene()
    latent = scene.add("ProbeLatent", channels=16, frames=4, height=6, width=8)[0]
    scene.keep(scene.dynamic_sampler(latent_image=latent, denoise=0.5)[0])
    assert "4 channels" in refused(scene)
    scene = bench.scene()
    latent = scene.add("ProbeLatent", channels=16, frames=4, height=6, width=8)[0]
    scene.keep(scene.host_sampler(latent_image=latent, denoise=0.5)[0])
    assert "found one of 16" in refused(scene)


@pytest.mark.parametrize("sampler", ["ours", "the host's"])
def test_unet_patch_without_effect(bench: Bench, sampler: str) -> None:
    scene = bench.scene()
    model = scene.model if sampler == "ours" else scene.dynamic_weights()
    patched = scene.add("FreeU_V2", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]
    make = scene.dynamic_sampler if sampler == "ours" else scene.host_sampler
    scene.keep(make(model=patched)[0])
    assert "a patch made for the host's own UNet" in refused(scene)


@pytest.mark.parametrize("sampler", ["ours", "the host's"])
def test_controlnet_without_effect(bench: Bench, sampler: str) -> None:
    """Also one that is on for a part of the steps only: it is refused before the first."""
    scene = bench.scene(subject=None)
    picture = scene.add("EmptyImage", width=64, height=48, batch_size=1, color=0)[0]
    control = {"control_net": scene.add("ProbeControlNet")[0], "image": picture, "strength": 1.0}
    both = scene.add(
        "ControlNetApplyAdvanced", positive=scene.positive, negative=scene.negative, start_percent=0.7,
        end_percent=1.0, **control,
    )  # fmt: skip
    scene.positive, scene.negative = both[0], both[1]
    scene.keep(scene.dynamic_sampler()[0] if sampler == "ours" else scene.host_sampler()[0])
    assert "a ControlNet" in refused(scene)


def test_token_missing_in_a_sampler_of_the_hosts(bench: Bench) -> None:
    for nodes in (lambda scene: scene.dynamic_weights(), lambda scene: scene.constant_subject()):
        scene = bench.scene(prompt="a teddy bear runs")
        scene.keep(scene.host_sampler(model=nodes(scene))[0])
        assert "<new1> in the positive prompt" in refused(scene)
    without = bench.scene(prompt="a teddy bear runs")
    zero, base = without.dynamic_weights(0.0, 0.8, STEPS), without.model
    result, expected = without.result(*(without.host_sampler(model=model)[0] for model in (zero, base)))
    assert torch.equal(result, expected), "a subject at strength 0 needs no token"


def test_parts_of_a_run_that_do_not_fit(bench: Bench) -> None:
    scene = bench.scene()
    model = scene.dynamic_weights(start_at_step=3, total_steps=STEPS)
    scene.keep(scene.advanced_sampler(2, STEPS, model=model)[0])
    assert f"found one that runs from step 3 to step {STEPS + 1}" in refused(scene)


@pytest.mark.parametrize("token", ["<new(1)>", "(new1)", "new\\1", "embedding:new1"])
def test_token_that_prompts_would_not_keep(bench: Bench, token: str) -> None:
    scene = bench.scene(subject=None)
    subject = scene.add("CustomCrafterLoadSubject", subject="first.safetensors", token=token)[0]
    scene.keep(scene.add("CustomCrafterTeachToken", clip=scene.clip, subject=subject)[1])
    message = refused(scene)
    assert "which prompts read as weights" in message and repr(token) in message


def test_file_that_is_gone(bench: Bench) -> None:
    """Newer hosts refuse it before the graph runs; older ones leave it to the node."""
    for kind, name, values in (
        ("CustomCrafterLoadVideoCrafter2", "checkpoint", {"dtype": "float32"}),
        ("CustomCrafterLoadSubject", "subject", {}),
        ("CustomCrafterDynamicLoRAWeights", "lora", {"lambda_s": 0.4, "lambda_l": 0.8, "k": 5}),
    ):
        scene = bench.scene()
        more = {"model": scene.model} if kind == "CustomCrafterDynamicLoRAWeights" else {}
        scene.keep(scene.add(kind, **{name: "gone.safetensors"}, **values, **more)[0])
        if bench.host.generation == "older":
            assert "folder; found 'gone.safetensors'. Choose one from the list." in refused(scene)
        else:
            with pytest.raises(RuntimeError, match=f"{name}: 'gone.safetensors' not in "):
                scene.run()


def test_size_of_no_model(bench: Bench) -> None:
    scene = bench.scene()
    scene.keep(scene.add("CustomCrafterEmptyVideoLatent", width=0, height=48, frames=4, batch_size=1)[0])
    message = refused(scene)
    assert "width 0, height 48 and frames 4" in message and "Connect the MODEL from Load VideoCrafter2" in message
    scene = bench.scene()
    other = scene.add("ProbeSmallModel", kind="sd15")[0]
    size = {"width": 64, "height": 48, "frames": 0, "batch_size": 1}
    scene.keep(scene.add("CustomCrafterEmptyVideoLatent", **size, model=other)[0])
    assert "set width, height and frames yourself" in refused(scene)
    scene = bench.scene()
    scene.keep(scene.add("CustomCrafterEmptyVideoLatent", **{**size, "height": 8, "frames": 4})[0])
    assert "found 64x8" in refused(scene)


def test_same_subject_twice(bench: Bench) -> None:
    scene = bench.scene()
    scene.model = scene.dynamic_weights()
    scene.keep(scene.dynamic_sampler()[0])
    assert "once on a model" in refused(scene)


def test_two_subjects_of_one_token(bench: Bench, model: VideoCrafter2) -> None:
    twin = small_subjects.random_subject(model, seed=77)
    save_subject(twin, models(bench) / "loras" / "twin.safetensors")
    scene = bench.scene()
    scene.clip = scene.add("CustomCrafterTeachToken", clip=scene.clip, subject=scene.load_subject("twin"))[0]
    scene.encode("a <new1> bear")
    scene.keep(scene.dynamic_sampler()[0])
    assert "a token of its own" in refused(scene)


def test_our_nodes_on_another_model(bench: Bench) -> None:
    scene = bench.scene()
    other = scene.add("ProbeSmallModel", kind="sd15")
    scene.keep(scene.dynamic_sampler(model=other[0], latent_image=other[2], subject=None)[0])
    assert "VideoCrafter2 for its own DDIM" in refused(scene)
    scene = bench.scene()
    other = scene.add("ProbeSmallModel", kind="sd15")
    scene.keep(scene.dynamic_sampler(model=other[0], latent_image=other[2])[0])
    assert "use Dynamic LoRA Weights" in refused(scene)
    scene = bench.scene()
    other = scene.add("ProbeSmallModel", kind="sd15")
    scene.keep(scene.add("CustomCrafterFrameRate", model=other[0], fps=8)[0])
    assert refused(scene).endswith("Connect that node's MODEL output.")


def test_curve_that_is_no_curve(bench: Bench) -> None:
    scene = bench.scene()
    scene.keep(scene.dynamic_sampler(curve="weak, then strong")[0])
    assert "progress:strength" in refused(scene)


@pytest.mark.parametrize("name", ["", "../outside", "a/b", ".hidden", "first"])
def test_saving_under_a_bad_name(bench: Bench, name: str) -> None:
    scene = bench.scene()
    scene.add("CustomCrafterSaveSubject", subject=scene.subject, name=name, export=False, overwrite=False)
    before = sorted(models(bench).rglob("*"))
    refused(scene)
    assert sorted(models(bench).rglob("*")) == before
