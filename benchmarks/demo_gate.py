"""The numbers and sheets of the gate that a demo base model must pass.

Run: .venv/bin/python -m benchmarks.demo_gate     (about five minutes on one core)

Writes benchmarks/demo_gate.json and a sheet of each kind of clips: plain shapes, a shape beside a second object, toys whose
caption names everything. Without --base, of the base model that comes with the project.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from dataclasses import asdict
from pathlib import Path

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.demo import demo_checkpoint
from customcrafter_core.demo.codec import held_out_psnr
from customcrafter_core.demo.gate import evaluate_gate, write_sheet
from customcrafter_core.demo.sampling import clip_generator
from customcrafter_core.output.files import write_json


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=demo_checkpoint(), help="checkpoint")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    parser.add_argument("--clips", type=int, default=60, help="of plain shapes, and a third as many of the others")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_videocrafter2(options.base)
    psnr = held_out_psnr(model.vae)
    gate, clips = evaluate_gate(clip_generator(model), count=options.clips)
    record = {"passed": gate.passed, **asdict(gate), "autoencoder, dB": psnr}
    print(write_json(options.out / "demo_gate.json", record))
    for kind, videos in clips.items():
        write_sheet(options.out / f"demo_gate_{kind}.png", videos[:15], scale=2)
    print("\n".join(f"{name}: {value}" for name, value in record.items()))


if __name__ == "__main__":
    main()
