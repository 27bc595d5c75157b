"""Make the study and write its page, numbers and pictures.

Run: .venv/bin/python -m benchmarks.exact_world     (minutes on one idle core; a run that was stopped goes on)

Writes exact_world.json, exact_world.md and three pictures beside it. Nothing is downloaded and nothing is trained.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from pathlib import Path
from typing import Any

import torch

from customcrafter_core.files.writing import write_bytes, write_json

from .onset import ONSETS, Onset, onset, onset_summary
from .page import page
from .pictures import write_fronts, write_law, write_noise
from .results import plain, summary
from .study import all_trials, kept_or_made, videos_of_trial


def results(cache: Path) -> dict[str, Any]:
    """Everything measured, from the cache or made now."""
    trials, number = [], 0
    every = all_trials()
    for trial in every:
        number += 1
        print(f"{number} of {len(every) + len(ONSETS)}: {trial.group}, {trial.case.identity}", flush=True)
        trials.append(summary(trial, videos_of_trial(trial, cache)))
    onsets = []
    for name, case in ONSETS.items():
        number += 1
        print(f"{number} of {len(every) + len(ONSETS)}: Motion Onset, {name}", flush=True)
        measured = kept_or_made(cache / f"onset_{case.key}.npz", lambda case=case: vars(onset(case)))
        onsets.append(onset_summary(name, Onset(**measured)))
    return plain({"trials": trials, "onset": onsets})


def main() -> None:
    """Do what is not yet done and write everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact_world", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1], help="folder of the results")
    parser.add_argument(
        "--docs", type=Path, default=Path(__file__).parents[2] / "docs", help="folder of the README's picture"
    )
    parser.add_argument("--cache", type=Path, default=Path("output/exact_world"), help="finished parts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # tiny probabilities would make it several times slower
    options.cache.mkdir(parents=True, exist_ok=True)
    found = results(options.cache)
    print(write_json(options.out / "exact_world.json", found))
    for name, write in {"law": write_law, "fronts": write_fronts, "noise": write_noise}.items():
        print(write(options.out / f"exact_world_{name}.png", found["trials"]))
    print(write_law(options.docs / "law.png", found["trials"]))
    print(write_bytes(options.out / "exact_world.md", page(found).encode()))


if __name__ == "__main__":
    main()
