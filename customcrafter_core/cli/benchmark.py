"""``benchmark``: the paper's tables from subjects × methods × prompts × seeds, video by video."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .options import base_path, check_folder, device_of, load_base
from .terminal import Progress

if TYPE_CHECKING:
    from ..base_model.model import VideoCrafter2
    from ..experiments.benchmark import BenchmarkWatcher, Cell
    from ..experiments.benchmark_config import BenchmarkConfig
    from ..training.trainer import TrainStep

USAGE = "CONFIG [--out FOLDER] [options]"
SUMMARY = "train, sample and score subjects with several methods: the paper's Tables 1 and 2"
DESCRIPTION = """\
Train subjects with several methods, sample the same prompts from the same noise, score the
videos, and write the paper's tables next to the paper's values, with thumbnails. CONFIG is a
JSON or TOML file. Finished work is kept, so the same command resumes after an interruption.
Under accelerate launch, several GPUs share the work."""
EXAMPLES = """\
examples:
  python -m customcrafter_core benchmark benchmarks/demo.json
  python -m customcrafter_core benchmark paper.toml --out output/paper
  accelerate launch --num_processes 4 -m customcrafter_core benchmark paper.toml --out output/paper"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    from ..base_model.config import DTYPE_NAMES
    from .options import AUTO

    parser.set_defaults(run=run)
    parser.add_argument("config", metavar="CONFIG", type=Path, help="what to compare, as JSON or TOML")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write everything (default: output/NAME, with the name of CONFIG)",
    )
    parser.add_argument("--literal", action="store_true", help="keep the learned token in the prompt for CLIP-T")
    parser.add_argument(
        "--dtype", choices=[AUTO, *DTYPE_NAMES], default=AUTO, help="precision of the weights (default: auto)"
    )
    parser.add_argument("--device", default=AUTO, metavar="NAME", help="cpu, cuda, mps (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Run the benchmark and write its report."""
    from ..evaluation.scoring import open_scorer
    from ..experiments.benchmark import Benchmark
    from ..experiments.benchmark_config import BenchmarkConfig
    from ..experiments.benchmark_report import Report, write_photos, write_report
    from ..training.workers import launched_workers
    from .training_file import read_plain

    config = BenchmarkConfig.from_content(read_plain(options.config), options.config.parent)
    folder: Path = options.out or Path("output") / options.config.stem
    check_folder(folder)
    workers, device = launched_workers(device_of(options.device))
    options.device, options.base = str(device), None if config.base is None else str(config.base)
    models = {"raft_weights" if name == "raft" else name: path for name, path in config.models.items()}
    scorer = open_scorer(**models, literal=options.literal, device=device)
    model = load_base(options)
    with _LearningBars() as learning, Progress("Sampling videos") as videos:
        watcher = _watcher(learning, videos)
        benchmark = Benchmark(config, model, folder, scorer, workers, watcher)
        results = benchmark.run()
    if not workers.is_first:
        return
    for subject in config.subjects:
        write_photos(folder, subject.name, [photo.image for photo in benchmark.photos(subject.photos)])
    notes = list(scorer.notes)
    if bare := config.without_prior():
        notes.append(f"Trained without prior images, unlike the paper: {', '.join(bare)}.")
    report = Report(config.title, results, scorer.absent, notes, _about(options, model, config))
    with Progress("Writing the report", brief=True) as bar:
        written = write_report(folder, report, bar.show)
    for table in report.tables():
        print(table.markdown().replace("<br>", " "))
    for path in written:
        print(path)


class _LearningBars(ExitStack):
    """Starts a new progress bar for each subject and method that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._bar: Progress | None = None

    def show(self, name: str, step: TrainStep) -> None:
        """Show a training step."""
        if self._bar is None or name != self._name:
            self.close()
            self._name, self._bar = name, self.enter_context(Progress(f"Training {name}"))
        self._bar.show(step.step + 1, step.steps, f"loss {step.loss:.4f}")


def _watcher(learning: _LearningBars, videos: Progress) -> BenchmarkWatcher:
    from ..experiments.benchmark import BenchmarkWatcher

    def show_cell(done: int, of: int, cell: Cell) -> None:
        videos.show(done, of, f"{cell.method.name}, {cell.subject.name}")

    return BenchmarkWatcher(learning.show, show_cell)


def _about(options: argparse.Namespace, model: VideoCrafter2, config: BenchmarkConfig) -> str:
    """The base model and the number of runs behind the results, in a sentence."""
    size = f"{model.defaults.width}×{model.defaults.height}, {model.defaults.frames} frames"
    name = base_path(options.base).name
    counts = {
        "subject": len(config.subjects),
        "training seed": len(config.training_seeds),
        "prompt": len({prompt for subject in config.subjects for prompt in config.prompts_of(subject)}),
        "seed": len(config.seeds),
    }
    count = ", ".join(f"{number} {name}{'s' if number != 1 else ''}" for name, number in counts.items())
    return f"Base model {name} ({size}), {config.steps} steps; {count}."
