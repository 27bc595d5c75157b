"""The benchmark: what it makes, that it repeats nothing and loses nothing, its tables and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from customcrafter_core.base_model.config import Defaults, config_metadata
from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.cli.main import main
from customcrafter_core.cli.training_file import read_plain
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.errors import InputError
from customcrafter_core.evaluation import scoring
from customcrafter_core.evaluation.encoders import DinoEncoder
from customcrafter_core.evaluation.scoring import MOTION, Scorer
from customcrafter_core.experiments import benchmark as module
from customcrafter_core.experiments.benchmark import Benchmark, BenchmarkWatcher, CellResult
from customcrafter_core.experiments.benchmark_config import METHODS, BenchmarkConfig
from customcrafter_core.experiments.benchmark_report import Report
from customcrafter_core.experiments.paper_tables import TABLE_1, TABLE_2
from customcrafter_core.experiments.report_folder import ReportVideos
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.file import load_subject
from customcrafter_core.training.photos import load_photos
from customcrafter_core.training.workers import Workers
from tests.core import small_encoders, tiny_models

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "benchmarks" / name for name in ("demo.json", "demo_short.json", "paper.toml")]
TRAINING = {"steps": 2, "token_steps": 0, "rank": 1, "frames": 1, "views": 1, "resize": [1.0, 1.0], "prior_weight": 0.0}
CONTENT: dict[str, Any] = {
    "title": "A <small> benchmark",
    "base": "base.safetensors",
    "steps": 2,
    "seeds": [4],
    "prompts": ["a {} is running", "a {} on grass"],
    "subjects": [{"name": "cup", "class_word": "cup", "photos": "cup"}],
    "methods": ["base", "customcrafter", "sslm", {"name": "weak", "like": "sslm", "strength": 0.1}],
    "training": TRAINING,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with base model, photos and settings."""
    state = tiny_models.state_dict()
    defaults = Defaults(width=32, height=32, frames=2, fps=8, cfg=2.0)
    save_file(state, tmp_path / "base.safetensors", metadata=config_metadata(tiny_models.CONFIG, defaults))
    (tmp_path / "cup").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cup" / f"{i}.png")
    (tmp_path / "small.json").write_text(json.dumps(CONTENT))
    return tmp_path


@pytest.fixture
def model(folder: Path) -> VideoCrafter2:
    return load_videocrafter2(folder / "base.safetensors")


