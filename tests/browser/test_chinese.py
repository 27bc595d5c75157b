"""The page in Chinese: names and tooltips of this pack's nodes are the translated ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.host_page import DRAWN
from tests.host.running_host import RunningHost
from tools import locales

LOCALE = "/settings/Comfy.Locale"
SAMPLER = "CustomCrafterDynamicWeightedKSampler"
TEXTS = json.loads((locales.FOLDER / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
# Every node of the pack: its title, and the labels of its widgets and sockets
LABELS = """names => Object.fromEntries(names.map(name => {
    const node = LiteGraph.createNode(name);
    const label = slot => slot.label || slot.localized_name || slot.name;
    const widgets = new Set((node.widgets || []).map(widget => widget.name));
    return [name, {
        title: node.title,
        widgets: Object.fromEntries((node.widgets || []).map(widget => [widget.name, widget.label || widget.name])),
        inputs: Object.fromEntries((node.inputs || []).filter(i => !widgets.has(i.name)).map(i => [i.name, label(i)])),
        outputs: (node.outputs || []).map(label),
    }];
}))"""


@pytest.fixture(scope="module")
def chinese(host: RunningHost) -> Iterator[None]:
    """The host's page is in Chinese."""
    host.post(LOCALE, "zh")
    yield
    host.post(LOCALE, "en")


def test_every_label_is_translated(chinese: None, page: Any) -> None:
    seen = page.evaluate(LABELS, list(TEXTS))
    for name, told in TEXTS.items():
        shown, inputs = seen[name], told["inputs"]
        assert shown["title"] == told["display_name"], name
        labels = {**shown["widgets"], **shown["inputs"]}
        assert {socket: labels[socket] for socket in inputs} == {s: inputs[s]["name"] for s in inputs}, name
        assert shown["outputs"] == [output["name"] for output in told["outputs"].values()], name


def test_a_tooltip_is_shown_as_written(chinese: None, page: Any) -> None:
    page.evaluate(
        "kind => { const n = LiteGraph.createNode(kind); app.graph.add(n); n.pos = [500, 150]; app.canvas.setDirty(1, 1); }",
        SAMPLER,
    )
    page.wait_for_function(DRAWN, arg=SAMPLER)
    place = page.evaluate(
        """kind => {
        const node = app.graph._nodes.find(n => n.type === kind), widget = node.widgets.find(w => w.name === 'k');
        const box = app.canvas.canvas.getBoundingClientRect(), view = app.canvas.ds;
        const on = (value, axis) => (node.pos[axis] + value + view.offset[axis]) * view.scale;
        return [on(60, 0) + box.left, on(widget.last_y + 10, 1) + box.top];
    }""",
        SAMPLER,
    )
    page.mouse.move(place[0] - 5, place[1])
    page.mouse.move(*place, steps=3)
    page.get_by_text(TEXTS[SAMPLER]["inputs"]["k"]["tooltip"]).first.wait_for()
