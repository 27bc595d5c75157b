"""Checkpoint files: every format gives the same model, and every file that does not fit is refused by name."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from customcrafter_core.base_model import loading
from customcrafter_core.base_model.config import (
    CONFIG_KEY,
    FORMER_KEY,
    FORMER_METADATA,
    PROMPT_LENGTH,
    VIDEOCRAFTER2,
    VOCAB_SIZE,
    Defaults,
    config_metadata,
    read_config,
)
from customcrafter_core.base_model.conversion import SCHEDULE_BUFFERS
from customcrafter_core.base_model.fingerprint import fingerprint
from customcrafter_core.base_model.loading import load_videocrafter2, plan
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import PromptTokenizer, clip_tokenizer
from customcrafter_core.base_model.writing import write_checkpoint
from customcrafter_core.demo import demo_checkpoint
from customcrafter_core.errors import InputError
from customcrafter_core.files.tensor_file import open_tensor_file
from tests.core import tiny_models

State = dict[str, torch.Tensor]
UNET = "model.diffusion_model."
CONV = UNET + "input_blocks.1.0.in_layers.2.weight"
QUERY = UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
TEXT_QKV = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
TOKENS = "cond_stage_model.model.token_embedding.weight"
POSITIONS = "cond_stage_model.model.positional_embedding"


@pytest.fixture(scope="module")
def weights() -> State:
    return tiny_models.state_dict()


@pytest.fixture(scope="module")
def expected(weights: State) -> VideoCrafter2:
    """The model as it was written, without reading any file."""
    networks = tiny_models.networks()
    return VideoCrafter2(
        networks.unet,
        networks.text_encoder,
        networks.vae,
        tiny_models.CONFIG,
        tiny_models.DEFAULTS,
        None,
        fingerprint(networks.unet),
    )


@pytest.fixture
def state(weights: State) -> State:
    """A copy to spoil."""
    return dict(weights)


def load(path: Path, **options: Any) -> VideoCrafter2:
    """Load with the sizes, which a torch checkpoint cannot state."""
    return load_videocrafter2(path, config=tiny_models.CONFIG, **options)


def refusal(action: Callable[[], Any]) -> InputError:
    """The error an action must raise, with all three parts filled in."""
    with pytest.raises(InputError) as error:
        action()
    assert error.value.expected and error.value.found and error.value.remedy
    return error.value


def assert_same(model: VideoCrafter2, expected: VideoCrafter2, dtype: torch.dtype = torch.float32) -> None:
    """Every parameter and buffer bit for bit, in the dtype wanted, and ready for use."""
    for part in ("unet", "text_encoder", "vae"):
        ours, theirs = getattr(model, part), getattr(expected, part)
        assert not ours.training
        values = dict(ours.named_parameters())
        assert values.keys() == dict(theirs.named_parameters()).keys()
        for name, value in theirs.named_parameters():
            assert values[name].dtype == dtype and not values[name].requires_grad
            assert torch.equal(values[name], value.detach().to(dtype)), name
        for name, value in theirs.named_buffers():
            assert torch.equal(dict(ours.named_buffers())[name], value), name
    assert model.config == expected.config


# formats


def test_safetensors(tmp_path: Path, state: State, expected: VideoCrafter2) -> None:
    model = load_videocrafter2(tiny_models.write(tmp_path / "model.safetensors", state))
    assert_same(model, expected)
    assert model.defaults == tiny_models.DEFAULTS
    assert model.fingerprint == expected.fingerprint


def test_format_is_told_by_content_not_by_name(tmp_path: Path, state: State, expected: VideoCrafter2) -> None:
    assert_same(load(tiny_models.write(tmp_path / "model.ckpt", state)), expected)
    torch.save(state, tmp_path / "model.safetensors")
    assert_same(load(tmp_path / "model.safetensors"), expected)


def test_header_length_that_begins_like_a_pickle(tmp_path: Path, state: State, expected: VideoCrafter2) -> None:
    """One safetensors file in 32 begins with the byte with which pickles begin."""
    path, metadata = tmp_path / "m.safetensors", {"note": ""}
    save_file(state, path, metadata=metadata)
    while path.read_bytes()[:1] != b"\x80":
        metadata["note"] += 8 * "."
        save_file(state, path, metadata=metadata)
    assert_same(load(path), expected)


@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "bare"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_checkpoint(tmp_path: Path, state: State, expected: VideoCrafter2, wrapped: bool, zipped: bool) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state} if wrapped else state, path, _use_new_zipfile_serialization=zipped)
    assert_same(load(path), expected)


def pack_again(source: Path, target: Path, compression: int) -> None:
    """As another program would: in another order, without the padding that torch puts between tensors."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in reversed(old.infolist()):
            new.writestr(entry.filename, old.read(entry))