def config(folder: Path, **changes: Any) -> BenchmarkConfig:
    return BenchmarkConfig.from_content({**CONTENT, **changes}, folder)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a video was sampled and a subject trained."""
    counts = {"generate": 0, "train_subject": 0}

    def counting(name: str) -> Any:
        real = getattr(module, name)

        def call(*given: Any, **more: Any) -> Any:
            counts[name] += 1
            return real(*given, **more)

        return call

    for name in counts:
        monkeypatch.setattr(module, name, counting(name))
    return counts


def test_videos_are_those_of_generate_with_the_subject_that_was_learned(folder: Path, model: VideoCrafter2) -> None:
    results = Benchmark(config(folder), model, folder / "out", Scorer()).run()
    assert len(results) == 4 * 2
    learned = list((folder / "out" / "subjects").glob("*.safetensors"))
    assert len(learned) == 1  # the three methods with the same training share it
    subject = load_subject(learned[0])
    for strength, name in ((TwoPhase(), "customcrafter"), (Constant(0.8), "sslm"), (Constant(0.1), "weak")):
        settings = VideoSettings("a <new1> cup on grass", seed=4, steps=2)
        latent = load_file(folder / "out" / "cells" / name / "cup" / "t0-p01-s4.safetensors")["latent"]
        assert torch.equal(latent, generate(model, settings, [AppliedSubject(subject, strength)]).latent)
    base = load_file(folder / "out" / "cells" / "base" / "cup" / "t0-p00-s4.safetensors")["latent"]
    assert torch.equal(base, generate(model, VideoSettings("a cup is running", seed=4, steps=2)).latent)


def test_what_is_finished_is_not_done_again_and_an_interrupt_loses_no_cell(
    folder: Path, model: VideoCrafter2, counted: dict[str, int]
) -> None:
    def stop(done: int, of: int, cell: Any) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Benchmark(config(folder), model, folder / "out", Scorer(), watcher=BenchmarkWatcher(on_cell=stop)).run()
    assert counted == {"generate": 5, "train_subject": 1}
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*") if path.is_file()}
    results = Benchmark(config(folder), model, folder / "out", Scorer()).run()
    assert counted == {"generate": 8, "train_subject": 1}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert Benchmark(config(folder), model, folder / "out", Scorer()).run() == results
    assert counted["generate"] == 8


def test_what_changes_is_done_again_and_nothing_else(
    folder: Path, model: VideoCrafter2, counted: dict[str, int]
) -> None:
    Benchmark(config(folder), model, folder / "out", Scorer()).run()
    weaker = [*CONTENT["methods"][:3], {"name": "weak", "like": "sslm", "strength": 0.2}]
    Benchmark(config(folder, methods=weaker), model, folder / "out", Scorer()).run()
    assert counted == {"generate": 8 + 2, "train_subject": 1}
    changed = config(folder, methods=weaker, training={**TRAINING, "lr": 1e-3})
    Benchmark(changed, model, folder / "out", Scorer()).run()
    assert counted == {"generate": 10 + 6, "train_subject": 2}  # the base learns nothing
    longer = replace(changed, prompts=(*changed.prompts, "a {} in snow"))
    Benchmark(longer, model, folder / "out", Scorer()).run()
    assert counted == {"generate": 16 + 4, "train_subject": 2}


def test_a_token_of_another_name_is_what_prompts_have_and_scores_leave_out(folder: Path, model: VideoCrafter2) -> None:
    named = config(folder, training={**TRAINING, "placeholder": "<mug>"}, methods=["customcrafter"], prompts=["a {}"])
    clip = small_clip(folder)
    (only,) = Benchmark(named, model, folder / "out", Scorer(clip=clip)).run()
    assert only.prompt == "a <mug> cup"
    frames = model.decode(load_file(next((folder / "out" / "cells").rglob("*.safetensors")))["latent"])[0]
    assert only.scores["CLIP-T"] == pytest.approx(Scorer(clip).score(frames, "a cup")["CLIP-T"])


def test_a_new_model_for_scores_scores_the_kept_videos(
    folder: Path, model: VideoCrafter2, counted: dict[str, int]
) -> None:
    first = Benchmark(config(folder), model, folder / "out", Scorer()).run()
    assert set(first[0].scores) == {MOTION}
    scorer = Scorer(clip=small_clip(folder))
    second = Benchmark(config(folder), model, folder / "out", scorer).run()
    assert set(second[0].scores) == {"CLIP-T", "CLIP-I", "T. Cons.", MOTION}
    assert [result.scores[MOTION] for result in second] == [result.scores[MOTION] for result in first]
    assert counted["generate"] == 8


@pytest.mark.parametrize("ending", [".mp4", ".safetensors"])
def test_a_cell_without_one_of_its_files_is_not_done(
    ending: str, folder: Path, model: VideoCrafter2, counted: dict[str, int]
) -> None:
    small = config(folder, methods=["base"])
    results = Benchmark(small, model, folder / "out", Scorer()).run()
    bench = Benchmark(small, model, folder / "out", Scorer(), Workers(1, 2))
    (own,) = bench.share(bench.cells())
    lost = folder / "out" / f"{own.stem}{ending}"
    content = lost.read_bytes()
    lost.unlink()
    assert not bench.is_done(own)  # so that the first process waits for its owner
    bench.run()
    assert bench.is_done(own) and lost.read_bytes() == content
    assert counted["generate"] == 2 + (ending == ".safetensors")  # a lost video is decoded again, not sampled
    assert Benchmark(small, model, folder / "out", Scorer()).run() == results


def test_no_record_stands_beside_the_files_of_other_settings(
    folder: Path, model: VideoCrafter2, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = config(folder, methods=["base"], prompts=["a {}"])
    first = Benchmark(small, model, folder / "out", Scorer()).run()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "write_video", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        Benchmark(replace(small, steps=3), model, folder / "out", Scorer()).run()
    assert Benchmark(small, model, folder / "out", Scorer()).run() == first
    assert counted["generate"] == 3  # the latent that the interrupted run left is of other steps


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "sampling steps"),
        ({"eta": 3.0}, "eta"),
        ({"cfg": -1.0}, "guidance scale"),
        ({"cfg": 0.5}, "guid"),
    ],
)
def test_wrong_sampling_is_refused_before_anything_is_learned(
    change: dict[str, float], said: str, folder: Path, model: VideoCrafter2, counted: dict[str, int]
) -> None:
    with pytest.raises(InputError, match=said):
        Benchmark(config(folder, **change), model, folder / "out", Scorer()).run()
    assert counted == {"generate": 0, "train_subject": 0} and not (folder / "out").exists()


def test_scores_stay_where_the_models_are_the_same_and_not_where_they_only_have_the_same_path(
    folder: Path, model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    score = Benchmark._score
    monkeypatch.setattr(Benchmark, "_score", lambda self, *a: (scored.append(a[0].stem), score(self, *a))[1])

    def run(models: dict[str, str], base: Path = folder) -> int:
        scored.clear()
        small = replace(config(folder, methods=["base"]), models={name: base / path for name, path in models.items()})
        Benchmark(small, model, folder / "out", Scorer(clip=clip)).run()
        return len(scored)

    clip = small_clip(folder)
    raft = folder / "raft.pth"
    raft.write_bytes(b"weights")
    assert run({"clip": "clip", "raft": "raft.pth"}) == 2
    monkeypatch.chdir(folder)
    assert run({"clip": "clip", "raft": "raft.pth"}, Path()) == 0  # the same, as seen from elsewhere
    (folder / "clip").rename(folder / "moved")
    raft.rename(folder / "raft2.pth")
    (folder / "moved" / "README.md").write_text("nothing that counts")
    assert run({"clip": "moved", "raft": "raft2.pth"}) == 0
    small_encoders.write_clip(folder / "moved", seed=1)
    assert run({"clip": "moved", "raft": "raft2.pth"}) == 2
    (folder / "raft2.pth").write_bytes(b"others!")
    assert run({"clip": "moved", "raft": "raft2.pth"}) == 2


def test_photos_and_models_are_read_once_however_often_it_looks(
    folder: Path, model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"digest_pictures": 0, "_files_digest": 0}

    def counting(name: str) -> Any:
        real = getattr(module, name)
        return lambda *given: (calls.update({name: calls[name] + 1}), real(*given))[1]

    for name in calls:
        monkeypatch.setattr(module, name, counting(name))
    small_encoders.write_clip(folder / "clip")
    bench = Benchmark(config(folder, models={"clip": "clip"}), model, folder / "out", Scorer())
    bench.run()
    assert all(bench.is_done(cell) for cell in bench.cells()) and calls == {"digest_pictures": 1, "_files_digest": 1}


def small_clip(folder: Path) -> Any:
    from customcrafter_core.evaluation.encoders import ClipEncoder

    return ClipEncoder(small_encoders.write_clip(folder / "clip"))


def test_processes_share_the_work_without_overlap(folder: Path, model: VideoCrafter2, counted: dict[str, int]) -> None:
    """The first process comes last here, as it waits for the others."""
    methods = [*CONTENT["methods"], {"name": "other", "like": "sslm", "training": {"lr": 1e-3}}]
    shared, seen = config(folder, methods=methods), []
    for rank in (1, 0):
        watcher = BenchmarkWatcher(on_cell=lambda done, of, cell: seen.append(cell.stem))
        part = Benchmark(shared, model, folder / "out", Scorer(), Workers(rank, 2), watcher)
        before = len(seen)
        results = part.run()
        assert len(seen) > before
    assert sorted(seen) == sorted(cell.stem for cell in part.cells()) and len(results) == 10
    assert counted == {"generate": 10, "train_subject": 2}


def test_the_first_process_waits_for_the_others(
    folder: Path, model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = config(folder, methods=["base"])
    waited: list[float] = []

    def other(seconds: float) -> None:
        waited.append(seconds)
        Benchmark(small, model, folder / "out", Scorer(), Workers(1, 2)).run()

    monkeypatch.setattr(module.time, "sleep", other)
    results = Benchmark(small, model, folder / "out", Scorer(), Workers(0, 2)).run()
    assert len(waited) == 1 and len(results) == 2


LOUD = """
import sys
from customcrafter_core.cli.main import main
from customcrafter_core.experiments import benchmark

