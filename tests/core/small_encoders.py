"""Small CLIP and DINO models with random weights, written as transformers publishes the real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import transformers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, ViTConfig, ViTModel

import customcrafter_core.base_model

TOKENIZER = Path(customcrafter_core.base_model.__file__).parent / "tokenizer"
SIDE = 32


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP of width 24 on pictures of 32 × 32."""
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=CLIPTextConfig(**sizes, vocab_size=49408, bos_token_id=49406, eos_token_id=49407).to_dict(),
        vision_config=CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=8).to_dict(),
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
    model.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def write_dino(folder: Path, seed: int = 1) -> Path:
    """A vision transformer of width 24 on pictures of 32 × 32."""
    config = ViTConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ViTModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder
