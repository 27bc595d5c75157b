"""A subject in its file: complete round trip, all or nothing when written, strict when read."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from customcrafter_core.base_model.fingerprint import fingerprint, same_base
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.diffusion.strength import TwoPhase
from customcrafter_core.errors import InputError
from customcrafter_core.files import tensor_file
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import METADATA_KEY, THUMBNAIL_KEY, TOKEN, load_subject, save_subject
from customcrafter_core.subject.subject import LoRAFactors, Subject, check_fits
from customcrafter_core.subject.targets import lora_targets
from tests.core import tiny_models
from tests.core.small_subjects import random_subject, same_factors


@pytest.fixture(scope="module")
def subject(model: VideoCrafter2) -> Subject:
    """One with something in every field."""
    return replace(
        random_subject(model, every=12, rank=3, vectors=2, placeholder="<bear7>"),
        steps=1234,
        recommended=TwoPhase(0.25, 1.5, 7),
        training={"lr": 1e-4, "variant": "ours", "photos": ["a.jpg", "ü.png"], "prior": None},
        thumbnail=bytes(range(256)),
    )


@pytest.fixture
def path(subject: Subject, tmp_path: Path) -> Path:
    return save_subject(subject, tmp_path / "bear.safetensors")


def refusal(action: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as error:
        action()
    assert error.value.expected and error.value.found and error.value.remedy
    return error.value


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> Path:
    """Change tensors or metadata of a file in place."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


def drop(entries: dict[str, Any], name: str) -> None:
    del entries[name]