def test_torch_checkpoint_packed_again_by_another_program(
    tmp_path: Path, state: State, expected: VideoCrafter2
) -> None:
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    pack_again(tmp_path / "model.ckpt", tmp_path / "stored.ckpt", zipfile.ZIP_STORED)
    assert_same(load(tmp_path / "stored.ckpt"), expected)
    assert_same(load(tmp_path / "stored.ckpt", dtype=torch.float16), expected, torch.float16)
    pack_again(tmp_path / "model.ckpt", tmp_path / "packed.ckpt", zipfile.ZIP_DEFLATED)
    assert "packed by another program" in refusal(lambda: load(tmp_path / "packed.ckpt")).found


def test_parameters_instead_of_tensors(tmp_path: Path, state: State, expected: VideoCrafter2) -> None:
    torch.save({name: torch.nn.Parameter(value) for name, value in state.items()}, tmp_path / "model.ckpt")
    assert_same(load(tmp_path / "model.ckpt"), expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_that_are_not_contiguous_or_share_a_storage(
    tmp_path: Path, state: State, expected: VideoCrafter2, zipped: bool
) -> None:
    state[CONV] = state[CONV].transpose(0, 1).contiguous().transpose(0, 1)
    state[QUERY] = torch.stack([state[QUERY], state[QUERY]], dim=-1)[..., 0]  # every second number of its storage
    assert not state[CONV].is_contiguous() and not state[QUERY].is_contiguous()
    names = [name for name in state if "attn2" in name and name.endswith(".weight")]
    storage = torch.cat([torch.zeros(3), *(state[name].flatten() for name in names)])
    offset = 3
    for name in names:
        state[name] = storage[offset : offset + state[name].numel()].view(state[name].shape)
        offset += state[name].numel()
    assert len({state[name].untyped_storage().data_ptr() for name in names}) == 1
    torch.save({"state_dict": state}, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    assert_same(load(tmp_path / "model.ckpt"), expected)
    assert_same(load(tmp_path / "model.ckpt", dtype=torch.float16), expected, torch.float16)  # read, not mapped


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (torch.float32, torch.float16),
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float16),
        (torch.float64, torch.bfloat16),
    ],
)
def test_dtypes(tmp_path: Path, state: State, expected: VideoCrafter2, stored: torch.dtype, dtype: torch.dtype) -> None:
    state = {name: value.to(stored) for name, value in state.items()}
    model = load(tiny_models.write(tmp_path / "model.safetensors", state), dtype=dtype)
    torch.save(state, tmp_path / "model.ckpt")
    assert_same(load(tmp_path / "model.ckpt", dtype=dtype), model, dtype)
    if stored in (torch.float32, torch.float64):
        assert_same(model, expected, dtype)
    else:
        ours = dict(model.unet.named_parameters())["conv_in.weight"]
        assert torch.equal(ours, expected.unet.conv_in.weight.detach().to(stored).to(dtype))


def test_the_file_is_never_written_to(tmp_path: Path, state: State) -> None:
    """Weights are mapped from the file; changing them in memory must stay there."""
    path = tiny_models.write(tmp_path / "model.safetensors", state)
    before = path.read_bytes()
    model = load_videocrafter2(path)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.fill_(7.0)
    assert path.read_bytes() == before


