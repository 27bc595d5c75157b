"""The floor plan of the pack, drawn from its imports: docs/architecture.svg.

python -m tools.floor_plan
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
CORE = "customcrafter_core"
WIDTH, ROOM_WIDTH, ROOM_HEIGHT, FLOOR_HEIGHT, TOP = 960, 250, 50, 96, 20
STYLE = (
    "text{font-family:sans-serif;fill:#18181c}.name{font-size:15px;font-weight:bold}.about{font-size:11px;fill:#55555f}"
    "rect{fill:#fff;stroke:#55555f}.host{fill:#e0f2fe}path{stroke:#94949e;fill:none;marker-end:url(#tip)}"
    "svg{background:#fff}"
)


def room_of(path: Path) -> str:
    """The room a file of the pack is in: a folder of the core, a file right in it, or ``nodes``."""
    first, *inside = path.relative_to(ROOT).with_suffix("").parts
    return inside[0] if first == CORE and inside else first


def files() -> list[Path]:
    """The files of the pack that are drawn."""
    found = [*(ROOT / CORE).rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]
    return [path for path in found if path.parent != ROOT / CORE or path.name not in ("__init__.py", "__main__.py")]


def imports_of(path: Path) -> Iterator[str]:
    """Rooms that a file imports from, anywhere in it."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = [*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split("."))]
            names = [[*start, alias.name] for alias in node.names] if len(start) == 1 else [start]
            for target in names:
                if target[0] == CORE and len(target) > 1:
                    yield target[1]


def rooms() -> dict[str, set[str]]:
    """Room -> the rooms below that it imports from."""
    found: dict[str, set[str]] = {room_of(path): set() for path in files()}
    for path in files():
        found[room_of(path)] |= set(imports_of(path)) & found.keys() - {room_of(path)}
    return found


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Room -> its floor: 0 imports nothing, every other stands right above the highest one that it imports."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        height[room] = 1 + max((height[below] for below in graph[room]), default=-1)
    return height


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that are drawn: those that no chain of others says already."""

    def reach(room: str) -> set[str]:
        return graph[room].union(*(reach(below) for below in graph[room]))

    return {room: below - set().union(*(reach(one) for one in below)) for room, below in graph.items()}


def about(room: str) -> str:
    """What a room says of itself, up to the first colon."""
    inside = [path for path in files() if room_of(path) == room]
    face = next((path for path in inside if path.name == "__init__.py" and path.parent.name == room), inside[0])
    doc = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0].partition(":")[0].rstrip(".")


def svg() -> str:
    """The plan."""
    graph = rooms()
    height = floors(graph)
    levels = [sorted(room for room in graph if height[room] == level) for level in range(max(height.values()) + 1)]
    place = {
        room: (
            (WIDTH - len(level) * ROOM_WIDTH) / (len(level) + 1) * (i + 1) + i * ROOM_WIDTH,
            TOP + (len(levels) - 1 - floor) * FLOOR_HEIGHT,
        )
        for floor, level in enumerate(levels)
        for i, room in enumerate(level)
    }
    parts = []
    for room, below in direct(graph).items():
        for other in sorted(below):
            (x1, y1), (x2, y2) = place[room], place[other]
            start, end, bend = y1 + ROOM_HEIGHT, y2 - 6, FLOOR_HEIGHT / 2
            x1, x2 = x1 + ROOM_WIDTH / 2, x2 + ROOM_WIDTH / 2
            curve = f"{x1:.0f} {start + bend:.0f} {x2:.0f} {end - bend:.0f} {x2:.0f} {end:.0f}"
            parts.append(f'<path d="M{x1:.0f} {start:.0f}C{curve}"/>')
    for room, (x, y) in place.items():
        kind, middle = ' class="host"' if room == "nodes" else "", x + ROOM_WIDTH / 2
        parts.append(f'<rect{kind} x="{x:.0f}" y="{y:.0f}" width="{ROOM_WIDTH}" height="{ROOM_HEIGHT}" rx="6"/>')
        for line, style, text in ((21, "name", room), (38, "about", about(room))):
            parts.append(
                f'<text class="{style}" text-anchor="middle" x="{middle:.0f}" y="{y + line:.0f}">{escape(text)}</text>'
            )
    total = TOP * 2 + (len(levels) - 1) * FLOOR_HEIGHT + ROOM_HEIGHT
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" style="fill:#94949e;stroke:none;marker-end:none"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}">'
        f"<style>{STYLE}</style><defs>{tip}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