def rewrite_content(path: Path, **changes: Any) -> Path:
    """Change fields of the metadata; `...` removes one."""

    def change(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        content = {**json.loads(metadata[METADATA_KEY]), **changes}
        metadata[METADATA_KEY] = json.dumps({name: value for name, value in content.items() if value is not ...})

    return rewrite(path, change)


# round trip


def test_everything_comes_back(subject: Subject, path: Path) -> None:
    loaded = load_subject(path)
    assert same_factors(loaded, subject) and torch.equal(loaded.embedding, subject.embedding)
    assert replace(loaded, factors={}, embedding=None) == replace(subject, factors={}, embedding=None)
    assert (loaded.rank, loaded.trigger) == (3, "<bear7> teddy bear")


def test_a_subject_with_nothing_but_the_needful_comes_back(model: VideoCrafter2, tmp_path: Path) -> None:
    bare = Subject(random_subject(model, every=24).factors, torch.ones(1, 48))
    loaded = load_subject(save_subject(bare, tmp_path / "new" / "folder" / "bare.safetensors"))
    assert same_factors(loaded, bare)
    assert replace(loaded, factors={}, embedding=None) == replace(bare, factors={}, embedding=None)


def test_a_token_without_factors_comes_back(subject: Subject, tmp_path: Path) -> None:
    """Textual inversion learns only a token."""
    loaded = load_subject(save_subject(replace(subject, factors={}), tmp_path / "token.safetensors"))
    assert not loaded.factors and torch.equal(loaded.embedding, subject.embedding)


def test_ranks_may_differ_between_layers(model: VideoCrafter2, tmp_path: Path) -> None:
    low, high = random_subject(model, every=24, rank=1), random_subject(model, every=24, rank=5)
    name = next(iter(low.factors))
    mixed = replace(low, factors={**low.factors, name: high.factors[name]})
    loaded = load_subject(save_subject(mixed, tmp_path / "mixed.safetensors"))
    assert same_factors(loaded, mixed) and loaded.rank == 5


def test_factors_that_are_slices_of_one_tensor_can_be_saved(subject: Subject, tmp_path: Path) -> None:
    fused = {name: torch.cat([pair.up, pair.up]) for name, pair in subject.factors.items()}
    sliced = {name: LoRAFactors(pair.down, fused[name][len(pair.up) :]) for name, pair in subject.factors.items()}
    same = next(iter(sliced.values())).down
    sliced = {
        name: LoRAFactors(same, pair.up) if pair.down.shape == same.shape else pair for name, pair in sliced.items()
    }
    loaded = load_subject(save_subject(replace(subject, factors=sliced), tmp_path / "sliced.safetensors"))
    assert same_factors(loaded, replace(subject, factors=sliced))


def test_half_precision_and_gradients_are_saved_as_plain_float32(subject: Subject, tmp_path: Path) -> None:
    trained = {
        name: LoRAFactors(torch.nn.Parameter(pair.down.half()), torch.nn.Parameter(pair.up.half()))
        for name, pair in subject.factors.items()
    }
    loaded = load_subject(save_subject(replace(subject, factors=trained), tmp_path / "half.safetensors"))
    for name, pair in loaded.factors.items():
        assert pair.up.dtype == pair.down.dtype == torch.float32 and not pair.up.requires_grad
        assert torch.equal(pair.up, trained[name].up.detach().float())


def test_training_settings_of_any_kind_do_not_lose_the_subject(subject: Subject, tmp_path: Path) -> None:
    settings = {"folder": Path("photos"), "dtype": torch.float16}
    loaded = load_subject(save_subject(replace(subject, training=settings), tmp_path / "x.safetensors"))
    assert loaded.training == {"folder": "photos", "dtype": "torch.float16"}


def test_a_loaded_subject_samples_as_the_saved_one(model: VideoCrafter2, subject: Subject, path: Path) -> None:
    settings = VideoSettings("<bear7> teddy bear", width=32, height=16, frames=2, steps=2)
    first, second = (generate(model, settings, [AppliedSubject(s)]).latent for s in (subject, load_subject(path)))
    assert torch.equal(first, second)


def test_the_file_can_be_removed_while_the_subject_is_used(subject: Subject, path: Path) -> None:
    loaded = load_subject(path)
    path.write_bytes(b"")
    assert same_factors(loaded, subject)


def test_names_are_those_that_the_hosts_lora_loader_reads(model: VideoCrafter2, path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    layers = {
        name.removeprefix("diffusion_model.").removesuffix(f".lora_{letter}.weight")
        for name in names - {"emb_params"}
        for letter in "AB"
        if name.endswith(f".lora_{letter}.weight")
    }
    assert len(names) == 2 * len(layers) + 1
    assert layers <= {name for name, _ in model.unet.named_modules()}
    assert layers <= set(lora_targets(model.unet))


# writing


def failing_save(tensors: Any, file: Path, metadata: Any = None) -> None:
    Path(file).write_bytes(b"half of it")
    raise RuntimeError("power cut")


@pytest.mark.skipif(os.name != "posix", reason="permissions as in POSIX")
def test_others_can_read_it_as_any_new_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_failure_while_writing_leaves_the_old_file(
    subject: Subject, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(tensor_file, "save_file", failing_save)
    with pytest.raises(RuntimeError, match="power cut"):
        save_subject(replace(subject, steps=1), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_full_disk_leaves_the_old_file(subject: Subject, path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file sizes can be limited on Unix only")
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"bear\.safetensors cannot be written"):
            save_subject(replace(subject, steps=1), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_folder_that_cannot_be_made(subject: Subject, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(OSError):
        save_subject(subject, path / "below-a-file.safetensors")
    assert path.read_bytes() == before


def test_place_taken_by_a_folder(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "bear.safetensors").mkdir()
    with pytest.raises(OSError):
        save_subject(subject, tmp_path / "bear.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["bear.safetensors"]


@pytest.mark.parametrize("name", ["bear.pt", "bear", "bear.safetensors.txt"])
def test_name_with_another_ending(subject: Subject, tmp_path: Path, name: str) -> None:
    error = refusal(lambda: save_subject(subject, tmp_path / name))
    assert ".safetensors" in error.expected and name in error.found and not list(tmp_path.iterdir())


def spoiled(subject: Subject, part: str, value: float) -> Subject:
    name = next(iter(subject.factors))
    pair = replace(subject.factors[name], **{part: torch.full_like(getattr(subject.factors[name], part), value)})
    return replace(subject, factors={**subject.factors, name: pair})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_subject_that_could_not_be_read_back_is_not_written(subject: Subject, path: Path, value: float) -> None:
    before, name = path.read_bytes(), next(iter(subject.factors))
    for part in ("up", "down"):
        error = refusal(lambda part=part: save_subject(spoiled(subject, part, value), path))
        assert "finite" in error.expected and f"{name} {part}" in error.found
    token = replace(subject, embedding=torch.full((1, 48), value))
    assert "the learned token" in refusal(lambda: save_subject(token, path)).found
    word = replace(subject, placeholder="dog")
    assert "'dog'" in refusal(lambda: save_subject(word, path)).found
    empty = replace(subject, embedding=torch.zeros(0, 48))
    assert "(0, 48)" in refusal(lambda: save_subject(empty, path)).found
    assert path.read_bytes() == before


# reading


def test_no_such_file(tmp_path: Path) -> None:
    assert "no file" in refusal(lambda: load_subject(tmp_path / "none.safetensors")).found


def test_lora_of_another_program(path: Path) -> None:
    error = refusal(lambda: load_subject(rewrite(path, lambda _, metadata: drop(metadata, METADATA_KEY))))
    assert "subject" in error.expected and "metadata" in error.found and "convert" in error.remedy


def test_checkpoint_is_no_subject(tmp_path: Path) -> None:
    path = tiny_models.write(tmp_path / "model.safetensors", {"a": torch.zeros(1)})
    assert "subject" in refusal(lambda: load_subject(path)).expected


def test_torch_file_is_no_subject(subject: Subject, tmp_path: Path) -> None:
    torch.save({"emb_params": subject.embedding}, tmp_path / "bear.pt")
    assert "subject" in refusal(lambda: load_subject(tmp_path / "bear.pt")).expected


def test_no_token(path: Path) -> None:
    error = refusal(lambda: load_subject(rewrite(path, lambda tensors, _: drop(tensors, TOKEN))))
    assert TOKEN in error.expected and error.found == "none"


@pytest.mark.parametrize("name", ["extra", "diffusion_model.x.alpha", "lora_unet_x.lora_down.weight"])
def test_unknown_tensor(path: Path, name: str) -> None:
    error = refusal(lambda: load_subject(rewrite(path, lambda tensors, _: tensors.update({name: torch.zeros(1)}))))
    assert name in error.found


@pytest.mark.parametrize("letter", ["A", "B"])
def test_only_one_factor(path: Path, subject: Subject, letter: str) -> None:
    layer = next(iter(subject.factors))
    name = f"diffusion_model.{layer}.lora_{letter}.weight"
    error = refusal(lambda: load_subject(rewrite(path, lambda tensors, _: drop(tensors, name))))
    assert "only one factor" in error.found and layer in error.found


def test_a_layer_missing_altogether(path: Path, subject: Subject) -> None:
    layer = next(iter(subject.factors))

    def change(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        for letter in "AB":
            del tensors[f"diffusion_model.{layer}.lora_{letter}.weight"]

    count = len(subject.factors)
    assert f"{count - 1} of the {count} layers" in refusal(lambda: load_subject(rewrite(path, change))).found


@pytest.mark.parametrize("shape", [(4, 32), (0, 32), (3,), (3, 32, 1, 1)])
def test_rank_mismatch(path: Path, subject: Subject, shape: tuple[int, ...]) -> None:
    layer = next(iter(subject.factors))
    change = {f"diffusion_model.{layer}.lora_A.weight": torch.zeros(shape)}
    error = refusal(lambda: load_subject(rewrite(path, lambda tensors, _: tensors.update(change))))
    assert "rank" in error.expected and layer in error.found and str(tuple(shape)) in error.found


def test_token_that_is_no_table(path: Path) -> None:
    for token in (torch.zeros(48), torch.zeros(0, 48), torch.zeros(1, 1, 48)):
        error = refusal(lambda token=token: load_subject(rewrite(path, lambda t, _: t.update({TOKEN: token}))))
        assert "(n, width)" in error.expected and str(tuple(token.shape)) in error.found


def test_not_finite(path: Path, subject: Subject) -> None:
    layer = list(subject.factors)[-1]
    for name, words in ((f"diffusion_model.{layer}.lora_B.weight", f"{layer} up"), (TOKEN, "the learned token")):
        before = path.read_bytes()

        def change(tensors: dict[str, torch.Tensor], metadata: dict[str, str], name: str = name) -> None:
            tensors[name].view(-1)[-1] = torch.nan

        error = refusal(lambda change=change: load_subject(rewrite(path, change)))
        assert "finite" in error.expected and words in error.found
        path.write_bytes(before)


def test_integers(path: Path) -> None:
    change = {TOKEN: torch.zeros(1, 48, dtype=torch.int64)}
    error = refusal(lambda: load_subject(rewrite(path, lambda tensors, _: tensors.update(change))))
    assert "the learned token" in error.found and "integers" in error.found


def test_newer_format(path: Path) -> None:
    error = refusal(lambda: load_subject(rewrite_content(path, format=2)))
    assert "format 1" in error.expected and "format 2" in error.found and "update" in error.remedy


@pytest.mark.parametrize(
    "stored",
    ["", "garbage", "null", "7", "[]", '"format"', "{}", "{", '{"format": null}', '{"format": "1"}', "[" * 100_000],
)
def test_damaged_metadata(path: Path, stored: str) -> None:
    error = refusal(lambda: load_subject(rewrite(path, lambda _, metadata: metadata.update({METADATA_KEY: stored}))))
    assert METADATA_KEY in error.expected and path.name in error.expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(({name: ...}, name) for name in ("placeholder", "class_word", "steps", "base", "lambda_s", "lambda_l", "k")),
        ({"training": ...}, "training"),
        ({"training": 3}, "int"),
        ({"steps": "many"}, "many"),
        ({"steps": float("inf")}, "infinity"),
        ({"k": float("inf")}, "inf"),
        ({"k": -1}, "-1"),
        ({"k": 2.5}, "2.5"),
        ({"k": None}, "None"),
        ({"lambda_s": float("nan")}, "nan"),
        ({"lambda_l": "strong"}, "strong"),
        ({"lambda_l": None}, "None"),
        ({"placeholder": "two words"}, "two words"),
        ({"placeholder": ""}, "''"),
        ({"placeholder": "dog"}, "dog"),
        ({"targets": 5}, "of the 5 layers"),
        ({"targets": ...}, "of the None layers"),
    ],
)
def test_damaged_fields(path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(lambda: load_subject(rewrite_content(path, **changes))).found


@pytest.mark.parametrize("stored", ["abc", "ü", "====", "AAA\n*"])
def test_damaged_thumbnail(path: Path, stored: str) -> None:
    error = refusal(lambda: load_subject(rewrite(path, lambda _, metadata: metadata.update({THUMBNAIL_KEY: stored}))))
    assert path.name in error.expected


def test_thumbnail_is_kept_as_text_in_the_metadata(path: Path, subject: Subject) -> None:
    with safe_open(path, framework="pt") as file:
        assert base64.b64decode(file.metadata()[THUMBNAIL_KEY]) == subject.thumbnail


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    error = refusal(lambda: load_subject(path))
    assert path.name in f"{error.expected} {error.found}" and "again" in error.remedy


# does it belong to this base model?


def test_a_subject_fits_its_own_base(model: VideoCrafter2, subject: Subject) -> None:
    check_fits(subject, model)
    check_fits(replace(subject, base=""), model)  # unknown, as of an imported LoRA


def test_token_of_another_width(model: VideoCrafter2, subject: Subject) -> None:
    error = refusal(lambda: check_fits(replace(subject, embedding=torch.zeros(1, 1024)), model, any_base=True))
    assert "width 48" in error.expected and "1024" in error.found


@pytest.mark.parametrize("part", ["up", "down"])
def test_factors_of_another_width(model: VideoCrafter2, subject: Subject, part: str) -> None:
    name = next(iter(subject.factors))
    pair, shape = subject.factors[name], {"up": (320, 3), "down": (3, 320)}[part]
    wide = replace(subject, factors={**subject.factors, name: replace(pair, **{part: torch.zeros(shape)})})
    error = refusal(lambda: check_fits(wide, model, any_base=True))
    assert name in error.found and "320" in error.found and "32x32" in error.found


def test_factors_of_layers_that_are_not_there(model: VideoCrafter2, subject: Subject) -> None:
    pair = next(iter(subject.factors.values()))
    for name in ("down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.temp_attentions.0.proj_in"):
        strange = replace(subject, factors={**subject.factors, name: pair})
        assert name in refusal(lambda strange=strange: check_fits(strange, model, any_base=True)).found


def test_another_base_of_the_same_widths_is_refused_unless_allowed(model: VideoCrafter2, subject: Subject) -> None:
    numbers = json.loads(model.fingerprint)
    numbers["numbers"] = [number + 0.3 for number in numbers["numbers"]]
    stranger = replace(subject, base=json.dumps(numbers))
    settings = VideoSettings("<bear7>", width=32, height=16, frames=2, steps=1)
    for action in (lambda: check_fits(stranger, model), lambda: generate(model, settings, [AppliedSubject(stranger)])):
        error = refusal(action)
        assert (
            "this base model" in error.expected and "another base model" in error.found and "any_base" in error.remedy
        )
    check_fits(stranger, model, any_base=True)
    generate(model, settings, [AppliedSubject(stranger)], any_base=True)


@pytest.mark.parametrize(
    "base", ["x", "[]", "5", '{"widths": 1}', '{"widths": "32-64-128-128-48", "numbers": {"a": 1}}']
)
def test_a_damaged_fingerprint_is_another_base(model: VideoCrafter2, subject: Subject, base: str) -> None:
    assert "another base model" in refusal(lambda: check_fits(replace(subject, base=base), model)).found


# fingerprint


def test_fingerprint_survives_a_change_of_dtype_but_not_of_weights(tmp_path: Path) -> None:
    state = tiny_models.state_dict()
    path = tiny_models.write(tmp_path / "model.safetensors", state)
    full, half, brain = (
        load_videocrafter2(path, dtype=dtype).fingerprint for dtype in (torch.float32, torch.float16, torch.bfloat16)
    )
    for first in (full, half, brain):
        for second in (full, half, brain):
            assert same_base(first, second)
    others = [fingerprint(tiny_models.networks(seed).unet) for seed in (1, 2)]
    for sampled in ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"):
        name = f"model.diffusion_model.{sampled}"
        noise = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(0)) * state[name].std()
        tuned = tiny_models.write(tmp_path / "tuned.safetensors", {**state, name: state[name] + 0.5 * noise})
        others.append(load_videocrafter2(tuned).fingerprint)
    for other in others:
        for first in (full, half, brain):
            assert not same_base(first, other) and not same_base(other, first)
    assert not same_base(full, full.replace('"widths": "4-', '"widths": "8-'))