def test_write_and_read_back(tmp_path: Path, expected: VideoCrafter2) -> None:
    path = tmp_path / "new" / "model.safetensors"
    networks = tiny_models.networks()
    for dtype in (torch.float32, torch.float16):  # the second replaces the first
        write_checkpoint(path, networks, tiny_models.CONFIG, defaults=tiny_models.DEFAULTS, dtype=dtype)
        model = load_videocrafter2(path, dtype=dtype)
        assert_same(model, expected, dtype)
        assert model.defaults == tiny_models.DEFAULTS
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_progress_counts_every_tensor(tmp_path: Path, state: State) -> None:
    seen: list[tuple[int, int]] = []
    load(tiny_models.write(tmp_path / "m.safetensors", state), on_tensor=lambda *counts: seen.append(counts))
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))] and len(seen) > 500


# Lightning's extras


class Callback:
    """As Lightning stores it: an object with a state."""

    def __init__(self) -> None:
        self.best = 0.5


class AttributeDict(dict):  # type: ignore[type-arg]
    """As Lightning stores hyper-parameters."""


class ListConfig:
    """As OmegaConf stores lists: all in ``__dict__``, restored by ``__setstate__``."""

    def __init__(self, values: list[Any]) -> None:
        self.content = values

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("code of the checkpoint ran")


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the classes above the names of libraries that are not installed; they are gone when files are read."""
    for module, kind in (
        ("pytorch_lightning.callbacks.model_checkpoint", Callback),
        ("pytorch_lightning.utilities.parsing", AttributeDict),
        ("omegaconf.listconfig", ListConfig),
    ):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        setattr(sys.modules[module], kind.__name__, kind)
        monkeypatch.setattr(kind, "__module__", module)
    yield
    monkeypatch.undo()


def lightning_extras() -> dict[str, Any]:
    counts: defaultdict[str, int] = defaultdict(int)
    counts["seen"] = 3
    optimizer = {
        "state": {
            0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(40), "exp_avg_sq": torch.full((9,), torch.nan)}
        },
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
    }
    return {
        "epoch": 3,
        "global_step": 7000,
        "pytorch-lightning_version": "1.8.3",
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {"best": np.float64(0.5), "path": Path("a/b")},
            Callback: Callback(),
        },
        "optimizer_states": [optimizer],
        "lr_schedulers": [{"last_epoch": 3, "counts": counts}],
        "hparams_name": "config",
        "hyper_parameters": AttributeDict(size=ListConfig([512, 320]), nested=AttributeDict(lr=1e-4)),
        "loops": {"fit_loop": {"state_dict": {}}},
    }


def schedule_buffers() -> State:
    return {name: torch.linspace(0, 1, 1000) for name in sorted(SCHEDULE_BUFFERS)}


def test_lightnings_extras_are_passed_over(
    tmp_path: Path, state: State, expected: VideoCrafter2, lightning: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({**lightning_extras(), "state_dict": {**schedule_buffers(), **state}}, tmp_path / "model.ckpt")
    monkeypatch.undo()
    assert "pytorch_lightning" not in sys.modules and "omegaconf" not in sys.modules
    assert_same(load(tmp_path / "model.ckpt"), expected)
    assert "pytorch_lightning" not in sys.modules and "omegaconf" not in sys.modules


def test_objects_of_lightning_are_never_made_even_when_it_is_installed(
    tmp_path: Path, state: State, expected: VideoCrafter2, lightning: None
) -> None:
    """`ListConfig.__setstate__` raises: it would, if the class were used."""
    torch.save({**lightning_extras(), "state_dict": state}, tmp_path / "model.ckpt")
    assert "omegaconf" in sys.modules
    assert_same(load(tmp_path / "model.ckpt"), expected)


def test_schedule_buffers_are_ignored_in_safetensors_too(tmp_path: Path, state: State, expected: VideoCrafter2) -> None:
    assert_same(load(tiny_models.write(tmp_path / "m.safetensors", {**state, **schedule_buffers()})), expected)


# pickles that run code


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Shell(Touch):
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch '{self.path}'",)


class Evaluate(Touch):
    """Runs Python when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


