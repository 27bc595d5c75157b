"""LoRA files under every program's names are the same subject; what does not fit is named; exports are read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from customcrafter_core.base_model.key_tables import rename, reverse, unet_table
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import clip_tokenizer
from customcrafter_core.errors import InputError
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.formats import (
    class_embedding,
    export_for_host,
    host_call,
    host_names,
    import_lora,
    read_token,
)
from customcrafter_core.subject.subject import LoRAFactors, Subject
from tests.core.small_subjects import random_factors, same_factors

Factors = dict[str, LoRAFactors]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def factors(model: VideoCrafter2) -> Factors:
    """For all targets, so that every name is tried."""
    return random_factors(model, rank=2)


@pytest.fixture(scope="module")
def imported(model: VideoCrafter2, factors: Factors) -> Subject:
    return Subject(factors, class_embedding(model, "dog"), class_word="dog")


def refusal(action: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as error:
        action()
    assert error.value.expected and error.value.found and error.value.remedy
    return error.value


def names(pattern: str) -> Callable[[Factors, VideoCrafter2], Tensors]:
    """A format whose names are ours within a pattern of two parts: layer, then down or up as `A|B` or so."""
    layer_pattern, _, parts = pattern.partition(" ")
    down, up = parts.split("|")

    def write(factors: Factors, model: VideoCrafter2) -> Tensors:
        tensors = {}
        for name, pair in factors.items():
            tensors[layer_pattern.format(name) + down] = pair.down
            tensors[layer_pattern.format(name) + up] = pair.up
        return tensors

    return write


def authors(prefix: str) -> Callable[[Factors, VideoCrafter2], Tensors]:
    """VideoCrafter2's module names, as the authors' code writes them."""

    def write(factors: Factors, model: VideoCrafter2) -> Tensors:
        backwards = reverse(unet_table(model.config.unet))
        originals = {f"{prefix}{rename(name, backwards)}": pair for name, pair in factors.items()}
        return names("{} .lora_down.weight|.lora_up.weight")(originals, model)

    return write


def kohya(factors: Factors, model: VideoCrafter2) -> Tensors:
    flat = {f"lora_unet_{name.replace('.', '_')}": pair for name, pair in factors.items()}
    alphas = {f"{name}.alpha": torch.tensor(float(pair.rank)) for name, pair in flat.items()}
    return {**names("{} .lora_down.weight|.lora_up.weight")(flat, model), **alphas}


def old_diffusers(factors: Factors, model: VideoCrafter2) -> Tensors:
    """``attn1.processor.to_q_lora.down.weight``."""
    split = {name.replace(".to_", ".processor.to_"): pair for name, pair in factors.items()}
    return names("{} _lora.down.weight|_lora.up.weight")(split, model)


FORMATS = {
    "authors": authors("model.diffusion_model."),
    "authors-bare": authors(""),
    "authors-host": authors("diffusion_model."),
    "peft": names("base_model.model.{} .lora_A.weight|.lora_B.weight"),
    "peft-named": names("base_model.model.{} .lora_A.default.weight|.lora_B.default.weight"),
    "peft-unet": names("unet.base_model.model.{} .lora_A.weight|.lora_B.weight"),
    "diffusers": names("unet.{} .lora_A.weight|.lora_B.weight"),
    "diffusers-dotted": names("unet.{} .lora.down.weight|.lora.up.weight"),
    "diffusers-old": old_diffusers,
    "kohya": kohya,
    "host": names("diffusion_model.{} .lora_A.weight|.lora_B.weight"),
    "host-kohya": names("diffusion_model.{} .lora_down.weight|.lora_up.weight"),
    "bare": names("{} .lora_A.weight|.lora_B.weight"),
}


@pytest.fixture(scope="module")
def expected(model: VideoCrafter2, imported: Subject) -> torch.Tensor:
    return sample(model, imported)


def sample(model: VideoCrafter2, subject: Subject) -> torch.Tensor:
    settings = VideoSettings("a <new1> dog", width=32, height=16, frames=1, steps=1, cfg=1.0)
    return generate(model, settings, [AppliedSubject(subject)]).latent


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_programs_names_give_the_same_result(
    model: VideoCrafter2,
    factors: Factors,
    imported: Subject,
    expected: torch.Tensor,
    tmp_path: Path,
    file_format: str,
) -> None:
    tensors = FORMATS[file_format](factors, model)
    assert len(tensors) >= 2 * 96
    save_file(tensors, tmp_path / "lora.safetensors")
    subject = import_lora(tmp_path / "lora.safetensors", model, class_word="dog")
    assert same_factors(subject, imported)
    assert torch.equal(sample(model, subject), expected)
    assert (subject.trigger, subject.rank, subject.base) == ("<new1> dog", 2, "")
    assert subject.training == {"imported": "lora.safetensors"}


def test_authors_names_are_those_of_the_reference(model: VideoCrafter2, factors: Factors, reference: Any) -> None:
    listed = reference[0]["algorithm1"]["lora_keys"]
    if len(listed) != 2 * len(factors):
        pytest.skip("the reference vectors' LoRA has other targets")
    prefix = next(iter(listed)).partition("input_blocks")[0].partition("middle_block")[0]
    assert set(authors(prefix)(factors, model)) == set(listed)


@pytest.mark.parametrize("zipped", [True, False])
def test_lora_as_torch_file(
    model: VideoCrafter2, factors: Factors, imported: Subject, tmp_path: Path, zipped: bool
) -> None:
    content = {"state_dict": FORMATS["authors"](factors, model), "epoch": 1}
    torch.save(content, tmp_path / "lora.ckpt", _use_new_zipfile_serialization=zipped)
    assert same_factors(import_lora(tmp_path / "lora.ckpt", model, class_word="dog"), imported)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lora_in_half_precision_is_read_as_float32(
    model: VideoCrafter2, factors: Factors, tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {name: value.to(dtype) for name, value in FORMATS["peft"](factors, model).items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    subject = import_lora(tmp_path / "lora.safetensors", model, class_word="dog")
    for name, pair in subject.factors.items():
        assert torch.equal(pair.up, factors[name].up.to(dtype).float())


# alpha


@pytest.mark.parametrize("file_format", ["kohya", "host", "authors", "diffusers-dotted"])
def test_alpha_is_folded_into_the_upper_factor(
    model: VideoCrafter2, factors: Factors, tmp_path: Path, file_format: str
) -> None:
    tensors = FORMATS[file_format](factors, model)
    layers = {name.partition(".lora")[0] for name in tensors if not name.endswith(".alpha")}
    assert len(layers) == len(factors)
    tensors |= {f"{layer}.alpha": torch.tensor(0.5) for layer in layers}
    save_file(tensors, tmp_path / "lora.safetensors")
    subject = import_lora(tmp_path / "lora.safetensors", model, class_word="dog")
    for name, pair in subject.factors.items():
        assert torch.equal(pair.down, factors[name].down)
        assert torch.allclose(pair.up, factors[name].up * 0.25, rtol=1e-6)  # alpha 0.5 over rank 2


def test_alpha_may_have_a_dimension(model: VideoCrafter2, factors: Factors, tmp_path: Path) -> None:
    tensors = FORMATS["kohya"](factors, model)
    tensors = {name: value.reshape(1) if name.endswith(".alpha") else value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    subject = import_lora(tmp_path / "lora.safetensors", model, class_word="dog")
    assert all(torch.equal(pair.up, factors[name].up) for name, pair in subject.factors.items())


@pytest.mark.parametrize("alpha", [torch.zeros(2), torch.zeros(0), torch.tensor(torch.nan), torch.tensor(torch.inf)])
def test_alpha_that_is_no_number(model: VideoCrafter2, factors: Factors, tmp_path: Path, alpha: torch.Tensor) -> None:
    name = next(iter(factors))
    tensors = FORMATS["kohya"](factors, model)
    tensors[f"lora_unet_{name.replace('.', '_')}.alpha"] = alpha
    save_file(tensors, tmp_path / "lora.safetensors")
    assert name in refusal(lambda: import_lora(tmp_path / "lora.safetensors", model, class_word="dog")).found


def peft_config(folder: Path, **settings: Any) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_pefts_alpha_stands_in_the_file_beside(model: VideoCrafter2, factors: Factors, tmp_path: Path) -> None:
    save_file(FORMATS["peft"](factors, model), tmp_path / "adapter_model.safetensors")
    for settings, scale in (({}, 1.0), ({"lora_alpha": 6}, 3.0), ({"lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5)):
        peft_config(tmp_path, **settings)
        subject = import_lora(tmp_path / "adapter_model.safetensors", model, class_word="dog")
        for name, pair in subject.factors.items():
            assert torch.allclose(pair.up, factors[name].up * scale, rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"alpha_pattern": {"attn1": 4}},
        {"lora_alpha": "?"},
        {"lora_alpha": float("nan")},
        {"lora_alpha": 10**400},
    ],
)
def test_pefts_settings_that_cannot_be_folded(
    model: VideoCrafter2, factors: Factors, tmp_path: Path, settings: dict[str, Any]
) -> None:
    save_file(FORMATS["peft"](factors, model), tmp_path / "adapter_model.safetensors")
    peft_config(tmp_path, **settings)
    error = refusal(lambda: import_lora(tmp_path / "adapter_model.safetensors", model, class_word="dog"))
    assert "lora_alpha in adapter_config.json" in error.expected
    assert any(word in error.found for word in (next(iter(settings)), "?", "OverflowError"))
    (tmp_path / "adapter_config.json").write_text("[]")
    error = refusal(lambda: import_lora(tmp_path / "adapter_model.safetensors", model, class_word="dog"))
    assert "lora_alpha in adapter_config.json" in error.expected


def test_diffusers_alpha_stands_in_the_metadata(model: VideoCrafter2, factors: Factors, tmp_path: Path) -> None:
    path, tensors = tmp_path / "lora.safetensors", FORMATS["diffusers"](factors, model)
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})})
    subject = import_lora(path, model, class_word="dog")
    for name, pair in subject.factors.items():
        assert torch.allclose(pair.up, factors[name].up * 3, rtol=1e-6)
    save_file(tensors, path, metadata={"lora_adapter_metadata": "{"})
    assert "its metadata" in refusal(lambda: import_lora(path, model, class_word="dog")).expected


def test_pefts_settings_say_nothing_of_files_in_other_formats(
    model: VideoCrafter2, factors: Factors, imported: Subject, tmp_path: Path
) -> None:
    save_file(FORMATS["host"](factors, model), tmp_path / "lora.safetensors")
    peft_config(tmp_path, lora_alpha=6)
    assert same_factors(import_lora(tmp_path / "lora.safetensors", model, class_word="dog"), imported)


# names and shapes that do not fit


@pytest.fixture
def spoil(model: VideoCrafter2, factors: Factors, tmp_path: Path) -> Iterator[Callable[..., InputError]]:
    """Import the factors with some tensors added or, where None, taken away."""

    def spoil(changes: dict[str, torch.Tensor | None]) -> InputError:
        tensors = {**FORMATS["diffusers"](factors, model), **changes}
        save_file({n: v for n, v in tensors.items() if v is not None}, tmp_path / "lora.safetensors")
        return refusal(lambda: import_lora(tmp_path / "lora.safetensors", model, class_word="dog"))

    yield spoil


@pytest.mark.parametrize(
    "name",
    [
        "unet.mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_magnitude_vector",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
        "something.else",
    ],
)
def test_a_name_without_a_target_is_named(spoil: Callable[..., InputError], name: str) -> None:
    error = spoil({name: torch.zeros(2, 128)})
    assert "match no layer (1)" in error.found and name in error.found and "lora.safetensors" in error.found


def test_many_names_without_a_target_are_counted(spoil: Callable[..., InputError]) -> None:
    error = spoil({f"stranger.{i}": torch.zeros(1) for i in range(30)})
    assert "match no layer (30)" in error.found and "stranger.0" in error.found and "22 more" in error.found


def test_two_names_of_the_same_factor(spoil: Callable[..., InputError], factors: Factors) -> None:
    """Which one is meant cannot be known."""
    name = next(iter(factors))
    error = spoil({f"diffusion_model.{name}.lora_A.weight": torch.zeros(2, 32)})
    assert f"{name}.lora_A.weight" in error.found


def test_one_factor_without_its_partner(spoil: Callable[..., InputError], factors: Factors) -> None:
    first, second = list(factors)[:2]
    error = spoil({f"unet.{first}.lora_A.weight": None, f"unet.{second}.lora_B.weight": None})
    assert "only one factor" in error.found and first in error.found and second in error.found


def test_nothing_that_fits(model: VideoCrafter2, tmp_path: Path) -> None:
    save_file({}, tmp_path / "lora.safetensors")
    assert (
        "nothing that fits"
        in refusal(lambda: import_lora(tmp_path / "lora.safetensors", model, class_word="dog")).found
    )


@pytest.mark.parametrize(
    ("part", "value", "word"),
    [
        ("A", torch.zeros(3, 32), "rank"),
        ("A", torch.zeros(2, 320), "320"),
        ("B", torch.zeros(320, 2), "320"),
        ("A", torch.zeros(2, 32, 1, 1), "(2, 32, 1, 1)"),
        ("B", torch.full((32, 2), torch.nan), "NaN"),
        ("A", torch.full((2, 32), torch.inf), "infinity"),
    ],
)
def test_factors_that_do_not_fit_are_named(
    spoil: Callable[..., InputError], factors: Factors, part: str, value: torch.Tensor, word: str
) -> None:
    name = next(iter(factors))
    error = spoil({f"unet.{name}.lora_{part}.weight": value})
    assert name in error.found and word in f"{error.expected} {error.found}"


# the token


def test_without_a_token_file_the_class_word_stands_for_it(model: VideoCrafter2, imported: Subject) -> None:
    table = model.text_encoder.get_input_embeddings().weight
    (dog,) = clip_tokenizer()("dog", add_special_tokens=False).input_ids
    assert torch.equal(imported.embedding, table[dog : dog + 1])
    teddy, bear = clip_tokenizer()("teddy bear", add_special_tokens=False).input_ids
    assert torch.allclose(class_embedding(model, "teddy bear"), (table[teddy] + table[bear])[None] / 2)
    assert "class word" in refusal(lambda: class_embedding(model, " ")).expected


@pytest.mark.parametrize("vectors", [1, 3])
def test_token_files(model: VideoCrafter2, factors: Factors, tmp_path: Path, vectors: int) -> None:
    token = torch.randn(vectors, 48)
    save_file(FORMATS["host"](factors, model), tmp_path / "lora.safetensors")
    save_file({"emb_params": token}, tmp_path / "comfyui.safetensors")
    torch.save({"<new1>": token[0] if vectors == 1 else token}, tmp_path / "learned_embeds.bin")
    for name in ("comfyui.safetensors", "learned_embeds.bin"):
        subject = import_lora(
            tmp_path / "lora.safetensors", model, class_word="dog", placeholder="<v>", token_file=tmp_path / name
        )
        assert torch.equal(subject.embedding, token) and subject.trigger == "<v> dog"


def test_token_files_that_do_not_fit(model: VideoCrafter2, factors: Factors, tmp_path: Path) -> None:
    save_file(FORMATS["host"](factors, model), tmp_path / "lora.safetensors")

    def token(name: str, **tensors: torch.Tensor) -> Callable[[], Subject]:
        save_file(tensors, tmp_path / name)
        return lambda: import_lora(tmp_path / "lora.safetensors", model, class_word="dog", token_file=tmp_path / name)

    assert "2 in two.safetensors" in refusal(token("two.safetensors", a=torch.zeros(1), b=torch.zeros(1))).found
    assert "1024" in refusal(token("wide.safetensors", emb_params=torch.zeros(1, 1024))).found
    assert "(1, 1, 48)" in refusal(token("deep.safetensors", emb_params=torch.zeros(1, 1, 48))).found
    assert "token" in refusal(token("nan.safetensors", emb_params=torch.full((1, 48), torch.nan))).found
    assert "(0, 48)" in refusal(token("empty.safetensors", emb_params=torch.zeros(0, 48))).found
    assert "()" in refusal(token("number.safetensors", emb_params=torch.tensor(1.0))).found
    bad_name = refusal(
        lambda: import_lora(tmp_path / "lora.safetensors", model, class_word="dog", placeholder="two words")
    )
    assert "two words" in bad_name.found


# export


def test_exports_have_the_hosts_names_and_are_read_back(
    model: VideoCrafter2, imported: Subject, tmp_path: Path
) -> None:
    subject = replace(imported, embedding=torch.randn(2, 48))
    lora, embedding = tmp_path / "loras" / "bear.safetensors", tmp_path / "embeddings" / "bear.safetensors"
    export_for_host(subject, lora, embedding)
    tensors, modules = load_file(lora), dict(model.unet.named_modules())
    assert len(tensors) == 2 * 96
    for name, value in tensors.items():
        layer, _, part = name.removeprefix("diffusion_model.").rpartition(".lora_")
        assert name.startswith("diffusion_model.") and part in ("A.weight", "B.weight")
        assert value.shape[1 if part == "A.weight" else 0] in tuple(modules[layer].weight.shape)
    assert {name: value.shape for name, value in load_file(embedding).items()} == {"emb_params": (2, 48)}
    back = import_lora(lora, model, class_word="dog", token_file=embedding)
    assert same_factors(back, subject) and torch.equal(back.embedding, subject.embedding)
    assert torch.equal(read_token(embedding), subject.embedding)


@pytest.mark.parametrize(
    ("stem", "plain"),
    [("bear", "bear"), ("my  bear", "my_bear"), ("bear (2)", "bear_2_"), ("<a>[b]", "_a>_b]"), ("{a|b}", "_a_b_")],
)
def test_names_that_a_prompt_of_the_hosts_can_call(stem: str, plain: str) -> None:
    assert host_names(stem) == (f"{plain}-lora", f"{plain}-token")
    assert host_call(f"{plain}-token", "teddy  bear") == f"embedding:{plain}-token teddy bear"
