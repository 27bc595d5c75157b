"""The picture of the strength at each step, drawn by the page while the sliders move."""

from __future__ import annotations

import re
import urllib.error
from collections.abc import Collection
from typing import Any

import pytest

from customcrafter_core.diffusion.schedule import STEPS, NoiseSchedule
from customcrafter_core.diffusion.strength import Curve, TwoPhase, strengths_of
from customcrafter_core.diffusion.switch import NoiseSwitch, PercentSwitch
from customcrafter_core.errors import InputError
from tests.browser.host_page import SHOTS
from tests.host.running_host import PACK, ROOT, RunningHost

NODES = [f"CustomCrafterDynamic{name}" for name in ("WeightedKSampler", "SubjectWeights", "LoRAWeights")]
CURVES = [
    "0:0.4, 0.1:0.8", "1:1;0:-.5", "0.5:2", "0:0,.5:1,.5:2,1:3,", "0:1e-1, +1:2.", "0 : 1", ":", "0:1:2", "2:1", "0:x",
    "0:inf", ",", "0x0:1",
]  # fmt: skip
ADD = """kind => {
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    node.pos = [400, 120];
    app.canvas.setDirty(true, true);
}"""
# Once it has the size that it has on a node: until the page has put it there it may be as large as the page
PICTURE = """() => {
    const node = app.graph._nodes[0], canvas = node.widgets.find(w => w.name === 'strength_curve').element;
    const isPlaced = canvas.clientWidth && canvas.clientWidth <= node.size[0] && canvas.clientHeight;
    return isPlaced ? canvas.toDataURL() : '';
}"""
# A page that missed to put the picture onto its node has another chance each time the node moves
PLACED = f"""() => {{
    if (({PICTURE})()) return true;
    app.graph._nodes[0].pos[1] += 1;
    app.canvas.setDirty(true, true);
}}"""
TWO_FRAMES = "() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
INSIDE = """() => {  // the picture lies on its node
    const node = app.graph._nodes[0], canvas = node.widgets.find(w => w.name === 'strength_curve').element;
    const box = canvas.getBoundingClientRect(), page = app.canvas.canvas.getBoundingClientRect(), view = app.canvas.ds;
    const at = (value, axis) => (node.pos[axis] + value + view.offset[axis]) * view.scale;
    const edge = [at(0, 0) + page.left, at(0, 1) + page.top, at(node.size[0], 0) + page.left, at(node.size[1], 1) + page.top];
    return box.left >= edge[0] && box.top >= edge[1] && box.right <= edge[2] && box.bottom <= edge[3];
}"""
SLIDER = """name => {
    const node = app.graph._nodes[0], widget = node.widgets.find(w => w.name === name);
    const box = app.canvas.canvas.getBoundingClientRect(), view = app.canvas.ds;
    const on = (value, axis) => (node.pos[axis] + value + view.offset[axis]) * view.scale;
    return [on(15, 0) + box.left, on(node.size[0] - 15, 0) + box.left, on(widget.last_y + 10, 1) + box.top];
}"""
SET = """([name, value]) => {
    app.graph._nodes[0].widgets.find(w => w.name === name).value = value;
    app.canvas.setDirty(true, true);
}"""
LINK = """() => {
    const number = LiteGraph.createNode('PrimitiveFloat'), node = app.graph._nodes[0];
    app.graph.add(number);
    number.connect(0, node, node.findInputSlot('lambda_s'));
}"""
STRENGTHS = """async ([address, given, steps, levels]) => (await import(address)).strengthsOf(given, steps, levels)"""
UNITS = """async ([address, k, steps, levels]) => (await import(address)).inOtherUnits(k, steps, levels)"""


def add(page: Any, kind: str) -> str:
    """A new node on the empty canvas; its picture."""
    page.evaluate(ADD, kind)
    page.wait_for_timeout(500)  # until the node has its size
    page.wait_for_function(PLACED)
    return picture(page)