def loud(name, told):
    real = getattr(benchmark, name)
    def call(*given, **more):
        print(name, *told(given), sep="|", flush=True)
        return real(*given, **more)
    setattr(benchmark, name, call)

loud("generate", lambda given: (given[1].prompt, [str(one.schedule) for one in given[2]]))
loud("train_subject", lambda given: (given[2].lr,))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.mark.slow
def test_two_processes_make_each_cell_once_and_one_report(folder: Path) -> None:
    """The command as accelerate launches it; each process says what it makes."""
    methods = [*CONTENT["methods"], {"name": "other", "like": "sslm", "strength": 0.3, "training": {"lr": 1e-3}}]
    (folder / "small.json").write_text(json.dumps({**CONTENT, "methods": methods}))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    out = folder / "out"
    command = [
        sys.executable,
        "-c",
        LOUD,
        "benchmark",
        str(folder / "small.json"),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    made = [[line for line in text.splitlines() if line.startswith("generate|")] for text, _ in said]
    assert all(made) and len(made[0]) + len(made[1]) == len({*made[0], *made[1]}) == 5 * 2
    trained = [[line for line in text.splitlines() if line.startswith("train_subject|")] for text, _ in said]
    assert sorted(map(len, trained)) == [1, 1] and trained[0] != trained[1]
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["video"] for row in rows}) == 10 and all((out / row["video"]).is_file() for row in rows)
    assert (out / "report.html").read_text().count("<video data-src") == 10
    assert [text.count("## Table 1") for text, _ in said] == [1, 0]  # the first process reports


