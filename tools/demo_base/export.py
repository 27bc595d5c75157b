"""Write what is trained so far as a checkpoint in VideoCrafter2's format.

Run: python -m tools.demo_base.export FOLDER BASE.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet3DConditionModel

from customcrafter_core.base_model.config import Defaults, ModelConfig
from customcrafter_core.base_model.networks import Networks
from customcrafter_core.base_model.writing import write_checkpoint
from customcrafter_core.demo import base, mosaic
from customcrafter_core.demo import creatures as world

from .network import UNET, build_clear_text_encoder, build_training_unet

CONFIG = ModelConfig(unet=UNET, text=base.CONFIG.text, vae=mosaic.CONFIG)
DEFAULTS = Defaults(width=world.SIDE, height=world.SIDE, frames=world.FRAMES, fps=world.FPS, cfg=3.0)


def averaged_unet(state_path: Path) -> UNet3DConditionModel:
    """The averaged network of a training state, whole again: with the layers that training leaves out."""
    state = torch.load(state_path, weights_only=True)
    unet = build_training_unet()
    weights = {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}
    unet.load_state_dict(unet.state_dict() | weights)
    return unet.eval().requires_grad_(False)


def write_base(folder: Path, path: Path) -> Path:
    """Write the averaged network of a training run, with the text encoder and the autoencoder, in half precision."""
    networks = Networks(averaged_unet(folder / "state.pt"), build_clear_text_encoder(), mosaic.build_mosaic_codec())
    write_checkpoint(path, networks, CONFIG, defaults=DEFAULTS, dtype=torch.float16)
    return path


def main() -> None:
    """Write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the training's state")
    parser.add_argument("path", type=Path, help="of the checkpoint")
    options = parser.parse_args()
    print(write_base(options.folder, options.path))


if __name__ == "__main__":
    main()
