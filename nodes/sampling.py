"""The Dynamic Weighted KSampler, and VideoCrafter2's DDIM as a SAMPLER."""

from __future__ import annotations

import json
from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui

from . import host
from .inputs import SUBJECT, any_base_input, eta_input, step_inputs
from .strength_inputs import OF_SUBJECT, STEPS_UNIT, schedule_from, strength_inputs, switch_inputs

OWN_SAMPLER = "ddim_videocrafter2"  # saved workflows hold it
SCHEDULER = "ddim_uniform"
OPTIONAL = {"curve": "", "switch_by": STEPS_UNIT, "switch_at": 0.0}


def samplers() -> list[str]:
    """Ours and the host's, to which other packs may add."""
    return [OWN_SAMPLER, *comfy.samplers.KSampler.SAMPLERS]


class DDIMSampler(io.ComfyNode):
    """VideoCrafter2's DDIM for the host's custom sampling nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterDDIMSampler",
            display_name="VideoCrafter2 DDIM Sampler",
            category=host.CATEGORY,
            description="Exactly the DDIM that VideoCrafter2 samples with, for SamplerCustom and its relatives.",
            search_aliases=["DDIM", "VideoCrafter sampler", "ddim_uniform"],
            inputs=[
                eta_input(),
                host.advanced(
                    io.Boolean.Input(
                        "exact_tail",
                        default=False,
                        tooltip="End at the clean latent; VideoCrafter2 leaves a little noise in it.",
                    )
                ),
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="Use it with the scheduler ddim_uniform.")],
        )

    @classmethod
    def execute(cls, eta: float, exact_tail: bool) -> io.NodeOutput:
        """Make the sampler."""
        from .native.ddim import make_sampler

        return io.NodeOutput(make_sampler(eta, exact_tail))


class DynamicWeightedKSampler(io.ComfyNode):
    """Sampling with a subject that is weak in the first K steps and strong in the later ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterDynamicWeightedKSampler",
            display_name="Dynamic Weighted KSampler",
            category=host.CATEGORY,
            description="The paper's Algorithm 1: sample with the subject at strength λs for the first K steps, which "
            "make the motion, and at λl for the later ones, which make the looks.",
            search_aliases=["CustomCrafter sampler", "dynamic weighted video sampling"],
            hidden=[io.Hidden.unique_id],
            inputs=[*sampling_inputs(), *strength_inputs(*OF_SUBJECT), *denoise_inputs(), *switch_inputs()],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The sampled video, for VAE Decode."),
                io.Image.Output(
                    display_name="strengths",
                    tooltip="The strength that was applied at each step; "
                    "a line for each subject and LoRA whose strength follows the steps.",
                ),
                io.String.Output(display_name="applied", tooltip="The same as a list of numbers for each."),
            ],
        )

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        """Sample."""
        from .native.ksampler import Run, run
        from .native.picture import strength_picture

        host.known_choice("sampler_name", given["sampler_name"], samplers())
        host.known_choice("scheduler", given["scheduler"], comfy.samplers.KSampler.SCHEDULERS)
        optional = {name: given.pop(name, default) for name, default in OPTIONAL.items()}
        schedule = schedule_from(*(given.pop(name) for name in ("lambda_s", "lambda_l", "k")), **optional)
        own = given["sampler_name"] == OWN_SAMPLER
        page = host.on_page(cls)
        sampled = run(Run(schedule=schedule, own_sampler=own, page=page, **given))
        picture = strength_picture(sampled.applied)
        host.show_on_node(picture)
        if not given.get("subject"):
            page.say("No subject connected here.")
        numbers = "\n".join(map(json.dumps, sampled.applied))
        return io.NodeOutput(sampled.latent, picture, numbers, ui=ui.PreviewImage(picture, cls=cls))


def sampling_inputs() -> list[io.Input]:
    """What the host's own KSampler has, with VideoCrafter2's defaults."""
    return [
        io.Model.Input("model", tooltip="The MODEL of Load VideoCrafter2."),
        io.Conditioning.Input("positive", tooltip="What the video shall show, with the subject's token."),
        io.Conditioning.Input("negative", tooltip="What it shall not show."),
        io.Latent.Input("latent_image", tooltip="From Empty Video Latent."),
        SUBJECT.Input("subject", optional=True, tooltip="Without one this samples the base model."),
        *step_inputs(),
        io.Combo.Input(
            "sampler_name",
            options=samplers(),
            default=OWN_SAMPLER,
            tooltip="VideoCrafter2's own DDIM, or any of the host's samplers.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.KSampler.SCHEDULERS),
            default=SCHEDULER,
            tooltip="ddim_uniform gives exactly VideoCrafter2's timesteps.",
        ),
    ]


def denoise_inputs() -> list[io.Input]:
    """What comes last."""
    return [
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Below 1 only the last part of the steps runs, on the given video. K counts on the steps that run.",
        ),
        any_base_input(),
    ]


NODES = [DynamicWeightedKSampler, DDIMSampler]