def picture(page: Any, other_than: Collection[str] = ()) -> str:
    """What the node shows, once the page has drawn another picture than these."""
    page.evaluate(TWO_FRAMES)
    seen = page.wait_for_function(
        f"seen => {{ const p = ({PICTURE})(); return p.length > 1000 && !seen.includes(p) ? p : ''; }}",
        arg=list(other_than),
    )
    return seen.json_value()


@pytest.mark.parametrize("kind", NODES)
def test_it_follows_the_sliders(page: Any, kind: str) -> None:
    before = add(page, kind)
    page.wait_for_function(INSIDE)
    for name, share in (("lambda_s", 0.3), ("lambda_l", 0.9), ("k", 0.2)):
        left, right, height = page.evaluate(SLIDER, name)
        page.mouse.move(left + (right - left) * 0.5, height)
        page.mouse.down()
        page.mouse.move(left + (right - left) * share, height, steps=5)
        picture(page, other_than=[before])  # drawn while the slider moves
        page.mouse.up()
        before = picture(page)


def test_it_follows_curve_steps_and_links(page: Any) -> None:
    seen = {add(page, NODES[0])}
    for name, value in (("curve", "0:0.2, 0.5:1.4"), ("curve", "nonsense"), ("curve", ""), ("k", 60), ("steps", 20)):
        page.evaluate(SET, [name, value])
        if value:  # without it, as at first
            seen.add(picture(page, other_than=seen))
    page.evaluate(
        "() => { const input = app.graph._nodes[0].inputs.find(i => i.name === 'lambda_s'); input.link = 1; }"
    )
    page.evaluate("() => app.canvas.setDirty(true, true)")
    picture(page, other_than=seen)  # a value that a link sets is not known here
    page.evaluate(
        "() => { const input = app.graph._nodes[0].inputs.find(i => i.name === 'lambda_s'); input.link = null; }"
    )


def test_it_is_not_saved_or_sent(page: Any, host: RunningHost) -> None:
    add(page, NODES[0])
    saved = page.evaluate("() => app.graph.serialize().nodes[0].widgets_values")
    description = host.get(f"/object_info/{NODES[0]}")[NODES[0]]
    widgets = page.evaluate("() => app.graph._nodes[0].widgets.map(w => w.name)")
    assert widgets[-1] == "strength_curve" and len(saved) == len(widgets) - 1
    sent = page.evaluate("() => app.graphToPrompt().then(prompt => Object.values(prompt.output)[0].inputs)")
    known = {name for kind in ("required", "optional") for name in description["input"][kind]}
    assert sent.keys() <= known and sent["lambda_l"] == 0.8


def test_where_it_fails_the_node_is_as_without_it(page: Any) -> None:
    """No error in the console either: the fixture looks."""
    for broken in ("() => { throw new Error('no canvas today'); }", "undefined"):
        found = page.evaluate(
            f"""kind => {{
            const proto = LiteGraph.LGraphNode.prototype, kept = proto.addDOMWidget;
            proto.addDOMWidget = {broken};
            try {{ return LiteGraph.createNode(kind).widgets.map(w => w.name); }} finally {{ proto.addDOMWidget = kept; }}
        }}""",
            NODES[0],
        )
        assert "lambda_s" in found and "strength_curve" not in found


def test_in_nodes_drawn_by_the_browser(page: Any, host: RunningHost) -> None:
    if host.generation == "older":
        pytest.skip("this host draws all nodes on its canvas")
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    try:
        before = add(page, NODES[1])
        page.evaluate(
            "() => { const w = app.graph._nodes[0].widgets.find(w => w.name === 'lambda_s'); w.value = 1.7; w.callback(1.7); }"
        )
        moved = picture(page, other_than=[before])
        page.screenshot(path=SHOTS / "strength curve, nodes drawn by the browser.png")
        page.evaluate(LINK)
        picture(page, other_than=[before, moved])  # a value that a link sets is not known here
        page.evaluate("() => app.graph._nodes[0].disconnectInput(app.graph._nodes[0].findInputSlot('lambda_s'))")
        page.wait_for_function(f"moved => ({PICTURE})() === moved", arg=moved)
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
        page.wait_for_timeout(500)


