"""The demo model's files, sizes and settings, as the graphs use them."""

from __future__ import annotations

from customcrafter_core.demo import world
from customcrafter_core.subject.placeholder import PLACEHOLDER

DEMO_MODEL, DEMO_SUBJECT = "customcrafter_demo", "customcrafter_demo_subject"
DEMO_SIZE = {"width": world.SIDE, "height": world.SIDE, "frames": world.FRAMES, "batch_size": 1}
PROMPT = world.caption_for(f"{PLACEHOLDER} {world.CLASS_WORD}", "left", "gray")
OTHER_PROMPT, OTHER_SEED = world.caption_for(f"{PLACEHOLDER} {world.CLASS_WORD}", "right", "black"), 8
SAMPLE_PROMPT = world.caption_for("{}", "left", "gray")
SEED, STEPS, CFG = 7, 50, 3.5
