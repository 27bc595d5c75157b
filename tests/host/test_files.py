"""Subjects to files and back, files for the host's own nodes, whole videos through the VAE."""

from __future__ import annotations

import pytest
import torch

from customcrafter_core.base_model.model import SCALE_FACTOR, VideoCrafter2
from customcrafter_core.subject.file import load_subject
from customcrafter_core.subject.prompts import encode_prompts
from customcrafter_core.subject.subject import Subject
from tests.host.bench import PROMPT, SIZE, Bench, distance


def test_save_and_export(bench: Bench, subjects: dict[str, Subject]) -> None:
    scene = bench.scene(subject="second")
    save = scene.add("CustomCrafterSaveSubject", subject=scene.subject, name="my saved", export=True, overwrite=True)
    told = scene.run()[save.name]["text"]
    folder = bench.host.base / "models"
    saved = load_subject(folder / "loras" / "my saved.safetensors")
    assert saved.placeholder == "<new2>"
    assert torch.equal(saved.embedding, subjects["second"].embedding)
    assert (folder / "loras" / "my_saved-lora.safetensors").is_file()
    call = f"embedding:my_saved-token {subjects['second'].class_word}"
    assert told == ["Saved: my saved.safetensors", "For Load LoRA: my_saved-lora.safetensors", f"In prompts: {call}"]

    plain = bench.scene(subject=None, prompt=f"a {call}")
    theirs = plain.host_sampler(model=plain.lora(0.6, "my_saved-lora"))[0]
    conditioning = plain.positive
    own = bench.scene(subject="second", prompt=f"a {saved.trigger}")
    ours = own.host_sampler(model=own.dynamic_weights(0.6, 0.6, 0))[0]
    expected, text = plain.result(theirs, conditioning)
    result, own_text = own.result(ours, own.positive)
    assert torch.equal(own_text[0][0], text[0][0])
    assert distance(result, expected) < 1e-5


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, "<new1>", "a dog,<new1>bear.", "A  Teddy <new1>'s day", "no token at all", "<new1> and <new1>", ""],
)
def test_text_equals_core(bench: Bench, model: VideoCrafter2, subjects: dict[str, Subject], prompt: str) -> None:
    with torch.inference_mode():
        expected = encode_prompts(model, [prompt], [subjects["first"]])
    scene = bench.scene(prompt=prompt)
    ((text, more),) = scene.result(scene.positive)
    assert torch.allclose(text, expected, atol=1e-5)
    assert more["customcrafter_tokens"] == (("<new1>",) if "<new1>" in prompt else ())


def test_prompt_weights_reach_the_token(bench: Bench) -> None:
    plain, weighted = bench.scene(), bench.scene(prompt="a (<new1>:1.5) teddy bear runs")
    ((first, _),) = plain.result(plain.positive)
    ((second, more),) = weighted.result(weighted.positive)
    changed = (first - second).abs().amax((0, 2)) > 1e-5
    assert changed.tolist().index(True) == 2 and changed.sum() == 1
    assert more["customcrafter_tokens"] == ("<new1>",)


def test_subject_under_another_token(bench: Bench) -> None:
    scene = bench.scene(prompt="a <other> teddy bear runs", subject=None)
    subject = scene.add("CustomCrafterLoadSubject", subject="first.safetensors", token="<other>")
    scene.clip = scene.add("CustomCrafterTeachToken", clip=scene.clip, subject=subject[0])[0]
    scene.encode("a <other> teddy bear runs")
    plain = bench.scene()
    ((expected, _),) = plain.result(plain.positive)
    conditioning, trigger, summary = scene.result(scene.positive, subject[1], subject[2])
    assert torch.equal(conditioning[0][0], expected)
    assert trigger == "<other> teddy bear"
    assert "λs 0.4, λl 0.8, K 5" in summary


def test_vae(bench: Bench, model: VideoCrafter2) -> None:
    scene = bench.scene(subject=None)
    latent = scene.add("ProbeLatent", channels=4, frames=4, height=6, width=8)
    pixels = scene.add("VAEDecode", vae=scene.vae, samples=latent[0])[0]
    images = scene.add("VAEDecode", vae=scene.vae, samples=latent[1])[0]
    encoded = scene.add("VAEEncode", vae=scene.vae, pixels=pixels)[0]
    pixels, images, encoded, start = scene.result(pixels, images, encoded, latent[0])
    with torch.inference_mode():
        expected = model.decode(start * SCALE_FACTOR)[0]
        mean, _ = model.encode_moments(expected.movedim(-1, 1) * 2 - 1)
    assert pixels.shape == (SIZE["frames"], SIZE["height"], SIZE["width"], 3)
    assert torch.allclose(pixels, expected, atol=1e-5)
    assert torch.equal(pixels, images)
    assert distance(encoded[0].movedim(1, 0), mean / SCALE_FACTOR) < 1e-4


def test_vae_in_tiles(bench: Bench, model: VideoCrafter2) -> None:
    """Several tiles in space and time: where only the first tile reaches, the result is that of the tile alone."""
    scene = bench.scene(subject=None)
    latent = scene.add("ProbeLatent", channels=4, frames=12, height=16, width=20)[0]
    tiles = {"tile_size": 64, "overlap": 32, "temporal_size": 8, "temporal_overlap": 4}
    pixels = scene.add("VAEDecodeTiled", vae=scene.vae, samples=latent, **tiles)[0]
    encoded = scene.add("VAEEncodeTiled", vae=scene.vae, pixels=pixels, **tiles)[0]
    pixels, encoded, start = scene.result(pixels, encoded, latent)
    assert pixels.shape == (12, 128, 160, 3)
    assert encoded.shape == start.shape
    with torch.inference_mode():
        decoded = model.decode(start[..., :8, :8] * SCALE_FACTOR)[0]
        mean, _ = model.encode_moments(pixels[:, :64, :64].movedim(-1, 1) * 2 - 1)
    assert torch.allclose(pixels[:4, :32, :32], decoded[:4, :32, :32], atol=1e-5)
    assert distance(encoded[0].movedim(1, 0)[:4, :, :4, :4], mean[:4, :, :4, :4] / SCALE_FACTOR) < 1e-4
    assert torch.isfinite(pixels).all() and torch.isfinite(encoded).all()
    assert pixels[-1].std() > 0.01, "the last frames are not left out"
