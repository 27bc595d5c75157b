"""Load, apply and save subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..customcrafter_core.diffusion.strength import LAMBDA_L, TwoPhase
from . import host
from .files import SUFFIX, chosen_file, new_file, saved_at, subject_names
from .inputs import SUBJECT, any_base_input, model_and_clip
from .strength_inputs import OF_SUBJECT, STEP


def summary_of(subject: Any) -> str:
    """What a subject is, in a few readable lines."""
    from ..customcrafter_core.demo.base_name import base_name

    strength: TwoPhase = subject.recommended
    papers = " (the paper's)" if strength == TwoPhase() else ""
    return "\n".join(
        [
            f"In prompts: {subject.trigger}",
            f"Recommended: λs {strength.lambda_s:g}, λl {strength.lambda_l:g}, K {strength.k}{papers}",
            f"Base model: {base_name(subject.base)}",
            f"{kind_of(subject)}, trained for {subject.steps} steps",
        ]
    )


def kind_of(subject: Any) -> str:
    """What a subject changes."""
    if subject.adapters:
        return f"Identity adapters in {len(subject.adapters)} blocks"
    if not subject.factors:
        return "The token alone"
    return f"LoRA of rank {subject.rank} on {len(subject.factors)} layers"


class LoadSubject(io.ComfyNode):
    """A subject from its file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterLoadSubject",
            display_name="Load Subject",
            category=host.CATEGORY,
            description="Load a subject that was learned from a few photos.",
            search_aliases=["CustomCrafter subject", "personalization"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input("subject", options=subject_names(), tooltip="A subject file in models/loras."),
                host.advanced(
                    io.String.Input(
                        "token",
                        default="",
                        optional=True,
                        tooltip="Another token for it, such as <new2>, so that two subjects fit into one prompt. "
                        "Empty: its own.",
                    )
                ),
            ],
            outputs=[
                SUBJECT.Output(display_name="subject", tooltip="For the other nodes of this pack."),
                io.String.Output(
                    display_name="trigger", tooltip="How it is called in a prompt, such as <new1> teddy bear."
                ),
                io.String.Output(
                    display_name="summary", tooltip="Trigger text, training steps and recommended λs, λl, K."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, subject: str | None, **_: Any) -> int:
        """Changes with the file, so that a subject saved again is loaded again."""
        return saved_at("loras", subject)

    @classmethod
    def execute(cls, subject: str, token: str = "") -> io.NodeOutput:
        """Load."""
        from ..customcrafter_core.subject.file import load_subject

        loaded = load_subject(chosen_file("loras", subject))
        if token.strip():
            loaded = loaded.called(token.strip())
        summary = summary_of(loaded)
        host.show_text(cls, summary)
        return io.NodeOutput(loaded, loaded.trigger, summary, ui={"text": [summary]})


class ApplySubject(io.ComfyNode):
    """A subject at constant strength."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterApplySubject",
            display_name="Apply Subject",
            category=host.CATEGORY,
            description="Put a subject on the model at constant strength and teach its token to the text encoder. "
            "When the Dynamic Weighted KSampler gets the subject itself, use Teach Token instead.",
            search_aliases=["CustomCrafter apply", "subject LoRA", "constant strength"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Load VideoCrafter2."),
                io.Clip.Input("clip", tooltip="The CLIP of Load VideoCrafter2."),
                SUBJECT.Input("subject", tooltip="From Load Subject or the trainer."),
                io.Float.Input(
                    "strength",
                    default=LAMBDA_L,
                    min=OF_SUBJECT[0],
                    max=OF_SUBJECT[1],
                    step=STEP,
                    tooltip="How strong the subject is.",
                ),
                any_base_input(),
            ],
            outputs=model_and_clip(),
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, subject: Any, strength: float, any_base: bool = False) -> io.NodeOutput:
        """Apply."""
        from .native.subject import with_constant_subject
        from .native.text import teach

        model = with_constant_subject(model, subject, strength, any_base=any_base)
        return io.NodeOutput(model, teach(clip, subject))


class TeachToken(io.ComfyNode):
    """A subject's token for the text encoder, the model left alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterTeachToken",
            display_name="Teach Token",
            category=host.CATEGORY,
            description="Teach a subject's token, such as <new1>, to the text encoder; the model stays as it is. For "
            "the Dynamic Weighted KSampler, which puts the subject on the model itself.",
            search_aliases=["CustomCrafter token", "subject prompt", "textual inversion"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of Load VideoCrafter2."),
                SUBJECT.Input("subject", tooltip="From Load Subject or the trainer."),
            ],
            outputs=[
                io.Clip.Output(display_name="clip", tooltip="The text encoder that knows the subject's token."),
                io.String.Output(
                    display_name="trigger", tooltip="How it is called in a prompt, such as <new1> teddy bear."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, subject: Any) -> io.NodeOutput:
        """Teach."""
        from .native.text import teach

        return io.NodeOutput(teach(clip, subject), subject.trigger)


class SaveSubject(io.ComfyNode):
    """A subject to its file, or as plain LoRA and embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterSaveSubject",
            display_name="Save Subject",
            category=host.CATEGORY,
            description="Save a subject to models/loras. With export also as a plain LoRA and an embedding for the "
            "host's own nodes (Load LoRA, embedding:NAME-token).",
            search_aliases=["CustomCrafter save", "export LoRA", "export embedding"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                SUBJECT.Input("subject", tooltip="The subject to save."),
                io.String.Input("name", default="subject", tooltip="File name, without folder; .safetensors is added."),
                io.Boolean.Input(
                    "export",
                    default=False,
                    tooltip="Also write NAME-lora.safetensors and the embedding NAME-token.safetensors; the node then "
                    "shows how prompts call it. Spaces in the name become _ there.",
                ),
                host.advanced(
                    io.Boolean.Input("overwrite", default=False, tooltip="Replace a file that has this name.")
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="The file's name, as Load Subject lists it.")],
        )

    @classmethod
    def execute(cls, subject: Any, name: str, export: bool, overwrite: bool) -> io.NodeOutput:
        """Save."""
        from ..customcrafter_core.subject.file import save_subject
        from ..customcrafter_core.subject.formats import check_exportable, export_for_host, host_call, host_names

        if export:
            check_exportable(subject)
        stem = name.strip().removesuffix(SUFFIX)
        loras, embeddings = (Path(folder_paths.get_folder_paths(kind)[0]) for kind in ("loras", "embeddings"))
        target = new_file(loras, stem, overwrite)
        told = [f"Saved: {target.name}"]
        if export:
            lora, embedding = host_names(stem)
            exports = new_file(loras, lora, overwrite), new_file(embeddings, embedding, overwrite)
            told += [f"For Load LoRA: {exports[0].name}", f"In prompts: {host_call(embedding, subject.class_word)}"]
        save_subject(subject, target)
        if export:
            export_for_host(subject, *exports)
        host.show_text(cls, "\n".join(told))
        return io.NodeOutput(target.name, ui={"text": told})


NODES = [LoadSubject, ApplySubject, TeachToken, SaveSubject]
