"""The command line: what each command writes, and one sentence with exit code 2 for wrong use."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from customcrafter_core.base_model import config
from customcrafter_core.cli import demo
from customcrafter_core.cli.main import main
from customcrafter_core.cli.options import device_of
from customcrafter_core.demo import demo_checkpoint, demo_subject
from customcrafter_core.demo.base_name import base_name
from customcrafter_core.files.tensor_file import open_tensor_file
from customcrafter_core.subject.file import load_subject, save_subject
from customcrafter_core.training.config import CHOICES, PRESETS
from customcrafter_core.training.trainer import TrainStep
from tests.core import tiny_models, vectors

ROOT = Path(__file__).parents[2]
SMALL = ["--frames", "2", "--steps", "4", "--eta", "0.5"]


@dataclass(frozen=True)
class Files:
    """Files that the tests only read."""

    base: str
    photos: str
    subject: str
    lora: str


@pytest.fixture(scope="module")
def files(reference_checkpoint: Path, reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("cli")
    description = reference[0]
    photos = folder / "photos"
    photos.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 70, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    lora = folder / "authors.safetensors"
    save_file(vectors.weights(description["algorithm1"]["lora_keys"], description["recipe"]["salt"]), lora)
    subject = folder / "teddy.safetensors"
    arguments = ["train", photos, "--base", reference_checkpoint, "--class-word", "teddy bear", "--out", subject]
    assert main([*map(str, arguments), "--steps", "2", "--frames", "2", "--rank", "2"]) == 0
    return Files(str(reference_checkpoint), str(photos), str(subject), str(lora))


def wrong(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail; returns its one sentence."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def with_nan(path: str, name: str, target: Path) -> str:
    """A copy of a file with one NaN in the middle of a float32 tensor."""
    with open_tensor_file(path) as file:
        tensors, metadata = {each: file.read(each) for each in file.tensors}, file.metadata
    tensors[name].view(-1)[tensors[name].numel() // 2] = math.nan
    save_file(tensors, target, metadata=metadata)
    return str(target)


# --- start and help ---------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_without_importing_torch() -> None:
    code = (
        "import sys; from customcrafter_core.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("demo", "generate", "train", "inspect", "convert"))


@pytest.mark.parametrize("command", ["demo", "generate", "train", "sweep", "onset", "inspect", "convert"])
def test_help_of_each_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"python -m customcrafter_core {command}" in shown.partition("examples:")[2]
    assert max(map(len, shown.splitlines())) <= 120


def test_help_of_train_is_written_as_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: 'video of a {}' '{}' 'a static video of a {}' 'a {}')" in shown
    assert "(default: 0.4 1.4, 1.0 1.0 with preset demo)" in shown and "('" not in shown and "False" not in shown
    for name, words in CHOICES.items():
        assert f"--{name.replace('_', '-')} {{{','.join(words)}}}" in shown


@pytest.mark.slow
def test_a_process_tells_one_sentence_and_nothing_else(files: Files) -> None:
    arguments = ["generate", "--base", files.base, "--prompt", "x", "--subject", files.subject, "--lambda-s", "nan"]
    done = subprocess.run(
        [sys.executable, "-m", "customcrafter_core", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("Expected a finite lambda_s"), done.stderr


def test_the_device_is_the_gpu_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("cpu").type == "cpu"
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert device_of("auto").type == expected


# --- generate ---------------------------------------------------------------------------------------------------------


def generate(files: Files, out: Path, *more: str) -> dict[str, Any]:
    prompt = ["--prompt", "a <new1> teddy bear is running", "--out", str(out)]
    assert main(["generate", "--base", files.base, *prompt, *SMALL, *more]) == 0
    return json.loads((out / "video-0001.json").read_text())


def test_generate_writes_video_sheet_and_settings(files: Files, tmp_path: Path) -> None:
    record = generate(files, tmp_path, "--subject", files.subject, "--lambda-s", "0.1", "--k", "2", "--seed", "7")
    with av.open(str(tmp_path / "video-0001.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (384, 288, 8)  # 64 x 48 times 6
        assert len(list(video.decode(stream))) == 2
    with Image.open(tmp_path / "video-0001.png") as sheet:
        assert sheet.width > 2 * 160
    assert [step["strengths"] for step in record["applied"]] == [[0.1], [0.1], [0.8], [0.8]]
    assert [step["timestep"] for step in record["applied"]] == [751, 501, 251, 1]
    expected = {"seed": 7, "steps": 4, "eta": 0.5, "width": 64, "height": 48, "frames": 2, "fps": 8, "cfg": 12.0}
    assert {name: record[name] for name in expected} == expected
    assert record["subjects"][0]["trigger"] == "<new1> teddy bear"


def test_same_seed_gives_the_same_files_and_nothing_is_overwritten(files: Files, tmp_path: Path) -> None:
    records = [generate(files, tmp_path / name, "--seed", seed) for name, seed in (("a", "3"), ("b", "3"), ("c", "4"))]
    videos = [(tmp_path / name / "video-0001.mp4").read_bytes() for name in "abc"]
    assert records[0] == records[1] and videos[0] == videos[1]
    assert records[0] != records[2] and videos[0] != videos[2]
    generate(files, tmp_path / "a", "--seed", "4")
    assert (tmp_path / "a" / "video-0001.mp4").read_bytes() == videos[0]
    assert (tmp_path / "a" / "video-0002.mp4").read_bytes() == videos[2]


def test_generate_takes_two_subjects_a_curve_and_a_batch(files: Files, tmp_path: Path) -> None:
    second = ["--subject", files.subject, "--called", "<new2>", "--curve", "0:0.0, 1:0.9"]
    record = generate(files, tmp_path, "--subject", files.subject, *second, "--batch", "2", "--negative", "blur")
    applied = np.array([step["strengths"] for step in record["applied"]])
    assert np.allclose(applied, [[0.4, 0.0], [0.4, 0.3], [0.4, 0.6], [0.4, 0.9]])
    assert record["videos"] == ["video-0001-1.mp4", "video-0001-2.mp4"]
    assert all((tmp_path / name).exists() for name in record["videos"])
    assert "<new2>" in record["warnings"][0]


def test_a_prompt_without_the_token_is_warned_about(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "--base", files.base, "--subject", files.subject, "--prompt", "", "--out", str(tmp_path)]
    assert main([*arguments, *SMALL]) == 0
    assert "Warning: The prompt does not contain <new1>" in capsys.readouterr().err


def test_a_k_that_covers_all_steps_is_warned_about(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = generate(files, tmp_path, "--subject", files.subject, "--k", "9")
    assert "Warning: K 9 covers all 4 steps" in capsys.readouterr().err
    assert any("K 9 covers all 4 steps" in warning for warning in record["warnings"])


# --- train ------------------------------------------------------------------------------------------------------------


def test_sweep_writes_a_video_for_each_strength(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", "--base", files.base, "--prompt", "<new1> teddy bear", "--subject", files.subject, *SMALL]
    strengths = ["--lambda-s", "0.1", "0.8", "--k", "1", "--k", "2", "--out", str(tmp_path)]  # λl as recommended
    assert main([*arguments, *strengths]) == 0
    shown = capsys.readouterr().out
    assert "02.mp4: lambda_s 0.1, lambda_l 0.8, K 2" in shown and "Shared steps saved" in shown
    assert main([*arguments, *strengths]) == 0
    for folder in ("sweep-0001", "sweep-0002"):  # nothing is overwritten
        record = json.loads((tmp_path / folder / "sweep.json").read_text())
        assert [cell["strength"] for cell in record["cells"]] == [
            "λs 0.1, λl 0.8, K 1", "λs 0.1, λl 0.8, K 2", "constant λ 0.8",
        ]  # fmt: skip
        assert all((tmp_path / folder / cell["video"]).is_file() for cell in record["cells"])
        assert record["eta"] == 0.5 and record["frames"] == 2 and record["subject"]["trigger"] == "<new1> teddy bear"
        assert record["base"]["file"] == Path(files.base).name


def test_onset_tells_the_share_fixed_after_each_step(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["onset", "--base", files.base, "--prompt", "a bear", "--out", str(tmp_path), *SMALL, "--seed", "3"]
    assert main(arguments) == 0
    first, head, *rows = capsys.readouterr().out.splitlines()
    record = json.loads((tmp_path / "onset-0001.json").read_text())
    assert head == "step  motion  detail" and rows[3].split() == ["4", "100.0%", "100.0%"]
    assert len(record["steps_done"]) == 4 and record["seed"] == 3 and record["dtype"] == "float32"
    k = record["suggested_k"]
    assert first == (
        f"Suggested K: {k} of 4 steps."
        if k
        else "The video does not move, so no K follows from it. K 5 is the paper's."
    )
    assert (tmp_path / "onset-0001.mp4").is_file() and (tmp_path / "onset-0001.png").is_file()


def test_train_writes_a_subject_with_its_settings(files: Files) -> None:
    subject = load_subject(files.subject)
    assert (subject.trigger, subject.steps, subject.rank) == ("<new1> teddy bear", 2, 2)
    assert subject.training["frames"] == 2
    assert any(pair.up.abs().max() > 0 for pair in subject.factors.values())


@pytest.mark.slow
def test_train_takes_prior_images_and_a_preset(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "mug.safetensors"
    arguments = ["train", files.photos, "--base", files.base, "--class-word", "mug", "--out", str(out)]
    more = ["--prior", files.photos, "--preset", "demo", "--token", "<mug>", "--steps", "1", "--frames", "1"]
    assert main([*arguments, *more]) == 0
    assert str(out) in capsys.readouterr().out
    subject = load_subject(out)
    assert subject.trigger == "<mug> mug"
    assert (subject.training["lr"], subject.training["steps"]) == (PRESETS["demo"]["lr"], 1)
    before = out.read_bytes()
    assert "seed 0 then, 1 now" in wrong([*arguments, *more, "--seed", "1"], capsys)
    shutil.copy(out, tmp_path / "foreign.safetensors")
    assert "--force" in wrong([*arguments[:-1], str(tmp_path / "foreign.safetensors"), *more], capsys)
    assert out.read_bytes() == before


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_tells_what_files_hold(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (
            [files.base],
            ["VideoCrafter2 base model", "float32", "64x48", "14,367,140", "another model (32-64-128-128-48 /"],
        ),
        ([str(demo_checkpoint())], ["VideoCrafter2 base model", "the demo model (32-64-64 /"]),
        ([str(demo_subject())], ["kind            subject", "the demo model (32-64-64 /"]),
        ([files.subject], ["<new1> teddy bear", "rank 2 on 96 layers", "lambda_s 0.4", "2 steps", "lr 3e-05"]),
        ([files.subject, "--base", files.base], ["fits reference.safetensors"]),
        ([files.lora, "--base", files.base], ["LoRA from another program", "rank 4 on 96 layers"]),
    ):
        capsys.readouterr()
        assert main(["inspect", *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert all(word in out for word in words), out


@pytest.mark.parametrize(
    ("fingerprint", "name"),
    [
        ("", "not recorded"),
        ('{"widths": "320-640-1280-1280-1024", "numbers": [1, 2.22, 3, 4, 5, 6, 7, 8]}',
         "VideoCrafter2 or one of its size (320-640-1280-1280-1024 / 1.0 2.2 3.0 4.0)"),
        ('{"widths": "32-64-64", "numbers": [9]}', "another model (32-64-64 / 9.0)"),
        ("nonsense", "another model (nonsense)"),
    ],
)  # fmt: skip
def test_a_base_model_has_a_name(fingerprint: str, name: str) -> None:
    assert base_name(fingerprint) == name


def test_inspect_refuses_what_this_pack_cannot_use(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "model.diffusion_model.output_blocks.7.1.transformer_blocks.0.attn2.to_k.weight"
    unused = "cond_stage_model.model.transformer.resblocks.3.mlp.c_fc.weight"  # the last block, never used
    factor = "diffusion_model.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
    authors = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight"
    for path, name in ((files.base, deep), (files.base, unused), (files.subject, factor), (files.lora, authors)):
        broken = with_nan(path, name, tmp_path / "nan.safetensors")
        sentence = wrong(["inspect", broken], capsys)
        assert "NaN" in sentence and ("transformer_blocks" in sentence or name in sentence)
    (tmp_path / "text.safetensors").write_text("not a model")
    (tmp_path / "short.safetensors").write_bytes(Path(files.subject).read_bytes()[:-100])
    for name in ("text", "short", "absent"):
        wrong(["inspect", str(tmp_path / f"{name}.safetensors")], capsys)
    assert "320" in wrong(["inspect", files.lora], capsys)  # not of VideoCrafter2's width


def test_inspect_tells_a_subject_that_is_only_a_token(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_subject(replace(load_subject(files.subject), factors={}), tmp_path / "token.safetensors")
    assert main(["inspect", str(path)]) == 0
    assert "rank 0 on 0 layers, 0 parameters" in capsys.readouterr().out


def test_inspect_names_a_missing_weight(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "model.diffusion_model.out.2.bias"
    with open_tensor_file(files.base) as file:
        state = {other: file.read(other) for other in file.tensors if other != name}
        save_file(state, tmp_path / "missing.safetensors", metadata=dict(file.metadata))
    assert f"1 missing: {name}" in wrong(["inspect", str(tmp_path / "missing.safetensors")], capsys)


# --- convert ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ckpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch checkpoint with extras; a tiny one, for which VideoCrafter2 is taken to be as small."""
    monkeypatch.setattr(config, "VIDEOCRAFTER2", tiny_models.CONFIG)
    state = tiny_models.state_dict()
    state["betas"] = torch.linspace(0, 1, 1000, dtype=torch.float64)
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "global_step": 5}, path)
    return path


