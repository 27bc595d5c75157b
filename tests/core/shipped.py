"""The pack as the Comfy registry ships it: the files that git knows, less those that ``.comfyignore`` names."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.host.running_host import ROOT, host_python

NAMES = ["ComfyUI-CustomCrafter", "1 my pack (copy)", "custom.crafter", "nodes", "modèle", "customcrafter_core"]
"""Folders that people might put the pack into."""
STRANGE_NAMES = [
    "", " ", ".", "..", "../out", "a/b", "a\\..\\b", "/etc/passwd", "C:\\x", "C:x", "\\\\server\\share", "x\0y", "x\ny",
    ".hidden", "CON", "nul", "com1", "LPT9", "aux.txt", "a" * 300, "ü" * 100, "a:stream", "what?", "a*b", "<b>", "a|b",
    "trailing.", "\u202egpj.x", "\ud800", "~/x/..", "link",
]  # fmt: skip
GOOD_NAMES = ["my dog", "teddy.v2", "犬", "Ünï-çødé_1", "a" * 100, "contact", "com10", "~home", "$HOME", "100%"]
STRANGE_CHOICES = [
    "../../secret.safetensors",
    "/etc/passwd",
    "..",
    "",
    ".",
    "a" * 300,
    "x\0y",
    "CON",
    "C:\\x",
    "\ud800",
]
"""What a request may hold where the page only offers a list."""
ENCODER, FLOW = "encoder", "flow.pth"
"""What Evaluate Video can be asked for: a folder in models/clip_vision, a file in models/optical_flow."""
NO_MODELS = [
    *STRANGE_CHOICES, "../outside", "outside", "{base}/outside", "../clip_vision/encoder", "encoder/../encoder",
    "{base}/models/clip_vision/encoder", "encoder/", "encoder\\..\\encoder", "encoder/config.json", "../outside.pth",
    "{base}/outside.pth", "../optical_flow/flow.pth", "{base}/models/optical_flow/flow.pth", "./flow.pth",
]  # fmt: skip
"""Ways to ask for others, or for these by another way than their name."""
MODELS = [*NO_MODELS, "none", ENCODER, FLOW, "linked", "linked.pth"]


def shipped_files() -> list[str]:
    """Paths in the archive; git itself reads ``.comfyignore``, whose patterns are git's."""
    known = _git("ls-files", "-z")
    left_out = set(_git("ls-files", "-z", "--cached", "--ignored", "--exclude-from=.comfyignore"))
    return [name for name in known if name not in left_out and (ROOT / name).exists()]


def _git(*arguments: str) -> list[str]:
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return [name for name in result.stdout.split("\0") if name]


def build_archive(path: Path) -> Path:
    """Write the archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in shipped_files():
            archive.write(ROOT / name, name)
    return path


def installed_on(host: Path) -> dict[str, Any]:
    """What a host says to the unpacked archive in folders of several names: see ``on_host.py``."""
    code, out, log, base = _asked(host)
    assert code == 0, log[-4000:]
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer | {"log": log + out, "base": base}


@functools.cache
def _asked(host: Path) -> tuple[int, str, str, str]:
    """Ask a host once, whatever comes of it: exit code, output, log and the folder that it worked in."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("input", "output", "models/checkpoints", "models/loras", "models/embeddings"):
            (base / name).mkdir(parents=True)
        (base / "secret.safetensors").write_bytes(b"secret")
        (base / "models/loras/link.safetensors").symlink_to(base / "secret.safetensors")
        for place in ("outside", f"models/clip_vision/{ENCODER}"):
            (base / place).mkdir(parents=True)
            (base / place / "config.json").write_text("{}")
        (base / "models/optical_flow").mkdir()
        for place in ("outside.pth", f"models/optical_flow/{FLOW}"):
            (base / place).write_bytes(b"weights")
        (base / "models/clip_vision/linked").symlink_to(base / "outside", target_is_directory=True)
        (base / "models/optical_flow/linked.pth").symlink_to(base / "outside.pth")
        with zipfile.ZipFile(build_archive(base / "pack.zip")) as archive:
            for name in NAMES:
                archive.extractall(base / "custom_nodes" / name)
        question = {
            "host": str(host), "base": str(base), "packs": [str(base / "custom_nodes" / name) for name in NAMES],
            "names": STRANGE_NAMES + GOOD_NAMES, "choices": STRANGE_CHOICES,
            "models": [name.replace("{base}", str(base)) for name in MODELS],
        }  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        ran = subprocess.run(
            [host_python(host), str(Path(__file__).with_name("on_host.py")), json.dumps(question)],
            cwd=host, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        return ran.returncode, ran.stdout, ran.stderr, str(base)