def test_several_training_seeds_are_trained_each(folder: Path, model: VideoCrafter2, counted: dict[str, int]) -> None:
    several = config(folder, training_seeds=[0, 1], seeds=[4], prompts=["a {}"], methods=["base", "customcrafter"])
    results = Benchmark(several, model, folder / "out", Scorer()).run()
    assert [(r.cell.method.name, r.cell.training_seed) for r in results] == [
        ("base", 0), ("customcrafter", 0), ("customcrafter", 1),
    ]  # fmt: skip
    assert counted == {"generate": 3, "train_subject": 2}


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_at_most_the_cell_it_hit(folder: Path) -> None:
    """The command itself, killed while it learns and twice between videos; every finished file stays as it is."""
    learning = {**TRAINING, "steps": 60}
    (folder / "small.json").write_text(json.dumps({**CONTENT, "prompts": ["a {}", "a {} runs"], "training": learning}))
    command = [sys.executable, "-m", "customcrafter_core", "benchmark", str(folder / "small.json"), "--out"]
    out, stamps, left = folder / "out", {}, []

    def records() -> int:
        return len(list(out.rglob("cells/**/*.json")))

    for due in (
        lambda: "Training" in (folder / "said.txt").read_text(),  # the bar comes with the first step
        lambda: records() >= 1,
        lambda: records() >= 4,
        lambda: False,
    ):
        with (folder / "said.txt").open("w") as said:
            process = subprocess.Popen([*command, str(out)], cwd=ROOT, stdout=said, stderr=said)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if due():
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait(120)
        left.append((process.returncode, records()))
        for path, stamp in stamps.items():
            assert path.stat().st_mtime_ns == stamp, path
        for path in out.rglob("cells/**/*.*"):
            if path.with_suffix(".json").is_file() and not path.name.startswith("."):
                stamps[path] = path.stat().st_mtime_ns
        for path in out.rglob("cells/**/*.json"):
            assert json.loads(path.read_text())["scores"]
    assert [code for code, _ in left] == [-signal.SIGKILL] * 3 + [0], left
    assert left[0][1] == 0 and 1 <= left[1][1] < 8 and 4 <= left[2][1] < 8 and left[3][1] == 8, left
    assert load_subject(next(out.glob("subjects/*.safetensors"))).steps == 60
    assert (out / "report.html").is_file() and len(stamps) == 3 * 8


# --- the report -------------------------------------------------------------------------------------------------------


