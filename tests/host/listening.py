"""What the host tells the page while a graph runs, over its websocket."""

from __future__ import annotations

import io
import json
import struct
import uuid
from dataclasses import dataclass, field
from typing import Any

import websocket
from PIL import Image

from tests.host.running_host import RunningHost

PREVIEW, TEXT = 1, 3  # the host's numbers of binary messages
FORMATS = {1: "JPEG", 2: "PNG"}


@dataclass
class Heard:
    """Messages of one run, in order."""

    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    previews: list[Image.Image] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Node and the text shown on it."""

    def progress(self, node: str) -> list[tuple[int, int]]:
        """Value and end of a node's progress bar."""
        found = [data for kind, data in self.messages if kind == "progress" and data["node"] == node]
        return [(data["value"], data["max"]) for data in found]

    def bar(self, total: int) -> int:
        """Where the progress bar of so many items stands; 0 before it is shown."""
        found = [data["value"] for kind, data in self.messages if kind == "progress" and data["max"] == total]
        return found[-1] if found else 0


def listen(host: RunningHost, graph: dict[str, Any], seconds: float = 120) -> Heard:
    """Run a graph as a page does and hear what the host tells it."""
    client, heard = uuid.uuid4().hex, Heard()
    socket = websocket.create_connection(f"ws://127.0.0.1:{host.port}/ws?clientId={client}", timeout=seconds)
    try:
        prompt = host.queue(graph, client)
        while not hear(heard, socket.recv(), prompt):
            pass
    finally:
        socket.close()
    host.wait(prompt)
    return heard


def started(host: RunningHost, graph: dict[str, Any], node: str, seconds: float = 120) -> str:
    """Queue a graph as a page does and wait until a node's progress bar moves; returns the run's id."""
    client, heard = uuid.uuid4().hex, Heard()
    socket = websocket.create_connection(f"ws://127.0.0.1:{host.port}/ws?clientId={client}", timeout=seconds)
    try:
        prompt = host.queue(graph, client)
        while not heard.progress(node):
            assert not hear(heard, socket.recv(), prompt), "it ended before"
    finally:
        socket.close()
    return prompt


def hear(heard: Heard, message: str | bytes, prompt: str) -> bool:
    """Note a message; whether it is the last one."""
    if isinstance(message, bytes):
        kind, second = struct.unpack(">II", message[:8])
        if kind == TEXT:
            heard.texts.append((message[8 : 8 + second].decode(), message[8 + second :].decode()))
        elif kind == PREVIEW:
            image = Image.open(io.BytesIO(message[8:]))
            assert image.format == FORMATS[second]
            heard.previews.append(image)
        return False
    told = json.loads(message)
    heard.messages.append((told["type"], told["data"]))
    mine = told["data"].get("prompt_id") == prompt
    ended = told["type"] == "executing" and told["data"].get("node") is None
    return mine and (ended or told["type"] in ("execution_error", "execution_interrupted"))
