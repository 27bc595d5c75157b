"""``benchmark``: the paper's tables from subjects × methods × prompts × seeds, cell by cell."""

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
SUMMARY = "learn, sample and score subjects by several methods: the paper's Table 1 and 2"
DESCRIPTION = """\
Learn subjects by several methods, make the same prompts from the same noise, score them and
write the paper's tables beside the paper's values, with thumbnails. CONFIG is a JSON or TOML
file. What is finished is kept: after an interruption the same command goes on. Several GPUs
share the work under accelerate launch."""
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
    parser.add_argument("config", metavar="CONFIG", type=Path, help="what is compared, as JSON or TOML")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where everything goes (default: output/ and the name of CONFIG)"
    )
    parser.add_argument("--literal", action="store_true", help="CLIP-T with the learned token as text")
    parser.add_argument("--dtype", choices=[AUTO, *DTYPE_NAMES], default=AUTO, help="of the weights (default: auto)")
    parser.add_argument("--device", default=AUTO, metavar="NAME", help="cpu, cuda, mps (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Run the benchmark and write its report."""
    from ..evaluation.scoring import open_scorer
    from ..experiments.benchmark import Benchmark
    from ..experiments.benchmark_config import BenchmarkConfig
    from ..experiments.benchmark_report import Report, write_photos, write_report
    from ..training.distributed import launched_workers
    from .training_file import read_plain

    config = BenchmarkConfig.from_content(read_plain(options.config), options.config.parent)
    folder: Path = options.out or Path("output") / options.config.stem
    check_folder(folder)
    workers, device = launched_workers(device_of(options.device))
    options.device, options.base = str(device), None if config.base is None else str(config.base)
    models = {"raft_weights" if name == "raft" else name: path for name, path in config.models.items()}
    scorer = open_scorer(**models, literal=options.literal, device=device)
    model = load_base(options)
    with _LearningBars() as learning, Progress("Videos") as videos:
        watcher = _watcher(learning, videos)
        benchmark = Benchmark(config, model, folder, scorer, workers, watcher)
        results = benchmark.run()
    if not workers.is_first:
        return
    for subject in config.subjects:
        write_photos(folder, subject.name, [photo.image for photo in benchmark.photos(subject.photos)])
    notes = list(scorer.notes)
    if bare := config.without_prior():
        notes.append(f"Learned without prior pictures, which the paper has: {', '.join(bare)}.")
    report = Report(config.title, results, scorer.absent, notes, _about(options, model, config))
    with Progress("Report", brief=True) as bar:
        written = write_report(folder, report, bar.show)
    for table in report.tables():
        print(table.markdown().replace("<br>", " "))
    for path in written:
        print(path)


class _LearningBars(ExitStack):
    """Starts a new progress bar with each subject and method that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._bar: Progress | None = None

    def show(self, name: str, step: TrainStep) -> None:
        """Show a step of what is learned now."""
        if self._bar is None or name != self._name:
            self.close()
            self._name, self._bar = name, self.enter_context(Progress(f"Learning {name}"))
        self._bar.show(step.step + 1, step.steps, f"loss {step.loss:.4f}")


def _watcher(learning: _LearningBars, videos: Progress) -> BenchmarkWatcher:
    from ..experiments.benchmark import BenchmarkWatcher

    def show_cell(done: int, of: int, cell: Cell) -> None:
        videos.show(done, of, f"{cell.method.name}, {cell.subject.name}")

    return BenchmarkWatcher(learning.show, show_cell)


def _about(options: argparse.Namespace, model: VideoCrafter2, config: BenchmarkConfig) -> str:
    """On what all this was measured, in a sentence."""
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