def write_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def write_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_new_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_pickle, write_new_pickle])
@pytest.mark.parametrize("kind", [Touch, Shell, Evaluate])
@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "whole"])
def test_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, write: Callable[[Any, Path], None], kind: type[Touch], place: str
) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "model.ckpt"
    tensors, evil = {"weight": torch.zeros(2)}, kind(marker)
    content: Any = {"state_dict": tensors, "hyper_parameters": {"lr": evil}}
    if place == "state_dict":
        content = {"state_dict": {**tensors, "evil": evil}}
    write(evil if place == "whole" else content, path)
    error = refusal(lambda: open_tensor_file(path))
    assert "only tensors" in error.expected and "It was not run" in error.remedy
    if write in (write_zip, write_legacy) and place != "whole":
        assert any(word in error.found for word in ("Path", "posix", "nt.system", "eval", "getattr"))
    assert "PyTorch 2.6" not in error.found and "weights_only" not in error.found  # no advice to load it unsafely
    assert not marker.exists()
    with path.open("rb") as file:  # the file does run code when it is read without care
        torch.load(file, weights_only=False) if write in (write_zip, write_legacy) else pickle.load(file)
    assert marker.exists()


def test_a_name_of_lightning_does_not_let_code_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    """A function that pretends to be Lightning's is not called, though its module can be imported."""
    ran: list[str] = []
    module = ModuleType("pytorch_lightning")
    monkeypatch.setitem(sys.modules, "pytorch_lightning", module)
    monkeypatch.setitem(sys.modules, "pytorch_lightning.evil", module)

    def evil(text: str) -> str:
        ran.append(text)
        return text

    evil.__module__, evil.__qualname__, module.evil = "pytorch_lightning.evil", "evil", evil  # type: ignore[attr-defined]

    class Caller:
        def __reduce__(self) -> tuple[Any, ...]:
            return evil, ("called",)

    torch.save({"state_dict": state, "callbacks": Caller()}, tmp_path / "model.ckpt")
    load(tmp_path / "model.ckpt")
    assert not ran


# files that are no checkpoint


def test_no_such_file(tmp_path: Path) -> None:
    error = refusal(lambda: load(tmp_path / "nowhere.ckpt"))
    assert "no file" in error.found and "nowhere.ckpt" in error.found


def test_folder(tmp_path: Path) -> None:
    error = refusal(lambda: load(tmp_path))
    assert "a folder" in error.found and str(tmp_path) in error.found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"<!doctype html><title>Sign in</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7396000000\n",
        b"cposix\nsystem\n(S'true'\ntR.",  # a pickle of protocol 0
        b"{}\n",
        bytes(4096),
    ],
)
def test_text_and_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    error = refusal(lambda: load(path))
    assert "checkpoint" in error.expected and "model.ckpt" in error.found and "again" in error.remedy


def test_name_too_long_for_the_system(tmp_path: Path) -> None:
    assert "too long" in refusal(lambda: load(tmp_path / ("x" * 5000))).found


@pytest.mark.parametrize("part", [0.0001, 0.01, 0.5, 0.99])
def test_truncated_safetensors(tmp_path: Path, state: State, part: float) -> None:
    path = tiny_models.write(tmp_path / "model.safetensors", state)
    content = path.read_bytes()
    path.write_bytes(content[: max(int(len(content) * part), 12)])
    error = refusal(lambda: load(path))
    assert "model.safetensors" in error.expected and "truncated" in error.found and "again" in error.remedy


@pytest.mark.parametrize("part", [0.0001, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_torch_checkpoint(tmp_path: Path, state: State, part: float, zipped: bool) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: max(int(len(content) * part), 12)])
    error = refusal(lambda: load(path))
    assert "model.ckpt" in error.expected and "truncated" in error.found and "again" in error.remedy


def test_zip_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as file:
        file.writestr("readme.txt", "hello")
    assert "model.ckpt" in refusal(lambda: load(tmp_path / "model.ckpt")).expected


@pytest.mark.parametrize(
    "content", [{}, {"state_dict": {}}, {"state_dict": [1]}, [1, 2], "text", {"epoch": 3}, None, 5]
)
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_torch_file_without_named_tensors(tmp_path: Path, write: Callable[[Any, Path], None], content: Any) -> None:
    write(content, tmp_path / "model.ckpt")
    error = refusal(lambda: load(tmp_path / "model.ckpt"))
    assert "state_dict" in error.expected and "model.ckpt" in error.found


