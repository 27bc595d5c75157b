"""Find K."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..customcrafter_core.diffusion.strength import K
from . import host
from .run_inputs import checked, prompted_inputs, sampler_inputs

if TYPE_CHECKING:
    from ..customcrafter_core.experiments.motion_onset import MotionOnset as Measured


class MotionOnset(io.ComfyNode):
    """Which K, from one run of the base model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterMotionOnset",
            display_name="Motion Onset",
            category=host.EVALUATION,
            description="Which K? Samples the base model once and measures how much of the motion and of the detail is fixed "
            "after each step. After the suggested K, each step fixes less than an equal share.",
            search_aliases=["suggest K", "motion analysis"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=prompted_inputs("The MODEL of Load VideoCrafter2, without a subject."),
            outputs=outputs(),
        )

    @classmethod
    def execute(cls, vae: Any, **given: Any) -> io.NodeOutput:
        """Measure."""
        from .native.onset import measure
        from .native.prompted import run_of

        return shown(cls, measure(run_of(**given), vae, given["prompt"], given["negative"]))


class AnyModelOnset(io.ComfyNode):
    """Which K, from one run of any model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterAnyModelOnset",
            display_name="Motion Onset (Any Model)",
            category=host.EVALUATION,
            description="Which K? Replaces KSampler, without the LoRA: samples once and measures how much of the motion and of "
            "the detail is fixed after each step. For any video model.",
            search_aliases=["suggest K", "motion analysis", "LoRA freezes video"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=sampler_inputs("Any video model, without the LoRA you need a K for."),
            outputs=outputs(),
        )

    @classmethod
    def execute(cls, vae: Any, **given: Any) -> io.NodeOutput:
        """Measure."""
        from .native.onset import measure
        from .native.prompted import run_with

        return shown(cls, measure(run_with(**checked(given)), vae))


def outputs() -> list[io.Output]:
    """What is measured."""
    return [
        io.Int.Output(display_name="k", tooltip="The suggested K, or the paper's if nothing moves."),
        io.Image.Output(display_name="curve", tooltip="Share of motion and detail that is fixed after each step."),
        io.String.Output(display_name="text", tooltip="The suggestion and the curve as a table."),
        io.Image.Output(display_name="frames", tooltip="The video that was measured."),
    ]


def shown(node: type[io.ComfyNode], onset: Measured) -> io.NodeOutput:
    """The outputs, with the curve and the suggestion on the node."""
    from .native.picture import as_image

    k, picture, text = onset.suggested_k, as_image(onset.picture()), onset.text()
    return host.shown(node, picture, text.splitlines()[0], K if k is None else k, picture, text, onset.frames)


NODES = [MotionOnset, AnyModelOnset]