def test_convert_a_checkpoint_keeps_names_and_numbers(
    ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(ckpt, weights_only=True)["state_dict"]
    for dtype, more in ((torch.float32, []), (torch.bfloat16, ["--dtype", "bfloat16"])):
        target = tmp_path / f"{dtype}.safetensors"
        assert main(["convert", str(ckpt), str(target), *more]) == 0
        written = load_file(target)  # the library's own strict reader
        assert set(written) == set(state)
        assert torch.equal(written.pop("betas"), state["betas"])  # the noise schedule keeps its precision
        assert all(torch.equal(value, state[name].to(dtype)) for name, value in written.items())
        assert main(["inspect", str(target)]) == 0
    assert main(["inspect", str(ckpt)]) == 0


def test_convert_refuses_to_write_half_a_file(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = with_nan(files.base, "model.diffusion_model.out.2.weight", tmp_path / "nan.safetensors")
    target = tmp_path / "out" / "new.safetensors"
    assert "NaN" in wrong(["convert", broken, str(target)], capsys)
    assert not target.parent.exists()


def test_convert_keeps_the_sizes_that_a_file_tells(files: Files, tmp_path: Path) -> None:
    target = tmp_path / "half.safetensors"
    assert main(["convert", files.base, str(target), "--dtype", "float16"]) == 0
    with open_tensor_file(files.base) as old, open_tensor_file(target) as new:
        assert dict(new.metadata) == {"format": "pt", **old.metadata}
        assert {value.dtype for value in new.tensors.values()} == {torch.float16}


def test_convert_a_lora_into_a_subject(files: Files, tmp_path: Path) -> None:
    target = tmp_path / "dog.safetensors"
    arguments = ["convert", files.lora, str(target), "--base", files.base, "--class-word", "dog", "--token", "<dog>"]
    assert main(arguments) == 0
    subject = load_subject(target)
    assert (subject.trigger, subject.rank, len(subject.factors)) == ("<dog> dog", 4, 96)
    authors = load_file(files.lora)
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight"
    assert torch.equal(subject.factors["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"].up, authors[name])


def test_convert_a_subject_for_the_host(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "my bear.safetensors"
    save_subject(load_subject(files.subject), source)
    assert main(["convert", str(source), str(tmp_path), "--for-host"]) == 0
    assert "embedding:my_bear-token teddy bear" in capsys.readouterr().out
    lora, token = load_file(tmp_path / "my_bear-lora.safetensors"), load_file(tmp_path / "my_bear-token.safetensors")
    assert len(lora) == 192 and all(name.startswith("diffusion_model.") for name in lora)
    assert torch.equal(token["emb_params"], load_subject(files.subject).embedding)
    assert "--force" in wrong(["convert", str(source), str(tmp_path), "--for-host"], capsys)
    assert main(["convert", str(source), str(tmp_path), "--for-host", "--force"]) == 0


def test_convert_never_writes_over_its_input(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(files.base)
    before = Path(files.base).stat()
    for target in (files.base, str(link)):
        wrong(["convert", files.base, target, "--force"], capsys)
    assert Path(files.base).stat() == before


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_without_a_subcommand_runs_it() -> None:
    assert demo.with_subcommand(["demo"]) == ["demo", "run"]
    assert demo.with_subcommand(["demo", "--seed", "1"]) == ["demo", "run", "--seed", "1"]
    for arguments in (["demo", "--help"], ["demo", "train-base", "x"], ["generate", "demo"], []):
        assert demo.with_subcommand(list(arguments)) == arguments


def test_demo_writes_everything(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from customcrafter_core.demo import run
    from customcrafter_core.sampling.generation import Generation, SampledStep
    from customcrafter_core.sampling.settings import VideoSettings

    def learn(model: None, seed: int, on_step: Any) -> Any:
        on_step(TrainStep(0, 1, 0.5, 0.0))
        return load_subject(files.subject)

    def make(model: None, subject: Any, motion: str = "right", background: str = "white", seed: int = 0, on_step: Any = None) -> Any:  # fmt: skip
        videos = []
        for label in ("base model", "dynamic λ"):
            for step in range(2):
                on_step(SampledStep(step, 2, 1, torch.zeros(1), strengths=(0.4,)))
            result = Generation(torch.zeros(1), VideoSettings("x", seed=seed, fps=8), [501, 1], [(0.4,), (0.8,)])
            videos.append(run.DemoVideo(label, f"a toy moving {motion}", torch.rand(3, 32, 32, 3), result))
        return videos

    monkeypatch.setattr(run, "load_demo_base", lambda: None)
    monkeypatch.setattr(run, "learn_demo_subject", learn)
    monkeypatch.setattr(run, "make_demo_videos", make)
    assert main(["demo", "--out", str(tmp_path), "--motion", "left", "--seed", "5"]) == 0
    names = {"demo.png", "demo.json", "1-base.mp4", "2-dynamic.mp4", "subject.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names
    record = json.loads((tmp_path / "demo.json").read_text())
    assert record["2-dynamic.mp4"]["strengths"] == [[0.4], [0.8]]
    assert record["2-dynamic.mp4"]["seed"] == 5


# --- wrong use --------------------------------------------------------------------------------------------------------

WRONG = {
    "no command": [],
    "unknown command": ["fly"],
    "unknown option": ["generate", "--prompt", "x", "--speed", "3"],
    "no prompt": ["generate"],
    "no number": ["generate", "--prompt", "x", "--steps", "many"],
    "huge number": ["generate", "--prompt", "x", "--width", "99999999999999999999992"],
    "negative seed": ["generate", "--prompt", "x", "--seed", "-1"],
    "no steps": ["generate", "{base}", "--prompt", "x", "--steps", "0"],
    "cfg 0": ["generate", "{base}", "--prompt", "x", "--cfg", "0"],
    "cfg nan": ["generate", "{base}", "--prompt", "x", "--cfg", "nan"],
    "frames 0": ["generate", "{base}", "--prompt", "x", "--frames", "0"],
    "width 0": ["generate", "{base}", "--prompt", "x", "--width", "0"],
    "fps 0": ["generate", "{base}", "--prompt", "x", "--fps", "0"],
    "odd width": ["generate", "{base}", "--prompt", "x", "--width", "65"],
    "negative frames": ["generate", "{base}", "--prompt", "x", "--frames", "-1"],
    "too large for memory": ["generate", "{base}", "--prompt", "x", "--width", "2147483640", "--height", "2147483640"],
    "no such base": ["generate", "--base", "absent.ckpt", "--prompt", "x"],
    "no such device": ["generate", "{base}", "--prompt", "x", "--device", "abacus"],
    "a device without numbers": ["generate", "{base}", "--prompt", "x", "--device", "meta"],
    "no such subject": ["generate", "{base}", "--prompt", "x", "--subject", "absent.safetensors"],
    "a base as subject": ["generate", "{base}", "--prompt", "x", "--subject", "{base file}"],
    "a subject as base": ["generate", "--base", "{subject}", "--prompt", "x"],
    "strength of no subject": ["generate", "{base}", "--prompt", "x", "--lambda-s", "0.4"],
    "negative K": ["generate", "{base}", "--prompt", "x", "--subject", "{subject}", "--k", "-1"],
    "infinite strength": ["generate", "{base}", "--prompt", "x", "--subject", "{subject}", "--lambda-l", "inf"],
    "no curve": ["generate", "{base}", "--prompt", "x", "--subject", "{subject}", "--curve", "up"],
    "curve and weights": ["generate", "{base}", "--prompt", "x", "--subject", "{subject}", "--curve", "0:1", "--k", "3"],
    "one token twice": ["generate", "{base}", "--prompt", "<new1>", "--subject", "{subject}", "--subject", "{subject}"],
    "out is a file": ["generate", "{base}", "--prompt", "x", "--out", "{subject}"],
    "sweep of no subject": ["sweep", "{base}", "--prompt", "x"],
    "sweep of a negative K": ["sweep", "{base}", "--prompt", "<new1>", "--subject", "{subject}", "--k", "3", "-1"],
    "sweep without values": ["sweep", "{base}", "--prompt", "<new1>", "--subject", "{subject}", "--lambda-s"],
    "onset of a still": ["onset", "{base}", "--prompt", "x", "--frames", "1"],
    "no photos": ["train", "{empty}", "{base}", "--class-word", "dog", "--out", "{empty}/x.safetensors"],
    "no class word": ["train", "{photos}", "{base}", "--class-word", " ", "--out", "{empty}/x.safetensors"],
    "no training steps": [
        "train", "{photos}", "{base}", "--class-word", "dog", "--steps", "0", "--out", "{empty}/x.safetensors",
    ],
    "a word as token": [
        "train", "{photos}", "{base}", "--class-word", "dog", "--token", "cat", "--out", "{empty}/x.safetensors",
    ],
    "half precision": [
        "train", "{photos}", "--base", "absent.ckpt", "--class-word", "dog", "--dtype", "float16",
        "--out", "{empty}/x.safetensors",
    ],
    "another suffix": ["train", "{photos}", "{base}", "--class-word", "dog", "--out", "{empty}/x.pt"],
    "inspect two": ["inspect", "{subject}", "{subject}"],
    "inspect a folder": ["inspect", "{empty}"],
    "base against a base": ["inspect", "{base file}", "{base}"],
    "convert nothing": ["convert", "absent.ckpt", "{empty}/x.safetensors"],
    "convert a subject": ["convert", "{subject}", "{empty}/x.safetensors"],
    "a lora without class word": ["convert", "{lora}", "{empty}/x.safetensors", "{base}"],
    "a lora without base": ["convert", "{lora}", "{empty}/x.safetensors", "--class-word", "dog"],
    "a base for the host": ["convert", "{base file}", "{empty}", "--for-host"],
    "class word of a base": ["convert", "{base file}", "{empty}/x.safetensors", "--class-word", "dog"],
    "unknown motion": ["demo", "--motion", "sideways"],
    "unknown subcommand": ["demo", "fly"],
    "no workers": ["demo", "train-base", "{empty}", "--workers", "0"],
    "no such device for training": ["demo", "train-base", "{empty}", "--device", "abacus"],
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_told_in_one_sentence(
    case: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    named = {
        "base file": files.base,
        "subject": files.subject,
        "lora": files.lora,
        "photos": files.photos,
        "empty": "empty",
    }
    arguments: list[str] = []
    for argument in WRONG[case]:
        for name, path in named.items():
            argument = argument.replace(f"{{{name}}}", path)
        arguments += ["--base", files.base] if argument == "{base}" else [argument]
    wrong(arguments, capsys)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize(
    "wrong_option",
    [["--steps", "0"], ["--eta", "2"], ["--k", "1" + "0" * 400], ["--called", "cat"], ["--negative", "\udcfc"]],
    ids=lambda option: option[0],
)
def test_what_needs_no_model_is_checked_before_one_is_loaded(
    wrong_option: list[str], files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    start = ["generate", "--base", "absent.ckpt", "--prompt", "x", "--subject", files.subject, "--out", str(out)]
    assert "absent.ckpt" in wrong(start, capsys)
    assert "absent.ckpt" not in wrong([*start, *wrong_option], capsys)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (OSError(28, "No space left on device", "x.safetensors"), 2, "No space left on device: x.safetensors."),
        (OSError("x.safetensors cannot be written: disk full"), 2, "x.safetensors cannot be written: disk full."),
        (MemoryError(), 2, "Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "Out of memory"),
    ],
)
def test_what_happens_to_the_machine_is_told_in_one_sentence(
    error: BaseException,
    code: int,
    words: str,
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("customcrafter_core.subject.formats.export_for_host", fail)
    assert main(["convert", files.subject, str(tmp_path), "--for-host"]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err


def test_a_fault_of_ours_is_not_hidden(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("customcrafter_core.subject.formats.export_for_host", fail)
    with pytest.raises(ZeroDivisionError):
        main(["convert", files.subject, str(tmp_path), "--for-host"])