def test_sparse_tensor(tmp_path: Path, state: State) -> None:
    state[QUERY] = state[QUERY].to_sparse()
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    assert QUERY in refusal(lambda: load(tmp_path / "model.ckpt")).found


# other models


def shapes_of(*names: str) -> State:
    return {name: torch.zeros(4, 4) for name in names}


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (
            shapes_of(
                UNET + "input_blocks.0.0.weight",
                UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
                "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
                "first_stage_model.encoder.conv_in.weight",
                "model_ema.decay",
            ),
            "image model (Stable Diffusion",
        ),
        (
            shapes_of(UNET + "input_blocks.0.0.weight", UNET + "input_blocks.1.0.temopral_conv.conv1.0.weight"),
            "VideoCrafter1",
        ),
        (shapes_of("conv_in.weight", "down_blocks.0.resnets.0.norm1.weight"), "diffusers format"),
        (shapes_of("unet.down_blocks.0.attentions.0.to_q.lora_A.weight"), "LoRA"),
        (shapes_of("some.other.weight"), "some.other.weight"),
    ],
    ids=["stable-diffusion", "videocrafter1", "diffusers", "lora", "other"],
)
def test_other_models_are_told_by_their_names(tmp_path: Path, content: State, looks_like: str) -> None:
    error = refusal(lambda: load(tiny_models.write(tmp_path / "model.safetensors", content)))
    assert "VideoCrafter2" in error.expected and looks_like in error.found and "model.ckpt" in error.remedy


# weights that do not fit


