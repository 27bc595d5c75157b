"""Run by a host's own Python, without its server: loads packs as the host does and asks them about names of files."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

asked = json.loads(sys.argv[1])
sys.argv[1:] = ["--cpu", "--base-directory", asked["base"]]
sys.path[0] = asked["host"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import nodes  # noqa: E402


def outcome(make: Callable[..., Any], *arguments: Any) -> list[str]:
    """What a call gave: a value, or which error."""
    try:
        return ["made", str(make(*arguments))]
    except Exception as error:
        return [type(error).__name__, ascii(str(error))]


def part(pack: str, name: str) -> Any:
    """A module of a loaded pack."""
    return sys.modules[f"{pack.replace('.', '_x_')}.nodes.{name}"]


loaded = {}
for pack in asked["packs"]:
    nodes.NODE_CLASS_MAPPINGS.clear()
    is_loaded = asyncio.run(nodes.load_custom_node(pack))
    loaded[pack.rpartition("/")[2]] = [is_loaded, sorted(nodes.NODE_CLASS_MAPPINGS)]
last = asked["packs"][-1]
files, loading, training, scored = (part(last, name) for name in ("files", "loading", "training", "evaluation_inputs"))
loras = files.Path(files.folder_paths.get_folder_paths("loras")[0])
demo = loading.LoadVideoCrafter2.execute("customcrafter_demo", "default").args[0]
answer = {
    "loaded": loaded,
    "core": sorted(name for name in sys.modules if name.startswith("customcrafter")),
    "web": sorted(nodes.EXTENSION_WEB_DIRS.values()),
    "demo": type(demo).__name__,
    "saved": [outcome(files.new_file, loras, name, True) for name in asked["names"]],
    "trained": [outcome(lambda name: training.target_file(name, start_over=True), name) for name in asked["names"]],
    "chosen": {kind: [outcome(files.chosen_file, kind, name) for name in asked["choices"]] for kind in files.BUILT_IN},
    "changed": {kind: [outcome(files.saved_at, kind, name) for name in asked["choices"]] for kind in files.BUILT_IN},
    "scored with": {
        "clip": [outcome(scored.chosen_folder, "clip", name) for name in asked["models"]],
        "dino": [outcome(scored.chosen_folder, "dino", name) for name in asked["models"]],
        "raft": [outcome(scored.chosen_weights, name) for name in asked["models"]],
    },
}
print(json.dumps(answer))
