"""Where the nodes of a workflow stand: columns in frames with a title, notes above them; sizes as the page computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .schemas import Description, input_types

WIDTH, PITCH = 350, 430  # of a node; from a column to the next
TITLE, GAP, FRAME = 30, 24, 22  # a node's title bar; between nodes; around the nodes of a column
FRAME_TITLE = 44
NOTE_ROW, NOTE_LETTERS, NOTE_LEAST = 16, 58, 92  # of the page's small letters in a note of one column; its least height
FOLDED = 0  # height of a node of which only the title bar is shown
SHOWN = {
    "SaveVideo": 370,
    "SaveImage": 250,
    "CustomCrafterDynamicWeightedKSampler": 410,  # the page's curve, then the picture and the text of the run
    "KSampler": 230,  # the preview of the last step
    "CustomCrafterDynamicLoRAWeights": 150,
    "CustomCrafterDynamicSubjectWeights": 150,
    "CustomCrafterLoadSubject": 110,
    "CustomCrafterSubjectTrainer": 290,
}
"""What nodes show below their widgets: pixels."""
VIEW = (1450, 790)  # of the page's canvas on a small screen
READABLE = 0.65  # below 0.6 the page leaves texts out
QUIET, LOUD = "#8a8f98", "#d9822b"  # frames; the loud ones hold what is to be moved
MOVE_COLOR = {"color": "#223", "bgcolor": "#335"}
NOTE_COLOR = {"color": "#432", "bgcolor": "#653"}


@dataclass(frozen=True)
class Box:
    """Left, top, width and height; a node's top is below its title bar."""

    left: int
    top: int
    width: int
    height: int


def node_height(kind: str, description: Description) -> int:
    """Height without the title bar: as the page computes it, and room for what the node shows."""
    types = input_types(description).values()
    widgets = sum(1 + bool(options.get("control_after_generate")) for _, options, is_widget in types if is_widget)
    boxes = sum(bool(options.get("multiline")) for _, options, is_widget in types if is_widget)
    sockets = max(sum(not is_widget for *_, is_widget in types), len(description["output"]))
    room = 60 if boxes == 1 else 0  # several share what there is
    return 20 * sockets + 24 * (widgets - boxes) + 54 * boxes + room + (14 if widgets else 6) + SHOWN.get(kind, 0)


def stacked(heights: list[list[int]]) -> list[list[Box]]:
    """Places of nodes, column by column, from their heights."""
    columns = []
    for column, column_heights in enumerate(heights):
        top, boxes = TITLE, []
        for height in column_heights:
            boxes.append(Box(column * PITCH, top, WIDTH, height))
            top += height + GAP + TITLE
        columns.append(boxes)
    return columns


def frame(title: str, boxes: list[Box], number: int, *, loud: bool) -> dict[str, Any]:
    """A group around the nodes of a column."""
    top, bottom = boxes[0].top - TITLE - FRAME_TITLE, max(box.top + box.height for box in boxes) + FRAME
    left, width = boxes[0].left - FRAME, boxes[0].width + 2 * FRAME
    color = LOUD if loud else QUIET
    return {
        "id": number, "title": title, "bounding": [left, top, width, bottom - top], "color": color, "font_size": 22,
        "flags": {},
    }  # fmt: skip


def note(text: str, columns: list[int], number: int, title: str) -> dict[str, Any]:
    """A note above some neighbouring columns."""
    width = (len(columns) - 1) * PITCH + WIDTH
    letters = NOTE_LETTERS * width // WIDTH
    rows = sum(-(-max(len(line), 1) // letters) for line in text.splitlines())
    height = max(NOTE_LEAST, 30 + NOTE_ROW * rows)
    top = -FRAME_TITLE - GAP - height
    return {
        "id": number, "type": "MarkdownNote", "pos": [columns[0] * PITCH, top], "size": [width, height], "flags": {},
        "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": title, "properties": {},
        "widgets_values": [text], **NOTE_COLOR,
    }  # fmt: skip


def view(boxes: list[Box]) -> dict[str, Any]:
    """Scale and offset that show everything, as far as the page still writes its texts; else the upper left part."""
    left, top = min(box.left for box in boxes) - FRAME, min(box.top for box in boxes) - TITLE - FRAME_TITLE
    right, bottom = max(box.left + box.width for box in boxes), max(box.top + box.height for box in boxes)
    wide, tall = VIEW[0] / (right - left), VIEW[1] / (bottom - top)
    whole = min(1.0, wide, tall)
    scale = round(whole if whole >= READABLE else max(READABLE, min(0.8, wide)), 2)
    return {"scale": scale, "offset": [round(80 / scale) - left, round(60 / scale) - top]}
