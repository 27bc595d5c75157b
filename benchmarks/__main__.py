"""Measure what the project promises about time and memory, and write it into RESULTS.md.

    python -m benchmarks [SECTION …] [--full] [--videocrafter PATH] [--rounds N]

Small sizes on a CPU, full size with a GPU or with --full. Sections that are not named keep their last figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from . import growth, host, loading, sampling, strength, training, unet
from .results import FOLDER, Section, record, table
from .setup import Setup

SECTIONS: dict[str, Callable[[Setup], Section]] = {
    "sampling": sampling.measure, "host": host.measure, "strength": strength.measure, "unet": unet.measure,
    "training": training.measure, "loading": loading.measure, "start": host.measure_start, "growth": growth.measure,
}  # fmt: skip


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--full", action="store_true", help="VideoCrafter2's size on a CPU too (hours, 12 GB)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and one round: only to see that all of it runs"
    )
    parser.add_argument("--videocrafter", type=Path, metavar="PATH", help="a checkout of the original, to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing takes its turn")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; more than one hurts a small model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="where large files may lie for a while")
    parser.add_argument(
        "--results", type=Path, help="where RESULTS.md is written (default: here; with --quick nowhere)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if options.videocrafter is not None and not (options.videocrafter / "lvdm").is_dir():
        parser.error(f"{options.videocrafter} is no checkout of VideoCrafter: it has no folder lvdm")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure sections one after the other; each is written down as soon as it is done."""
    options = options_of(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    scale = "quick" if options.quick else "full" if options.full or device.type == "cuda" else "small"
    setup = Setup(device, scale, 1 if options.quick else options.rounds, options.videocrafter, options.folder)
    for name in options.sections or SECTIONS:
        section = SECTIONS[name](setup)
        print(table(section), flush=True)
        folder = options.results or (None if options.quick else FOLDER)
        if folder is not None and not record(section, _command(name, options), device, folder):
            print(f"The figures of {name} from an earlier run are kept: they are complete.")


def _command(section: str, options: argparse.Namespace) -> str:
    """What measures a section again, without paths of this machine."""
    parts = ["python -m benchmarks", section, f"--rounds {options.rounds}"]
    parts += (
        ["--full"] * options.full
        + ["--quick"] * options.quick
        + ["--videocrafter PATH"] * (options.videocrafter is not None)
    )
    parts += [f"--threads {options.threads}"] * (options.threads != 1) + [f"--device {options.device}"]
    return " ".join(parts)


if __name__ == "__main__":
    main()
