"""A real ComfyUI in a process of its own, driven over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).parent / "probe_nodes"
NO_HOST = "NO COMFYUI FOUND"
LOST = "memory leak"
"""What a host says of a model that it takes for lost, after errors too; until it unloads, each run is slower for it."""
TAKEN = "already in use"  # what a host says of its port when another program was quicker
PACK, PROBE_PACK = "customcrafter", "customcrafter_probes"


def found_hosts() -> list[Path]:
    """Folders of hosts: COMFYUI_PATH (several may be joined by the path separator), else all of ~/comfy."""
    named = os.environ.get("COMFYUI_PATH")
    folders = [Path(part) for part in named.split(os.pathsep)] if named else sorted(Path.home().glob("comfy/*"))
    return [folder for folder in folders if (folder / "main.py").is_file()]


def host_version(folder: Path) -> tuple[int, ...]:
    """Such as (0, 33, 0)."""
    text = (folder / "comfyui_version.py").read_text().split('"')[1]
    return tuple(int(part) for part in text.split("."))


def generation_of(folder: Path) -> str:
    """The host's generation: "older" up to 0.3.x, whose nodes know fewer types, else "newer"."""
    return "older" if host_version(folder) < (0, 4) else "newer"


def host_python(folder: Path) -> str:
    """The host's own interpreter, else ours."""
    own = folder / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


class PromptFailed(Exception):
    """The host reported an error while it ran a graph; ``message`` is what its error box shows."""

    def __init__(self, kind: str, message: str, node: str) -> None:
        super().__init__(f"{kind} in {node}: {message}")
        self.kind, self.message, self.node = kind, message, node


class Interrupted(Exception):
    """The run was interrupted."""


@dataclass
class RunningHost:
    """A host process with a base folder of its own."""

    folder: Path
    base: Path
    arguments: tuple[str, ...] = ()
    port: int = 0
    on_cpu: bool = True
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def generation(self) -> str:
        """What `generation_of` tells of it."""
        return generation_of(self.folder)

    @property
    def version(self) -> str:
        """Such as 0.33.0."""
        return ".".join(map(str, host_version(self.folder)))

    @property
    def python(self) -> str:
        """Its interpreter."""
        return host_python(self.folder)

    @property
    def log(self) -> str:
        """Everything the host wrote so far."""
        return (self.base / "host.log").read_text(errors="replace")

    def start(self) -> RunningHost:
        """Start and wait until it answers."""
        for name in ("custom_nodes", "input", "output", "models/checkpoints", "models/loras", "models/embeddings"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for link, target in ((PACK, ROOT), (PROBE_PACK, PROBES)):
            if not (self.base / "custom_nodes" / link).exists():
                (self.base / "custom_nodes" / link).symlink_to(target, target_is_directory=True)
        for tries_left in (2, 1, 0):
            self._launch()
            try:
                self._wait_until_ready()
            except RuntimeError:
                if not tries_left or TAKEN not in self.log:
                    raise
            else:
                break
        return self

    def _launch(self) -> None:
        """Start on a port that is free now, and may be taken when the host gets there."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [
            self.python, str(self.folder / "main.py"), *["--cpu"] * self.on_cpu, "--listen", "127.0.0.1",
            "--port", str(self.port), "--base-directory", str(self.base), "--database-url", "sqlite:///:memory:",
            "--disable-auto-launch", "--disable-api-nodes", "--disable-all-custom-nodes",
            "--whitelist-custom-nodes", PACK, PROBE_PACK, "--preview-method", "latent2rgb", *self.arguments,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        log = (self.base / "host.log").open("wb")
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def _wait_until_ready(self, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"The host ended while it started:\n{self.log[-4000:]}")
            try:
                is_ours = str(self.base) in self.get("/system_stats")["system"]["argv"]
            except (OSError, ValueError, KeyError):  # nobody is there, or another program
                is_ours = False
            if not is_ours or self.process.poll() is not None:
                time.sleep(0.3)
                continue
            if "IMPORT FAILED" in self.log or "Error while calling comfy_entrypoint" in self.log:
                self.stop()
                raise RuntimeError(f"The pack does not load:\n{self.log[-4000:]}")
            return
        self.stop()
        raise RuntimeError(f"The host did not answer in {seconds} s:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """End the process."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None

    def get(self, path: str) -> Any:
        """GET as JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def post(self, path: str, body: Any = None) -> Any:
        """POST JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body or {}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.code} {error.read().decode(errors='replace')[:3000]}") from error

    def queue(self, graph: dict[str, Any], client: str = "") -> str:
        """Queue a graph in the API format, for a page if one is named; returns its id."""
        answer = self.post("/prompt", {"prompt": graph, "client_id": client or uuid.uuid4().hex})
        return answer["prompt_id"]

    def run(self, graph: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
        """Run a graph to its end; returns what its nodes handed to the page, by node id.

        Raises:
            PromptFailed: a node failed.
            Interrupted: the run was interrupted.
        """
        return self.wait(self.queue(graph), seconds)

    def wait(self, prompt_id: str, seconds: float = 300) -> dict[str, Any]:
        """Wait for a queued graph; as `run`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return self._result(entry)
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"The host ended:\n{self.log[-4000:]}")
            time.sleep(0.03)
        raise TimeoutError(f"The graph did not finish in {seconds} s:\n{self.log[-3000:]}")

    @staticmethod
    def _result(entry: dict[str, Any]) -> dict[str, Any]:
        for kind, message in entry["status"]["messages"]:
            if kind == "execution_error":
                raise PromptFailed(
                    message["exception_type"], message["exception_message"].strip(), message["node_type"]
                )
            if kind == "execution_interrupted":
                raise Interrupted
        return entry["outputs"]

    def memory(self) -> int:
        """Resident memory of the process in bytes, without mapped files where the system tells them apart."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        told = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return int(told.get("RssAnon", told["VmRSS"]).split()[0]) << 10  # of kB
