"""What a person does: open a template, drag a slider, press Run, see the video; drop a workflow on the canvas."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from tests.browser.host_page import DRAWN, SHOTS, blank
from tests.host.running_host import PACK, RunningHost
from tests.host.saved_workflow import api_of
from tools import workflows
from tools.schemas import input_types

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
MISSING = "() => app.graph._nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
# Load Subject, and a node that makes the host run it
LOAD_AND_SHOW = """() => {
    const load = LiteGraph.createNode('CustomCrafterLoadSubject'), save = LiteGraph.createNode('CustomCrafterSaveSubject');
    app.graph.add(load);
    app.graph.add(save);
    load.pos = [300, 200];
    save.pos = [800, 200];
    load.connect(0, save, 0);
    load.widgets.find(widget => widget.name === 'token').value = '<new7>';  // nothing of this is in the host's cache
}"""
# Pairs of nodes that overlap, and nodes that stand half in a frame, as the page has drawn them
CROWDED = """() => {
    const boxes = app.graph._nodes.map(node => [node.title, ...node.getBounding()]);
    const frames = app.graph._groups.map(group => [group.title, ...group.pos, ...group.size]);
    const overlap = ([, x, y, w, h], [, X, Y, W, H]) => x < X + W && X < x + w && y < Y + H && Y < y + h;
    const inside = ([, x, y, w, h], [, X, Y, W, H]) => x >= X && y >= Y && x + w <= X + W && y + h <= Y + H;
    const pairs = list => list.flatMap((a, i) => list.slice(i + 1).filter(b => overlap(a, b)).map(b => [a[0], b[0]]));
    const half = boxes.flatMap(a => frames.filter(b => overlap(a, b) && !inside(a, b)).map(b => [a[0], b[0]]));
    return [...pairs(boxes), ...pairs(frames), ...half];
}"""
# The whole graph in view, and nothing of the page before it
FIT = """() => {
    const nodes = app.graph._nodes.map(node => node.getBounding()), groups = app.graph._groups.map(g => [...g.pos, ...g.size]);
    const boxes = [...nodes, ...groups], view = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    const [left, top] = [0, 1].map(side => Math.min(...boxes.map(box => box[side])));
    const [right, bottom] = [0, 1].map(side => Math.max(...boxes.map(box => box[side] + box[side + 2])));
    const free = {left: 90, top: 90, right: 20, bottom: 70};
    const [wide, tall] = [canvas.width - free.left - free.right, canvas.height - free.top - free.bottom];
    view.scale = Math.min(1, wide / (right - left), tall / (bottom - top));
    view.offset[0] = free.left / view.scale - left;
    view.offset[1] = free.top / view.scale - top;
    app.canvas.setDirty(true, true);
}"""
# Nodes and frames that are not wholly on the canvas
CUT_OFF = """() => {
    const view = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    const place = (value, side) => (value + view.offset[side]) * view.scale;
    const seen = ([x, y, w, h]) => place(x, 0) >= 0 && place(y, 1) >= 0
        && place(x + w, 0) <= canvas.width && place(y + h, 1) <= canvas.height;
    const nodes = app.graph._nodes.filter(node => !seen(node.getBounding())).map(node => node.title);
    return [...nodes, ...app.graph._groups.filter(group => !seen([...group.pos, ...group.size])).map(group => group.title)];
}"""
FEW_STEPS = """() => {
    const widgets = app.graph._nodes.flatMap(node => node.widgets ?? []);
    for (const widget of widgets) if (['steps', 'sample_every'].includes(widget.name)) widget.value = 4;
}"""
MINIMAP = "Comfy.Minimap.Visible"
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
    group.wait_for()
    group.click()
    page.get_by_text(name).first.click()
    page.wait_for_function(DRAWN, arg=SAMPLER)
    page.wait_for_timeout(1000)  # the view moves to the nodes


def drag(page: Any, name: str, share: float) -> None:
    """Drag a slider of the sampler to a share of its length."""
    place = page.evaluate(PLACE, [SAMPLER, name])
    length = place["right"] - place["left"]
    page.mouse.move(place["left"] + length * 0.5, place["y"])
    page.mouse.down()
    page.mouse.move(place["left"] + length * (share + 0.05), place["y"], steps=5)
    page.mouse.move(place["left"] + length * share, place["y"], steps=3)
    page.mouse.up()


def drop(page: Any, name: str, content: str | bytes, count: int) -> None:
    """Drop a workflow file on an empty canvas, and wait for its nodes to be drawn."""
    blank(page)
    content = content.encode() if isinstance(content, str) else content
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])
    page.wait_for_function("count => app.graph._nodes.length === count", arg=count)
    page.wait_for_timeout(1000)


def show_whole(page: Any) -> None:
    """Bring the whole graph into view, large enough for its texts, and put away the small map that lies over it."""
    page.set_viewport_size({"width": 2200, "height": 1450})
    page.wait_for_timeout(300)
    page.evaluate("name => app.extensionManager.setting?.set?.(name, false)", MINIMAP)
    page.evaluate(FIT)
    page.wait_for_timeout(700)
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate("app.canvas.ds.scale") >= 0.6, "below that the page leaves texts out"


def press_run(page: Any) -> None:
    """Press Run."""
    button = page.get_by_test_id("queue-button")
    if not button.count():
        button = page.get_by_role("button", name="Run").first
    button.first.click()


def newest_run(host: RunningHost) -> dict[str, Any]:
    """The run that ended last, by its id; empty before the first."""
    return host.get("/history?max_items=1")


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
    page.wait_for_function("() => { const v = document.querySelector('video'); return !!v && v.readyState >= 2; }")
    start = page.evaluate(
        "() => { const v = document.querySelector('video'); v.muted = true; v.play(); return v.currentTime; }"
    )
    page.wait_for_function("start => document.querySelector('video').currentTime > start", arg=start)
    sent = next(iter(newest_run(host).values()))["prompt"][2]
    inputs = next(node["inputs"] for node in sent.values() if node["class_type"] == SAMPLER)
    assert inputs["lambda_s"] == dragged
    page.wait_for_timeout(500)
    assert page.evaluate(CROWDED) == [], "there is room for what nodes show after a run"


def test_workflows_dropped_on_the_canvas(page: Any, host: RunningHost) -> None:
    """Each file opens whole: its nodes, links and widget values are those that the page would send to run."""
    descriptions = host.get("/object_info")
    for file in sorted(workflows.FOLDER.glob("*.json")):
        workflow = json.loads(file.read_text())
        drop(page, file.name, file.read_bytes(), len(workflow["nodes"]))
        assert page.evaluate(MISSING) == []
        sent = page.evaluate("() => app.graphToPrompt().then(prompt => prompt.output)")
        found = {number: seen(node, descriptions[node["class_type"]]) for number, node in sent.items()}
        assert found == api_of(workflow, descriptions), file.name
        show_whole(page)
        assert page.evaluate(CROWDED) == [], file.name
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{file.stem} {host.version}.png")


def test_there_is_room_for_what_nodes_show_after_a_run(page: Any, host: RunningHost) -> None:
    """On the older host, which computes sizes alike, of the one with most nodes."""
    others = [] if host.generation == "older" else [workflows.any_model(), workflows.train()]
    for graph in (workflows.compare(), *others):
        workflow = graph.workflow(host.get("/object_info"))
        drop(page, "workflow.json", json.dumps(workflow), len(workflow["nodes"]))
        page.evaluate(FEW_STEPS)
        before = newest_run(host).keys()
        press_run(page)
        deadline = time.monotonic() + 240
        while newest_run(host).keys() == before:
            assert time.monotonic() < deadline
            page.wait_for_timeout(300)
        page.wait_for_timeout(2000)
        show_whole(page)
        page.screenshot(path=SHOTS / f"{graph.name} after a run {host.version}.png")
        assert page.evaluate(CROWDED) == [], graph.name


def seen(node: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    """A node as the page sends it, without inputs that the host keeps hidden for older workflows."""
    known = input_types(description)
    inputs = {name: value for name, value in node["inputs"].items() if name.partition(".")[0] in known}
    return {"class_type": node["class_type"], "inputs": inputs}


def test_summary_is_shown_on_the_node(page: Any) -> None:
    page.evaluate(LOAD_AND_SHOW)
    press_run(page)
    page.get_by_text("Base model: the demo model").first.wait_for()
    assert page.get_by_text("Trigger: <new7> toy").count(), "the token is not taken for HTML"
