"""Compare strengths of a subject or a LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..customcrafter_core.diffusion.strength import LAMBDA_L, LAMBDA_S, K, TwoPhase, strengths_of
from ..customcrafter_core.errors import InputError
from . import host
from .inputs import SUBJECT, any_base_input
from .run_inputs import checked, counts_from, prompted_inputs, sampler_inputs, strengths_from
from .strength_inputs import OF_LORA, OF_SUBJECT

if TYPE_CHECKING:
    from ..customcrafter_core.experiments.sweep import Best, Sweep

WITHOUT = TwoPhase(0.0, 0.0, 0)
"""The model alone, whose motion the others are measured against."""


class WeightSweep(io.ComfyNode):
    """Videos of a subject at every combination of strengths."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterWeightSweep",
            display_name="Weight Sweep",
            category=host.EVALUATION,
            description="Generate one prompt and seed with every combination of the given λs, λl and K, to see which suits a "
            "subject. Steps that several videos share are computed only once.",
            search_aliases=["XY plot", "compare strengths", "grid"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *prompted_inputs("The MODEL of Load VideoCrafter2."),
                SUBJECT.Input("subject", tooltip="From Load Subject or the trainer."),
                *list_inputs(),
                any_base_input(),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(
        cls, vae: Any, clip: Any, subject: Any, lambda_s: str, lambda_l: str, k: str, **given: Any
    ) -> io.NodeOutput:
        """Sample and compare."""
        from .native.prompted import run_of
        from .native.sweep import step_count, sweep_subject
        from .native.text import teach

        ranges = ranges_from(OF_SUBJECT, lambda_s, lambda_l, k)
        settings = run_of(clip=teach(clip, subject), **given)
        strengths = chosen_from(ranges, step_count(settings))
        found = sweep_subject(settings, subject, vae, strengths, given["prompt"], given["negative"])
        return shown(cls, found)


class AnyModelSweep(io.ComfyNode):
    """Videos of any model's LoRAs at every combination of strengths."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterAnyModelSweep",
            display_name="Weight Sweep (Any Model)",
            category=host.EVALUATION,
            description="Replaces KSampler after Dynamic LoRA Weights: generates the video without the LoRA and with every "
            "combination of the given λs, λl and K, to see which keep the motion. For any video model.",
            search_aliases=["XY plot", "LoRA strength sweep", "compare LoRA strengths", "LoRA freezes video"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *sampler_inputs(
                    "From Dynamic LoRA Weights or Dynamic Subject Weights, whose own strengths are replaced by those "
                    "listed here. LoRAs from Load LoRA stay as they are."
                ),
                *list_inputs(),
            ],
            outputs=[
                *outputs(),
                io.Float.Output(display_name="lambda_s", tooltip="λs to try first; see the last line of the table."),
                io.Float.Output(display_name="lambda_l", tooltip="λl to try first; see the last line of the table."),
                io.Int.Output(display_name="k", tooltip="K to try first; see the last line of the table."),
            ],
        )

    @classmethod
    def execute(cls, vae: Any, lambda_s: str, lambda_l: str, k: str, **given: Any) -> io.NodeOutput:
        """Sample and compare, first without the LoRA."""
        from .native.prompted import run_with
        from .native.sweep import step_count, sweep_loras

        ranges = ranges_from(OF_LORA, lambda_s, lambda_l, k)
        settings = run_with(**checked(given))
        found = sweep_loras(settings, vae, chosen_from(ranges, step_count(settings), first=WITHOUT))
        best = found.best
        pick = (found.cells[:2][-1] if best is None else best.cell).strength
        return shown(cls, found, told_best(best), pick.lambda_s, pick.lambda_l, pick.k)


def list_inputs() -> list[io.Input]:
    """The values to combine."""
    lists = "Separate values with commas."
    return [
        io.String.Input(
            "lambda_s",
            default=f"{LAMBDA_S / 2:g}, {LAMBDA_S:g}",
            tooltip=f"λs: strength in the first K steps. {lists}",
        ),
        io.String.Input("lambda_l", default=f"{LAMBDA_L:g}", tooltip=f"λl: strength in all later steps. {lists}"),
        io.String.Input("k", default=f"{K - 2}, {K}, {K + 3}", tooltip=f"K: how many steps λs lasts. {lists}"),
    ]


def outputs() -> list[io.Output]:
    """What a sweep gives."""
    return [
        io.Image.Output(display_name="sheet", tooltip="A labelled row of frames for each combination."),
        io.String.Output(display_name="table", tooltip="A line for each combination, with its motion."),
        io.Image.Output(
            display_name="frames",
            tooltip="All videos one after another, in the order of the table; for Evaluate Video.",
        ),
    ]


Ranges = tuple[list[float], list[float], list[int]]
"""Values of λs, λl and K."""


def ranges_from(limits: tuple[float, float], lambda_s: str, lambda_l: str, k: str) -> Ranges:
    """The values of the lists.

    Raises:
        InputError: something else, or out of range.
    """
    return (
        strengths_from("lambda_s", lambda_s, limits),
        strengths_from("lambda_l", lambda_l, limits),
        counts_from("k", k),
    )


def chosen_from(ranges: Ranges, steps: int, first: TwoPhase | None = None) -> list[TwoPhase]:
    """Their combinations over so many steps, behind ``first`` if there is one.

    Raises:
        InputError: too many.
    """
    from ..customcrafter_core.experiments.sweep import combinations
    from .native.sweep import LARGEST as MOST

    strengths = combinations(*ranges, steps)
    if first is not None:
        strengths = [first, *(one for one in strengths if strengths_of(one, steps) != strengths_of(first, steps))]
    if len(strengths) > MOST:
        raise InputError(
            expected=f"at most {MOST} combinations", found=f"{len(strengths)}", remedy="Give shorter lists."
        )
    return strengths


def shown(node: type[io.ComfyNode], sweep: Sweep, told: str = "", *more: Any) -> io.NodeOutput:
    """The outputs of a sweep and ``more``; its last line, or what else is ``told``, on the node."""
    from .native.picture import as_image

    sheet, table = as_image(sweep.sheet()), "\n".join(filter(None, [table_of(sweep), told]))
    frames = torch.cat([cell.frames for cell in sweep.cells])
    return host.shown(node, sheet, table.splitlines()[-1], sheet, table, frames, *more)


def table_of(sweep: Sweep) -> str:
    """A line for each combination, and what was saved."""
    rows = [
        f"{cell.label}: " + ", ".join(f"{name} {value:.3f}" for name, value in cell.scores.items())
        for cell in sweep.cells
    ]
    saved = f"{sweep.forwards} of {sweep.forwards_alone} steps computed, {sweep.saving:.0%} shared."
    return "\n".join([*rows, saved])


def told_best(best: Best | None) -> str:
    """Which combination to try first, and why."""
    if best is None:
        return "No best: the video without the LoRA does not move. Try another prompt or seed."
    return (
        f"Best: {best.cell.label} keeps {best.kept:.0%} of the model's own motion at {best.share:.0%} of the strength."
    )


NODES = [WeightSweep, AnyModelSweep]
