"""``study``: a page on which people compare videos blind, and a tally of their answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from .options import check_folder, kind_of_value

USAGE = "REPORT [options]"
SUMMARY = "ask people which videos are better, without showing which method made them"
DESCRIPTION = """\
Write an HTML page that shows pairs of videos in random order and on random sides, asks the
paper's four questions about each pair, and saves the answers as CSV. The page contains all
videos and needs no server, so you can simply send it to people. Keep study-key.json, which
says which method made which video."""
EXAMPLES = """\
examples:
  python -m customcrafter_core study output/benchmark
  python -m customcrafter_core study output/benchmark --pairs 12 --against dreamvideo
  tally the answers, with confidence intervals:
  python -m customcrafter_core study output/benchmark --tally answers-*.csv"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    from ..experiments.study import OURS, PAGE, PAIRS

    count = kind_of_value("pairs", PAIRS, least=1)
    parser.set_defaults(run=run)
    parser.add_argument("report", metavar="REPORT", type=Path, help="a folder written by the benchmark command")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the page to write (default: {PAGE} in REPORT)")
    parser.add_argument(
        "--pairs", type=count, default=PAIRS, metavar="N", help=f"maximum number of pairs (default: {PAIRS})"
    )
    parser.add_argument(
        "--against", metavar="METHOD",
        help=f"a method to include in every pair (default: {OURS} if present, else all combinations)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=kind_of_value("seed", 0), default=0, metavar="N", help="seed for choosing the pairs (default: 0)"
    )
    parser.add_argument(
        "--tally",
        type=Path,
        nargs="+",
        metavar="CSV",
        help="tally saved answers instead, and write the result to REPORT",
    )


def run(options: argparse.Namespace) -> None:
    """Write the page, or tally answers."""
    if options.tally:
        _tally(options.report, options.tally)
        return
    from ..experiments.report_folder import ReportVideos
    from ..experiments.study import choose_pairs, write_study

    if options.out is not None:
        if options.out.suffix.lower() not in (".html", ".htm"):
            raise InputError(
                expected="a page name that ends in .html", found=options.out.name, remedy="Name it study.html."
            )
        check_folder(options.out.parent)
    report = ReportVideos.read(options.report)
    pairs = choose_pairs(report.videos, against=options.against, most=options.pairs, seed=options.seed)
    page, key = write_study(options.report, pairs, report, options.out)
    print(f"{page}  ({len(pairs)} pairs) -> send this to the participants")
    print(f"{key}  -> keep this to yourself")


def _tally(folder: Path, paths: list[Path]) -> None:
    from ..experiments.tally import read_answers, read_key, tally
    from ..files.writing import write_bytes

    study, methods = read_key(folder)
    result = tally(read_answers(paths, study), methods)
    print(result.markdown())
    print(write_bytes(folder / "study-tally.csv", result.csv().encode()))
