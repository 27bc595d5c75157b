"""The subgraph blueprint as a person finds it: searched by its name, placed, joined, moved."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host.running_host import RunningHost
from tools import blueprint

JOIN = """() => {
    const node = app.graph._nodes[0];
    const add = kind => { const made = LiteGraph.createNode(kind); app.graph.add(made); return made; };
    const load = add('CustomCrafterLoadVideoCrafter2'), photos = add('CustomCrafterDemoPhotos'), save = add('SaveImage');
    [0, 1, 2].forEach(slot => load.connect(slot, node, slot));
    photos.connect(0, node, 3);
    node.connect(0, save, 0);
    node.widgets.find(widget => widget.name === 'lambda_s').value = 0.25;
}"""
INSIDE = """() => {
    const node = app.graph._nodes[0];
    return [node.subgraph.inputs.map(i => i.name), node.subgraph.nodes.map(n => n.type)];
}"""


@pytest.fixture(scope="module")
def knows_blueprints(host: RunningHost) -> None:
    """Asked before a page is loaded for nothing."""
    if host.generation == "older":
        pytest.skip("this host knows no blueprints")


def test_search_place_join(knows_blueprints: None, page: Any) -> None:
    page.mouse.dblclick(800, 500)
    page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'")
    page.keyboard.type(blueprint.NAME)
    page.get_by_text("Subgraph Blueprints / CustomCrafter").first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement?.tagName !== 'INPUT'")
    page.mouse.click(900, 300)  # it hangs on the mouse until then
    page.wait_for_function("() => app.graph._nodes.length === 1 && !app.graph._nodes[0].flags.ghost")
    shown = page.evaluate("() => app.graph._nodes[0].widgets.map(w => [w.name, w.value])")
    assert dict(shown) == {name: value for name, value in blueprint.INPUTS.items() if value is not None}
    page.evaluate(JOIN)
    sent = page.evaluate("() => app.graphToPrompt().then(prompt => Object.values(prompt.output))")
    kinds = {node["class_type"]: node["inputs"] for node in sent}
    graph, _ = blueprint.inside()
    assert {node.kind for node in graph.nodes} < kinds.keys()
    assert kinds["CustomCrafterDynamicWeightedKSampler"]["lambda_s"] == 0.25
    assert kinds["CustomCrafterSubjectTrainer"]["steps"] == blueprint.INPUTS["training_steps"]
    assert isinstance(kinds["CustomCrafterSubjectTrainer"]["images"], list), "a link"
    names, inside = page.evaluate(INSIDE)
    assert names == list(blueprint.INPUTS) and inside == [node.kind for node in graph.nodes]