@pytest.fixture
def networks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the networks once; matching only reads them."""
    monkeypatch.setattr(loading, "build_networks", cache(loading.build_networks))


def plan_of(state: State) -> Any:
    """Match names and shapes as loading does, without a file."""
    return plan(SimpleNamespace(tensors=state, metadata={}), tiny_models.CONFIG)  # type: ignore[arg-type]


def sample_names(state: State) -> list[str]:
    return sorted(set(list(state)[::31]) - {name for name in state if ".resblocks.2." in name})


def test_each_missing_weight_is_named(state: State, networks_once: None) -> None:
    for name in sample_names(state):
        rest = {n: value for n, value in state.items() if n != name}
        error = refusal(lambda rest=rest: plan_of(rest))
        assert "VideoCrafter2" in error.expected and name in error.found, name


def test_each_misshapen_weight_is_named_with_both_shapes(state: State, networks_once: None) -> None:
    for name in sample_names(state):
        shape = tuple(state[name].shape)
        wrong = (*shape[:-1], shape[-1] + 4)
        error = refusal(lambda name=name, wrong=wrong: plan_of({**state, name: torch.zeros(wrong)}))
        assert name in error.found, name
        if 1 not in shape:  # 1x1 convolutions are linear layers of ours
            assert error.found == f"1 of another shape: {name} {wrong} instead of {shape}"


@pytest.mark.parametrize("shape", [(), (7,), (0, 4, 3, 3)])
def test_weight_with_dimensions_missing(state: State, networks_once: None, shape: tuple[int, ...]) -> None:
    for name in sample_names(state):
        assert name in refusal(lambda name=name: plan_of({**state, name: torch.zeros(shape)})).found, name


@pytest.mark.parametrize(
    "name",
    [
        "extra",
        UNET + "extra.weight",
        QUERY.replace(".weight", ".bias"),
        "first_stage_model.loss.logvar",
        "model_ema.decay",
    ],
)
def test_an_unexpected_weight_is_named(tmp_path: Path, state: State, name: str) -> None:
    state[name] = torch.zeros(4)
    error = refusal(lambda: load(tiny_models.write(tmp_path / "m.safetensors", state)))
    assert error.found == f"1 unexpected: {name}"


def test_everything_that_does_not_fit_is_named_at_once(tmp_path: Path, state: State) -> None:
    gone = [CONV, TEXT_QKV, "first_stage_model.quant_conv.bias", UNET + "out.0.bias"]
    extra = [f"stranger.{i}" for i in range(20)]
    for name in gone:
        del state[name]
    state |= {name: torch.zeros(1) for name in extra}
    state[QUERY] = torch.zeros(4, 6)
    error = refusal(lambda: load(tiny_models.write(tmp_path / "m.safetensors", state)))
    assert "4 missing" in error.found and "20 unexpected" in error.found and "1 of another shape" in error.found
    assert all(name in error.found for name in [*gone, *extra, QUERY])


@pytest.mark.parametrize(
    ("name", "bad"),
    [(CONV, torch.nan), (TEXT_QKV, torch.inf), ("first_stage_model.decoder.conv_out.bias", -torch.inf)],
)
def test_weight_that_is_not_finite_is_named(tmp_path: Path, state: State, name: str, bad: float) -> None:
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = bad
    path = tiny_models.write(tmp_path / "model.safetensors", state)
    for dtype in (torch.float32, torch.float16):
        error = refusal(lambda dtype=dtype: load(path, dtype=dtype))
        assert "finite" in error.expected and f"NaN or infinity in {name} of model.safetensors" in error.found


def test_weight_beyond_float16_is_named_with_the_way_out(tmp_path: Path, state: State, expected: VideoCrafter2) -> None:
    state[CONV] = state[CONV].clone()
    state[CONV].view(-1)[0] = 70_000.0
    path = tiny_models.write(tmp_path / "m.safetensors", state)
    error = refusal(lambda: load(path, dtype=torch.float16))
    assert "float16" in error.expected and CONV in error.found and "bfloat16" in error.remedy
    assert float(load(path, dtype=torch.bfloat16).unet.down_blocks[0].resnets[0].conv1.weight.max()) > 69_000


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_integer_weight_is_named(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    state[CONV] = torch.ones_like(state[CONV], dtype=dtype)
    error = refusal(lambda: load(tiny_models.write(tmp_path / "m.safetensors", state)))
    assert "floating-point" in error.expected and f"{CONV} in {dtype}" in error.found


def test_quantised_weight_is_named(tmp_path: Path, state: State) -> None:
    state[CONV] = state[CONV].to(torch.float8_e4m3fn)
    error = refusal(lambda: load(tiny_models.write(tmp_path / "m.safetensors", state)))
    assert "float32" in error.expected and CONV in error.found and "float8_e4m3fn" in error.found


# sizes


def told(**changes: Any) -> str:
    """The tiny model's sizes as metadata, some of them changed: ``unet_block_out_channels=[4]``, or left out by None."""
    content = json.loads(config_metadata(tiny_models.CONFIG, tiny_models.DEFAULTS)[CONFIG_KEY])
    for name, value in changes.items():
        part, _, size = name.partition("_")
        content[part][size] = value
        if value is None:
            del content[part][size]
    return json.dumps(content)


def test_sizes_are_written_and_read() -> None:
    for config, defaults in ((VIDEOCRAFTER2, Defaults()), (tiny_models.CONFIG, tiny_models.DEFAULTS)):
        assert read_config(config_metadata(config, defaults)) == (config, defaults)
    assert read_config({"format": "pt"}) == (VIDEOCRAFTER2, Defaults())


