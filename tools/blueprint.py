"""The subgraph blueprint "Train, then generate": one node with the trainer, the sampler and everything between them.

Versions of ComfyUI that support blueprints list the files in ``subgraphs/``; ``python -m tools.workflows`` writes it.
"""

from __future__ import annotations

import uuid
from typing import Any

from customcrafter_core.base_model.config import Defaults
from customcrafter_core.demo import world
from customcrafter_core.demo.run import DYNAMIC
from customcrafter_core.diffusion.strength import K
from customcrafter_core.training.config import PRIOR_PICTURES

from .demo_values import CFG, PROMPT, SEED
from .graphs import Graph, Link, Node, Promoted
from .on_host import ROOT
from .schemas import Description, input_types

FOLDER = ROOT / "subgraphs"
NAME = "Train, then generate"
DESCRIPTION = (
    "Train a subject on photos and make a video of it. Connect model, clip and vae from one Load VideoCrafter2 and three to "
    "ten photos; you get the frames. Running again with the same name continues the training. The values are for the demo "
    f"model; for VideoCrafter2, use preset quick or paper, make_prior {PRIOR_PICTURES} as in the paper, cfg "
    f"{Defaults().cfg:g} and k {K}. Sizes of 0 use the model's own size."
)
INSIDE, OUTSIDE, RESULT = -10, Node("", {}, 0, number=-10), -20  # the page's numbers of a subgraph's two ends
INPUTS: dict[str, Any] = {
    "model": None, "clip": None, "vae": None, "images": None, "captions": None, "prior": None,
    "prior_captions": None, "class_word": world.CLASS_WORD, "name": "my_subject", "preset": "demo", "training_steps": 0,
    "make_prior": 0, "prompt": PROMPT, "negative": "",
    **dict.fromkeys(("width", "height", "frames"), 0), "seed": SEED, "cfg": CFG,
    "lambda_s": DYNAMIC.lambda_s, "lambda_l": DYNAMIC.lambda_l, "k": DYNAMIC.k,
}  # fmt: skip
"""What the node shows: links, then widgets with what they show at first; steps and sizes of 0
are the preset's and the model's own."""

TRAINED_WITH = ("model", "clip", "vae", "images", "captions", "prior", "prior_captions", "class_word", "name", "preset",
                "make_prior")  # fmt: skip
"""Inputs that the trainer inside has under the same name."""


def outer(name: str) -> Promoted:
    """An input of the subgraph."""
    return Promoted(OUTSIDE, list(INPUTS).index(name), INPUTS[name])


def inside() -> tuple[Graph, dict[str, Link]]:
    """The nodes of the subgraph, and its outputs."""
    graph = Graph(NAME, ["Train", "Prompt and size", "Try λs, λl and K", "Video"], moves=[2], note="", hint="")
    trained = graph.add(
        0, "CustomCrafterSubjectTrainer",
        **{name: outer(name) for name in TRAINED_WITH}, steps=outer("training_steps"),
    )  # fmt: skip
    clip = graph.add(1, "CustomCrafterTeachToken", clip=outer("clip"), subject=trained[0])[0]
    positive = graph.add(1, "CLIPTextEncode", title="Prompt", clip=clip, text=outer("prompt"))
    negative = graph.add(1, "CLIPTextEncode", title="Negative prompt", clip=clip, text=outer("negative"))
    latent = graph.add(
        1, "CustomCrafterEmptyVideoLatent", model=outer("model"), batch_size=1,
        **{name: outer(name) for name in ("width", "height", "frames")},
    )  # fmt: skip
    sampled = graph.add(
        2, "CustomCrafterDynamicWeightedKSampler", model=outer("model"), subject=trained[0], positive=positive[0],
        negative=negative[0], latent_image=latent[0],
        **{name: outer(name) for name in ("seed", "cfg", "lambda_s", "lambda_l", "k")},
    )  # fmt: skip
    pixels = graph.add(3, "VAEDecode", samples=sampled[0], vae=outer("vae"))
    return graph, {"frames": pixels[0], "strengths": sampled[1], "subject": trained[0]}


def blueprint(descriptions: dict[str, Description]) -> dict[str, Any]:
    """The file as the page reads it: a workflow of one node, and that node's definition."""
    graph, outputs = inside()
    flat = graph.workflow(descriptions)
    nodes = flat["nodes"][: len(graph.nodes)]  # without notes
    links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), row, strict=True))
             for row in flat["links"]]  # fmt: skip
    ends = []
    for slot, (name, link) in enumerate(outputs.items()):
        socket = nodes[link.node.number - 1]["outputs"][link.output]
        number = len(links) + 1
        links.append({"id": number, "origin_id": link.node.number, "origin_slot": link.output, "target_id": RESULT,
                      "target_slot": slot, "type": socket["type"]})  # fmt: skip
        socket["links"] = [*(socket["links"] or []), number]
        ends.append({"id": _id(f"output/{name}"), "name": name, "type": socket["type"], "linkIds": [number],
                     "pos": [0, 0]})  # fmt: skip
    starts = []
    for slot, name in enumerate(INPUTS):
        mine = [link for link in links if link["origin_id"] == INSIDE and link["origin_slot"] == slot]
        starts.append({"id": _id(f"input/{name}"), "name": name, "type": mine[0]["type"],
                       "linkIds": [link["id"] for link in mine], "pos": [0, 0]})  # fmt: skip
    definition = {
        "id": _id(NAME), "version": 1, "revision": 0, "config": {}, "name": NAME,
        "state": {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": INSIDE, "bounding": [-260, 0, 128, 20 * len(starts) + 40]},
        "outputNode": {"id": RESULT, "bounding": [1800, 0, 128, 20 * len(ends) + 40]},
        "inputs": starts, "outputs": ends, "widgets": [], "nodes": nodes, "groups": flat["groups"], "links": links,
        "extra": {}, "category": "CustomCrafter", "description": DESCRIPTION,
    }  # fmt: skip
    return {
        "id": _id("file"), "revision": 0, "last_node_id": len(nodes) + 1, "last_link_id": 0,
        "nodes": [_outer_node(graph, descriptions, starts, ends, len(nodes) + 1)], "links": [], "version": 0.4,
        "definitions": {"subgraphs": [definition]}, "extra": {},
    }  # fmt: skip


def _outer_node(
    graph: Graph, descriptions: dict[str, Description], starts: list[Any], ends: list[Any], number: int
) -> dict[str, Any]:
    """The one node of the file."""
    widgets = {
        value.output: [str(node.number), name]
        for node in graph.nodes
        for name, value in node.inputs.items()
        if isinstance(value, Promoted) and input_types(descriptions[node.kind])[name][2]
    }
    inputs = [
        {"name": start["name"], "type": start["type"], "link": None,
         **({"widget": {"name": start["name"]}} if slot in widgets else {})}
        for slot, start in enumerate(starts)
    ]  # fmt: skip
    return {
        "id": number, "type": _id(NAME), "pos": [0, 0], "size": [350, 660], "flags": {}, "order": 0, "mode": 0,
        "inputs": inputs, "outputs": [{"name": end["name"], "type": end["type"], "links": None} for end in ends],
        "title": NAME, "properties": {"proxyWidgets": [widgets[slot] for slot in sorted(widgets)]},
        "widgets_values": [],
    }  # fmt: skip


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"customcrafter/subgraph/{name}"))
