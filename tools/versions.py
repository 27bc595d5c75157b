"""Run the everyday tests on the lowest and the newest libraries, on every Python found: the table in CONTRIBUTING.md.

python -m tools.versions [FOLDER]     # environments go into FOLDER, by default build/versions, and are kept
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from .graphs import PROJECT

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = [f"python3.{minor}" for minor in range(10, 15)]
SETS = ("lowest", "newest")


def wanted(libraries: str) -> list[str]:
    """What is installed: the lowest version of each library that pyproject.toml allows, or no bounds at all."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    if libraries == "newest":
        return [requirement.name for requirement in found]
    floors = {requirement.name: next(iter(requirement.specifier), None) for requirement in found}
    return [name if floor is None else f"{name}=={floor.version}.*" for name, floor in floors.items()]


def environment(folder: Path, python: str, libraries: str) -> Path | None:
    """The Python of an environment, made if need be; None where its packages cannot be installed together."""
    place = folder / f"{python}-{libraries}"
    run = place / "bin" / "python"
    if not (place / "ready").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(place)], check=True)
        development = [line for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if line[:1] != "#"]
        install = [str(run), "-m", "pip", "install", "-q", *wanted(libraries), *development]
        if subprocess.run(install, check=False).returncode:
            return None
        (place / "ready").touch()
    return run


def outcome(run: Path) -> str:
    """The last line that the everyday tests print."""
    done = subprocess.run(
        [str(run), "-m", "pytest", "-q", "-n", "2", "-m", "not slow and not release", "tests/core"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "versions")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| Python | libraries | everyday tests |\n|---|---|---|")
    for python in PYTHONS:
        if shutil.which(python) is None:
            print(f"| {python} | | not installed here |")
            continue
        for libraries in SETS:
            run = environment(options.folder, python, libraries)
            told = "cannot be installed together" if run is None else outcome(run)
            print(f"| {python} | {libraries} | {told} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