def test_prior_clips_are_learned_as_clips(folder: Path, model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cups").mkdir()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    frames[0].save(folder / "cups" / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    seen: list[Any] = []
    real = module.train_subject
    monkeypatch.setattr(module, "train_subject", lambda *a, **given: seen.extend(given["prior"]) or real(*a, **given))
    subjects = [{**CONTENT["subjects"][0], "prior": "cups"}]
    wanted = config(folder, subjects=subjects, methods=["sslm"], training={**TRAINING, "prior_weight": 1.0})
    Benchmark(wanted, model, folder / "out", Scorer()).run()
    assert [len(clip.frames) for clip in seen] == [3]
    assert wanted.without_prior() == []
    bare = config(folder, methods=["sslm"], training={**TRAINING, "prior_weight": 1.0})
    assert bare.without_prior() == ["cup"] and config(folder).without_prior() == []


def test_the_command_writes_tables_pictures_and_what_the_preference_page_needs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {**CONTENT, "models": {"clip": "clip"}, "training": {**TRAINING, "prior_weight": 1.0}}
    small_encoders.write_clip(folder / "clip")
    (folder / "small.json").write_text(json.dumps(content))
    out = folder / "out"
    assert main(["benchmark", str(folder / "small.json"), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Table 1" in shown and "Table 2" in shown and "paper 0.318" in shown
    text = (out / "report.md").read_text()
    assert "Trained without prior images, unlike the paper: cup." in text
    assert "# A <small> benchmark" in text
    assert "Not measured for lack of DINO ViT-S/16 (facebook/dino-vits16): DINO-I." in text
    assert "cannot be compared with the paper's" in text  # the model of the test is a small one
    page = (out / "report.html").read_text()
    assert "A &lt;small&gt; benchmark" in page and page.count("<video data-src") == page.count("controls") == 8
    with (out / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 8 and all((out / row["video"]).is_file() for row in cells)
    with (out / "report.csv").open() as file:
        means = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}
    own = [float(row["CLIP-I"]) for row in cells if row["method"] == "customcrafter"]
    assert float(means["customcrafter", "CLIP-I"]["mean"]) == pytest.approx(np.mean(own))
    assert means["customcrafter", "CLIP-I"]["paper"] == "0.786" and means["weak", "CLIP-I"]["paper"] == ""
    assert len(list((out / "sheets").glob("*.png"))) == 2
    report = ReportVideos.read(out)
    assert len(report.videos) == 8 and len(report.photos["cup"]) == 2
    assert main(["study", str(out)]) == 0
    assert "6 pairs" in capsys.readouterr().out


def test_all_models_of_the_settings_reach_the_scorer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAFT is a stand-in here: its weights are read by torchvision, which not every machine has."""
    given: list[Path] = []

    def raft(weights: Path, device: Any) -> Any:
        given.append(weights)
        return lambda frames: np.full((len(frames) - 1, 8, 8, 2), 99.0)

    monkeypatch.setattr(scoring, "raft", raft)
    small_encoders.write_dino(folder / "dino")
    (folder / "raft.pth").write_bytes(b"weights")
    content = {**CONTENT, "methods": ["base"], "models": {"dino": "dino", "raft": "raft.pth"}}
    (folder / "small.json").write_text(json.dumps(content))
    out = folder / "out"
    assert main(["benchmark", str(folder / "small.json"), "--out", str(out), "--device", "cpu"]) == 0
    assert given == [folder / "raft.pth"]
    photos = [photo.image for photo in load_photos(folder / "cup")]
    dino = DinoEncoder(folder / "dino")
    model = load_videocrafter2(folder / "base.safetensors")
    with (out / "cells.csv").open() as file:
        for row in csv.DictReader(file):
            latent = load_file((out / row["video"]).with_suffix(".safetensors"))["latent"]
            expected = Scorer(dino=dino).score(model.decode(latent)[0], photos=photos)["DINO-I"]
            assert float(row["DINO-I"]) == pytest.approx(expected, abs=1e-5)
            assert (row["Dynamic degree"], row["CLIP-T"]) == ("1.0", "")


def result(method: str, seed: int, **scores: float) -> CellResult:
    subject = module.SubjectEntry("cup", "cup", Path("cup"))
    return CellResult(module.Cell(METHODS[method], subject, 0, 0, "a {}", seed), "a cup", scores)


def test_tables_hold_means_with_intervals_beside_the_papers_values() -> None:
    results = [result("sslm", seed, **{MOTION: 0.1 * seed}) for seed in range(4)]
    results += [result("customcrafter", seed, **{MOTION: 0.1 * seed + 0.2, "CLIP-T": 0.3}) for seed in range(4)]
    results += [result("base", 0, **{MOTION: 0.5})]
    tables = {table.title.partition(":")[0]: table for table in Report("x", results, {}, [], "about").tables()}
    (ours,) = tables["Table 1"].rows
    assert ours[:2] == ["CustomCrafter", "0.300 [0.300, 0.300]\npaper 0.318"]
    assert ours[2] == "–\npaper 0.786" and ours[-1] == "4"
    assert [row[0] for row in tables["Table 2"].rows] == ["SSLM", "SSLM and DWVSS"]
    assert [row[0] for row in tables["Other methods"].rows] == ["Base model, class word"]
    rows = {row[0]: row for row in tables["Difference from CustomCrafter, paired"].rows}
    motion = tables["Difference from CustomCrafter, paired"].head.index(MOTION)
    assert rows["CustomCrafter without DWVSS"][motion] == "-0.200 [-0.200, -0.200]"
    assert rows["Base model, class word"][-1] == "1"
    assert "<td>SSLM and DWVSS</td>" in tables["Table 2"].html()


def test_paper_values_are_those_of_its_tables() -> None:
    """CLIP-T, CLIP-I, DINO-I, temporal consistency, copied from the paper once more."""
    assert {row.label: row.values for row in TABLE_1} == {
        "Custom Diffusion": (0.289, 0.759, 0.546, 0.990),
        "Custom Diffusion*": (0.286, 0.769, 0.583, 0.992),
        "DreamVideo": (0.298, 0.724, 0.489, 0.992),
        "DreamVideo*": (0.295, 0.748, 0.536, 0.993),
        "CustomCrafter": (0.318, 0.786, 0.627, 0.994),
    }
    assert {row.label: row.values for row in TABLE_2} == {
        "Custom Diffusion*": (0.286, 0.769, 0.583, 0.992),
        "SSLM": (0.294, 0.790, 0.631, 0.993),
        "SSLM and DWVSS": (0.318, 0.786, 0.627, 0.994),
    }
    assert [row.method for row in TABLE_1] == [
        "custom_diffusion", "custom_diffusion_long", "dreamvideo", "dreamvideo_long", "customcrafter",
    ]  # fmt: skip
    assert [row.method for row in TABLE_2] == ["custom_diffusion_long", "sslm", "customcrafter"]
    assert {row.method for row in TABLE_1 + TABLE_2} <= set(METHODS)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"speed": 3}, "settings of the benchmark.*found speed"),
        ({"methods": ["magic"]}, "a method: base"),
        ({"methods": [{"name": "x", "like": "sslm", "strength": 0.4, "k": 5}]}, "either strength"),
        ({"methods": ["base", "base"]}, "a duplicate"),
        ({"methods": [{"name": "../x", "like": "sslm"}]}, "lowercase letters"),
        ({"subjects": []}, "subjects, each once; found none"),
        ({"subjects": [{"name": "cup", "photos": "cup"}]}, "class_word for each subject"),
        ({"prompts": []}, "prompts for cup"),
        ({"prompts": ["a cup"]}, "prompts with {}"),
        ({"seeds": [0.5]}, "seeds as int"),
        ({"steps": "many"}, "steps as int"),
        ({"training": {"rnak": 3}}, "unknown: rnak"),
        ({"models": {"blip": "x"}}, "settings of models"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_done(change: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(InputError, match=f"(?s){said}"):
        config(folder, **change)


def test_a_wrong_file_is_told_in_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.json").write_text("{")
    for name in ("bad.json", "absent.json"):
        assert main(["benchmark", str(folder / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_every_method_of_the_paper_is_trained_with_its_settings(folder: Path) -> None:
    full = replace(config(folder), methods=tuple(METHODS.values()), training={})
    known = {name: full.train_config(method, full.subjects[0], 0) for name, method in METHODS.items() if method.preset}
    assert (known["customcrafter"].steps, known["customcrafter"].lr) == (10_000, 3e-5)
    assert known["sslm"] == known["customcrafter"] != known["lora_cross_only"]
    assert [known[name].steps for name in ("custom_diffusion", "custom_diffusion_long")] == [2_000, 10_000]
    assert [known[name].steps for name in ("dreamvideo", "dreamvideo_long")] == [800, 3_000]
    assert {method.strength for name, method in METHODS.items() if name.startswith("dream")} == {Constant(1.0)}


def test_the_configs_that_come_with_the_project_are_valid() -> None:
    read = {path.stem: BenchmarkConfig.from_content(read_plain(path), path.parent) for path in SHIPPED}
    paper = read["paper"]
    assert len(paper.subjects) == 20 and {len(paper.prompts_of(subject)) for subject in paper.subjects} == {10}
    assert {row.method for row in TABLE_1 + TABLE_2} <= {method.name for method in paper.methods}
    assert (paper.steps, paper.cfg) == (50, 12.0)
    for name in ("demo", "demo_short"):
        for subject in read[name].subjects:
            assert len(load_photos(subject.photos)) == 5 and subject.prior is not None
            assert len(load_photos(subject.prior)) == 12