@pytest.mark.parametrize(
    "stored",
    [
        "", "garbage", "[]", "[1, 2]", '"unet"', "null", "7", "{", "{}", "[" * 100_000, '{"unet": {}}',
        '{"unet": 1, "text": 2, "vae": 3, "video": 4}', told(unet_more=1), told(text_num_attention_heads=None), told(video_cfg=None),
        *(told(unet_attention_head_dim=bad) for bad in ("4", 0, -4, 4.0, True, [4], 10**20, {"a": 1})),
        told(video_cfg=float("nan")), told(video_cfg="12"), told(video_fps=7.5), told(text_num_hidden_layers=60_000),
        told(unet_block_out_channels=4), told(unet_block_out_channels=[]), told(unet_block_out_channels=[4, "8"]), told(unet_attends=[1, 0]),
        told(unet_block_out_channels=[4] * 1000),
    ],
)  # fmt: skip
def test_metadata_that_is_garbage(tmp_path: Path, state: State, stored: str) -> None:
    save_file(state, tmp_path / "m.safetensors", metadata={CONFIG_KEY: stored})
    error = refusal(lambda: load_videocrafter2(tmp_path / "m.safetensors"))
    assert CONFIG_KEY in error.expected and len(error.found) <= 500


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"unet_attention_head_dim": 3}, "UNet channels that heads divide"),
        ({"unet_norm_num_groups": 3}, "UNet channels that groups divide"),
        ({"vae_norm_num_groups": 3}, "autoencoder channels that groups divide"),
        ({"text_num_attention_heads": 3}, "a text width that heads divide"),
        ({"text_num_attention_heads": 16}, "a text width that heads divide"),
        ({"unet_attends": [True]}, "one attends for each level"),
        ({"unet_cross_attention_dim": 16}, "text as wide as the UNet takes it"),
        ({"vae_latent_channels": 8}, "as many latent channels as the UNet takes"),
    ],
)
def test_sizes_that_do_not_fit_each_other(changes: dict[str, Any], found: str) -> None:
    error = refusal(lambda: read_config({CONFIG_KEY: told(**changes)}))
    assert "fitting each other" in error.expected and found in error.found


def test_sizes_that_are_not_the_files(tmp_path: Path, state: State) -> None:
    """Without metadata a file is VideoCrafter2; metadata of another model do not make a file fit."""
    for metadata in ({}, {CONFIG_KEY: told(unet_block_out_channels=[8, 8])}):
        save_file(state, tmp_path / "m.safetensors", metadata=metadata)
        error = refusal(lambda: load_videocrafter2(tmp_path / "m.safetensors"))
        assert "of another shape" in error.found and len(error.found) < 20_000


def test_metadata_of_others_is_left_alone(tmp_path: Path, state: State, expected: VideoCrafter2) -> None:
    save_file(state, tmp_path / "m.safetensors", metadata={"format": "pt", "modelspec.title": json.dumps({"a": 1})})
    assert_same(load(tmp_path / "m.safetensors"), expected)


def test_the_demo_model_of_version_0_1_0(tmp_path: Path) -> None:
    """It tells a part of its sizes only."""
    with open_tensor_file(demo_checkpoint()) as file:
        tensors = {name: file.read(name) for name in file.tensors}
    save_file(tensors, tmp_path / "old.safetensors", metadata={FORMER_KEY: FORMER_METADATA})
    new, old = load_videocrafter2(demo_checkpoint()), load_videocrafter2(tmp_path / "old.safetensors")
    assert (old.config, old.defaults, old.fingerprint) == (new.config, new.defaults, new.fingerprint)
    changed = FORMER_METADATA.replace('"unet_head_dim": 8', '"unet_head_dim": 16')
    assert "0.1.0" in refusal(lambda: read_config({FORMER_KEY: changed})).found


def test_the_vocabulary_is_the_tokenizers() -> None:
    assert clip_tokenizer().vocab_size == VOCAB_SIZE
    assert PromptTokenizer().length == PROMPT_LENGTH


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_the_text_block_that_is_not_used_may_be_absent(
    tmp_path: Path, state: State, expected: VideoCrafter2, blocks: int
) -> None:
    prefix = "cond_stage_model.model.transformer.resblocks."
    for name in [name for name in state if name.startswith(f"{prefix}2.")]:
        if blocks == 4:
            state[name.replace(f"{prefix}2.", f"{prefix}3.")] = state[name]
        if blocks < 3:
            del state[name]
    if blocks == 1:
        state = {name: value for name, value in state.items() if not name.startswith(f"{prefix}1.")}
    path = tiny_models.write(tmp_path / "model.safetensors", {name: value.clone() for name, value in state.items()})
    if blocks in (2, 3):
        assert_same(load_videocrafter2(path), expected)
    else:
        assert f"{prefix}{ {1: 1, 4: 3}[blocks] }." in refusal(lambda: load_videocrafter2(path)).found
