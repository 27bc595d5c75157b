"""Strength that follows the steps, for any sampler node."""

from __future__ import annotations

from typing import Any

import comfy.utils
from comfy_api.latest import io

from ..customcrafter_core.errors import InputError
from . import host
from .files import choices, chosen_file, saved_at
from .inputs import SUBJECT, any_base_input, model_and_clip
from .strength_inputs import OF_LORA, OF_SUBJECT, STEPS_UNIT, part_inputs, schedule_from, strength_inputs, switch_inputs

NO_FILE = "none"


class DynamicSubjectWeights(io.ComfyNode):
    """A subject whose strength follows the steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterDynamicSubjectWeights",
            display_name="Dynamic Subject Weights",
            category=host.CATEGORY,
            description="Put a subject on the model: weak in the first K steps, strong in the later ones. Any sampler "
            "node then samples with this.",
            search_aliases=["CustomCrafter weights", "subject schedule", "lambda_s lambda_l", "strength per step"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Load VideoCrafter2."),
                io.Clip.Input("clip", tooltip="The CLIP of Load VideoCrafter2."),
                SUBJECT.Input("subject", tooltip="From Load Subject or the trainer."),
                *strength_inputs(*OF_SUBJECT),
                *part_inputs(),
                any_base_input(),
                *switch_inputs(),
            ],
            outputs=model_and_clip(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        subject: Any,
        lambda_s: float,
        lambda_l: float,
        k: int,
        curve: Any = "",
        start_at_step: int = 0,
        total_steps: int = 0,
        any_base: bool = False,
        switch_by: str = STEPS_UNIT,
        switch_at: float = 0.0,
    ) -> io.NodeOutput:
        """Apply."""
        from .native.strength_plan import StrengthPlan
        from .native.subject import with_dynamic_subject
        from .native.text import teach

        schedule = schedule_from(lambda_s, lambda_l, k, curve, switch_by, switch_at)
        plan = StrengthPlan(schedule, start_at_step, total_steps)
        model = with_dynamic_subject(model, subject, plan, any_base=any_base, page=host.on_page(cls))
        return io.NodeOutput(model, teach(clip, subject))


class DynamicLoRAWeights(io.ComfyNode):
    """A LoRA of any model whose strength follows the steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterDynamicLoRAWeights",
            display_name="Dynamic LoRA Weights",
            category=host.CATEGORY,
            description="Put a LoRA on any model with one strength for the first K steps and another for the later "
            "ones; either may be 0 or negative. Several can follow each other. Only the LoRA's part for the model is "
            "applied, not one for the text encoder.",
            search_aliases=["LoRA schedule", "LoRA strength per step", "LoRA timing"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="Any model."),
                io.Combo.Input(
                    "lora",
                    options=[NO_FILE, *choices("loras")],
                    default=NO_FILE,
                    tooltip="A LoRA in models/loras that was made for this model, or the demo subject's.",
                ),
                *strength_inputs(*OF_LORA),
                *part_inputs(),
                io.Custom("LORA_MODEL").Input(
                    "lora_model", optional=True, tooltip="A LoRA from a training node, instead of a file."
                ),
                *switch_inputs(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the LoRA.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str | None, **_: Any) -> int:
        """Changes with the file."""
        return saved_at("loras", lora)

    @classmethod
    def execute(
        cls,
        model: Any,
        lora: str,
        lambda_s: float,
        lambda_l: float,
        k: int,
        curve: Any = "",
        start_at_step: int = 0,
        total_steps: int = 0,
        lora_model: Any = None,
        switch_by: str = STEPS_UNIT,
        switch_at: float = 0.0,
    ) -> io.NodeOutput:
        """Apply."""
        from .native.dynamic import with_dynamic_lora
        from .native.lora_file import lora_patches
        from .native.strength_plan import StrengthPlan

        if (lora_model is None) == (lora == NO_FILE):
            raise InputError(
                expected="one LoRA",
                found="none" if lora_model is None else "a file and a LORA_MODEL",
                remedy="Choose a file, or connect a LORA_MODEL and choose none.",
            )
        if lora_model is None:
            tensors, name = comfy.utils.load_torch_file(str(chosen_file("loras", lora)), safe_load=True), lora
        else:
            tensors, name = lora_model, "the LORA_MODEL"
        schedule = schedule_from(lambda_s, lambda_l, k, curve, switch_by, switch_at)
        plan = StrengthPlan(schedule, start_at_step, total_steps)
        patches = lora_patches(model, tensors, name)
        return io.NodeOutput(with_dynamic_lora(model, name, patches, plan, page=host.on_page(cls)))


NODES = [DynamicSubjectWeights, DynamicLoRAWeights]
