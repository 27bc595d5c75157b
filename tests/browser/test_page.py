"""What a person does: open a template, drag a slider, press Run, see the video; drop a workflow on the canvas."""

from __future__ import annotations

import base64
from typing import Any

from running_host import PACK, RunningHost

from tools import workflows
from tools.graphs import NOTE

SAMPLER = "CustomCrafterDynamicWeightedKSampler"
# Where a widget stands on the screen: its middle height, and its left and right end.
PLACE = """([kind, name]) => {
    const node = app.graph._nodes.find(n => n.type === kind);
    const widget = node.widgets.find(w => w.name === name);
    const box = app.canvas.canvas.getBoundingClientRect(), view = app.canvas.ds;
    const x = value => (node.pos[0] + value + view.offset[0]) * view.scale + box.left;
    const y = (node.pos[1] + widget.last_y + 10 + view.offset[1]) * view.scale + box.top;
    return {left: x(15), right: x(node.size[0] - 15), y};
}"""
VALUE = "([kind, name]) => app.graph._nodes.find(n => n.type === kind).widgets.find(w => w.name === name).value"
KINDS = "() => app.graph._nodes.map(n => n.type)"
DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, {type: 'application/json'}));
    const target = app.canvas.canvas, box = target.getBoundingClientRect();
    const at = {clientX: box.left + 300, clientY: box.top + 300, bubbles: true, cancelable: true, dataTransfer: data};
    target.dispatchEvent(new DragEvent('dragover', at));
    target.dispatchEvent(new DragEvent('drop', at));
}"""


def open_template(page: Any, name: str) -> None:
    """Open a workflow of this pack in the template browser."""
    group = page.get_by_text(PACK, exact=True).first
    if not group.is_visible():
        page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    group.wait_for(timeout=30_000)
    group.click()
    page.get_by_text(name).first.click()
    page.wait_for_function("kind => app.graph._nodes.some(n => n.type === kind)", arg=SAMPLER, timeout=20_000)
    page.wait_for_timeout(1000)


def drag(page: Any, name: str, share: float) -> None:
    """Drag a slider of the sampler to a share of its length."""
    place = page.evaluate(PLACE, [SAMPLER, name])
    length = place["right"] - place["left"]
    page.mouse.move(place["left"] + length * 0.5, place["y"])
    page.mouse.down()
    page.mouse.move(place["left"] + length * (share + 0.05), place["y"], steps=5)
    page.mouse.move(place["left"] + length * share, place["y"], steps=3)
    page.mouse.up()


def press_run(page: Any) -> None:
    """Press Run."""
    button = page.get_by_test_id("queue-button")
    if not button.count():
        button = page.get_by_role("button", name="Run").first
    button.first.click()


def test_template_slider_run_video(page: Any, host: RunningHost) -> None:
    open_template(page, workflows.demo().name)
    assert page.evaluate(VALUE, [SAMPLER, "lambda_s"]) == 0.4
    drag(page, "lambda_s", 0.75)
    dragged = page.evaluate(VALUE, [SAMPLER, "lambda_s"])
    assert abs(dragged - 1.5) < 0.3
    page.evaluate(
        "n => app.graph._nodes.find(x => x.type === n).widgets.find(w => w.name === 'steps').value = 8", SAMPLER
    )
    press_run(page)
    page.wait_for_function(
        "() => { const v = document.querySelector('video'); return !!v && v.readyState >= 2; }", timeout=120_000
    )
    start = page.evaluate(
        "() => { const v = document.querySelector('video'); v.muted = true; v.play(); return v.currentTime; }"
    )
    page.wait_for_function("start => document.querySelector('video').currentTime > start", arg=start, timeout=10_000)
    sent = next(iter(host.get("/history").values()))["prompt"][2]
    inputs = next(node["inputs"] for node in sent.values() if node["class_type"] == SAMPLER)
    assert inputs["lambda_s"] == dragged
    page.wait_for_timeout(500)


def test_workflow_dropped_on_the_canvas(page: Any) -> None:
    graph = workflows.generate()
    content = (workflows.FOLDER / f"{graph.name}.json").read_bytes()
    page.keyboard.press("Escape")
    page.evaluate(DROP, [f"{graph.name}.json", base64.b64encode(content).decode()])
    page.wait_for_function("() => app.graph._nodes.some(n => n.type === 'CustomCrafterLoadSubject')", timeout=20_000)
    kinds = page.evaluate(KINDS)
    assert sorted(kinds) == sorted([*(node.kind for node in graph.nodes), NOTE])
    missing = page.evaluate(
        "() => app.graph._nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
    )
    assert missing == []
    links = page.evaluate("() => app.graph._nodes.flatMap(n => (n.inputs || []).filter(i => i.link != null)).length")
    assert links == sum(type(value).__name__ == "Link" for node in graph.nodes for value in node.inputs.values())
