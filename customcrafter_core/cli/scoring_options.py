"""Options for the models that scores need; none of them is ever downloaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .options import AUTO, device_of

if TYPE_CHECKING:
    from ..evaluation.scoring import Scorer


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--clip``, ``--dino``, ``--raft`` and ``--literal``."""
    group = parser.add_argument_group(
        "models for the scores (read from your disk; a score whose model is missing is skipped)"
    )
    group.add_argument("--clip", metavar="FOLDER", help="openai/clip-vit-base-patch32: CLIP-T, CLIP-I, T. Cons.")
    group.add_argument("--dino", metavar="FOLDER", help="facebook/dino-vits16: DINO-I")
    group.add_argument("--raft", metavar="FILE", help="torchvision's raft_large_C_T_SKHT_V2: dynamic degree")
    group.add_argument(
        "--literal",
        action="store_true",
        help="keep the learned token in the prompt for CLIP-T, as the authors' code does",
    )


def scorer_of(options: argparse.Namespace) -> Scorer:
    """Load the models given by the options.

    Raises:
        InputError: one of them cannot be used.
    """
    from transformers.utils import logging

    from ..evaluation.scoring import open_scorer

    logging.disable_progress_bar()
    device = device_of(getattr(options, "device", AUTO))
    return open_scorer(
        clip=options.clip, dino=options.dino, raft_weights=options.raft, literal=options.literal, device=device
    )