def test_it_draws_what_is_applied(page: Any) -> None:
    """The page's own function against the core's."""

    def shown(steps: int, **given: Any) -> Any:
        return page.evaluate(STRENGTHS, [f"/extensions/{PACK}/js/strength.js", given, steps])

    for steps in (1, 2, STEPS):
        for lambda_s, lambda_l, k in ((0.4, 0.8, 5), (0.1234567, -3, 0), (1, 1, 100)):
            expected = strengths_of(TwoPhase(round(lambda_s, 3), round(lambda_l, 3), k), steps)
            assert shown(steps, lambda_s=lambda_s, lambda_l=lambda_l, k=k, curve=" ") == pytest.approx(expected)
        for text in CURVES:
            assert shown(steps, curve=text) == core(text, steps), text


def test_it_draws_what_another_unit_comes_to(page: Any, host: RunningHost) -> None:
    """Percent, timestep and sigma, over the levels that the host tells; and says each in the others."""
    script, steps = f"/extensions/{PACK}/js/strength.js", 50
    query = f"sampler_name=ddim_videocrafter2&scheduler=ddim_uniform&steps={steps}&denoise=1"
    levels = host.get(f"/customcrafter/levels?{query}")
    assert [round(timestep) for _, timestep in levels] == NoiseSchedule.videocrafter2().ddim_timesteps(steps)
    given = {"lambda_s": 0.4, "lambda_l": 0.8, "k": 50}
    for unit, at in (("percent", 10), ("percent", 33.3), ("timestep", 881), ("timestep", 880.5), ("sigma", 3.2)):
        switch = PercentSwitch(0.4, 0.8, at) if unit == "percent" else NoiseSwitch(0.4, 0.8, at, unit)
        expected = (
            strengths_of(switch, steps)
            if isinstance(switch, PercentSwitch)
            else [switch.at(sigma if unit == "sigma" else timestep) for sigma, timestep in levels]
        )
        values = {**given, "switch_by": unit, "switch_at": at}
        assert page.evaluate(STRENGTHS, [script, values, steps, levels]) == expected
        assert (page.evaluate(STRENGTHS, [script, values, steps, None]) is None) == (unit != "percent")
    said = page.evaluate(UNITS, [script, 5, steps, levels])
    assert re.fullmatch(r"10 % = t 881 = sigma \d+\.\d+", said)
    for unit, at in (("timestep", 881.0), ("sigma", float(said.split()[-1]))):
        values = {**given, "switch_by": unit, "switch_at": at}
        assert page.evaluate(STRENGTHS, [script, values, steps, levels]) == [0.4] * 5 + [0.8] * 45


@pytest.mark.parametrize("query", ["", "sampler_name=euler&scheduler=normal&steps=0&denoise=1", "steps=x"])
def test_levels_of_nothing_are_refused(host: RunningHost, query: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        host.get(f"/customcrafter/levels?{query}")


def test_it_follows_the_unit(page: Any) -> None:
    seen = {add(page, NODES[0])}
    for name, value in (("switch_at", 30), ("switch_by", "percent"), ("switch_by", "sigma"), ("switch_at", 2)):
        page.evaluate(SET, [name, value])
        if name != "switch_at" or value == 2:
            seen.add(picture(page, other_than=seen))
    disabled = "name => app.graph._nodes[0].widgets.find(w => w.name === name).disabled"
    assert page.evaluate(disabled, "k") and not page.evaluate(disabled, "switch_at")


def core(text: str, steps: int) -> Any:
    """Strengths of a curve's text; None where it is not understood."""
    try:
        return pytest.approx(strengths_of(Curve.parse(text), steps))
    except InputError:
        return None


def test_steps_drawn_where_only_the_sampler_knows_them_are_the_papers() -> None:
    assert f"const USUAL_STEPS = {STEPS};" in (ROOT / "web" / "js" / "strength_curve.js").read_text()
