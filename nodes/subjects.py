"""The nodes that load, apply and save subjects."""

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
    """A few readable lines about a subject."""
    from ..customcrafter_core.demo.base_name import base_name

    strength: TwoPhase = subject.recommended
    papers = " (as in the paper)" if strength == TwoPhase() else ""
    return "\n".join(
        [
            f"Trigger: {subject.trigger}",
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
        return "Token only"
    return f"LoRA of rank {subject.rank} on {len(subject.factors)} layers"


class LoadSubject(io.ComfyNode):
    """Load a subject from its file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs, outputs and texts."""
        return host.schema(
            node_id="CustomCrafterLoadSubject",
            display_name="Load Subject",
            category=host.CATEGORY,
            description="Load a subject that was trained on a few photos.",
            search_aliases=["CustomCrafter subject", "personalization"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input("subject", options=subject_names(), tooltip="A subject file in models/loras."),
                host.advanced(
                    io.String.Input(
                        "token",
                        default="",
                        optional=True,
                        tooltip="Rename its token, for example to <new2>, to use two subjects in one prompt. Empty: keep "
                        "its own.",
                    )
                ),
            ],
            outputs=[
                SUBJECT.Output(display_name="subject", tooltip="For the other CustomCrafter nodes."),
                io.String.Output(
                    display_name="trigger", tooltip="What to write in the prompt, such as <new1> teddy bear."
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="Trigger text, recommended λs, λl and K, base model and training steps.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, subject: str | None, **_: Any) -> int:
        """Rerun when the file changes, so that a subject saved again is loaded again."""
        return saved_at("loras", subject)

    @classmethod
    def execute(cls, subject: str, token: str = "") -> io.NodeOutput:
        """Load the subject, under another token if one is given, and show its summary."""
        from ..customcrafter_core.subject.file import load_subject

        loaded = load_subject(chosen_file("loras", subject))
        if token.strip():
            loaded = loaded.called(token.strip())
        summary = summary_of(loaded)
        host.show_text(cls, summary)
        return io.NodeOutput(loaded, loaded.trigger, summary, ui={"text": [summary]})


class ApplySubject(io.ComfyNode):
    """Apply a subject at constant strength."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs, outputs and texts."""
        return host.schema(
            node_id="CustomCrafterApplySubject",
            display_name="Apply Subject",
            category=host.CATEGORY,
            description="Apply a subject to the model at constant strength and add its token to the text encoder. If the "
            "subject is connected to a Dynamic Weighted KSampler, use Add Subject Token instead.",
            search_aliases=["CustomCrafter apply", "subject LoRA", "constant strength"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from Load VideoCrafter2."),
                io.Clip.Input("clip", tooltip="The CLIP from Load VideoCrafter2."),
                SUBJECT.Input("subject", tooltip="From Load Subject or Subject Trainer."),
                io.Float.Input(
                    "strength",
                    default=LAMBDA_L,
                    min=OF_SUBJECT[0],
                    max=OF_SUBJECT[1],
                    step=STEP,
                    tooltip="How strongly the subject is applied; 0 turns it off.",
                ),
                any_base_input(),
            ],
            outputs=model_and_clip(),
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, subject: Any, strength: float, any_base: bool = False) -> io.NodeOutput:
        """Apply the subject to the model and add its token to the text encoder."""
        from .native.subject import with_constant_subject
        from .native.text import teach

        model = with_constant_subject(model, subject, strength, any_base=any_base)
        return io.NodeOutput(model, teach(clip, subject))


class TeachToken(io.ComfyNode):
    """Add a subject's token to the text encoder; the model is not changed. The id dates from an earlier name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs, outputs and texts."""
        return host.schema(
            node_id="CustomCrafterTeachToken",
            display_name="Add Subject Token",
            category=host.CATEGORY,
            description="Add a subject's token, such as <new1>, to the text encoder. For use with the Dynamic Weighted "
            "KSampler, which applies the subject to the model itself.",
            search_aliases=["Teach Token", "CustomCrafter token", "subject prompt", "textual inversion"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP from Load VideoCrafter2."),
                SUBJECT.Input("subject", tooltip="From Load Subject or Subject Trainer."),
            ],
            outputs=[
                io.Clip.Output(display_name="clip", tooltip="The text encoder, with the subject's token added."),
                io.String.Output(
                    display_name="trigger", tooltip="What to write in the prompt, such as <new1> teddy bear."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, subject: Any) -> io.NodeOutput:
        """Add the token."""
        from .native.text import teach

        return io.NodeOutput(teach(clip, subject), subject.trigger)


class SaveSubject(io.ComfyNode):
    """Save a subject, optionally also as a plain LoRA and an embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs, outputs and texts."""
        return host.schema(
            node_id="CustomCrafterSaveSubject",
            display_name="Save Subject",
            category=host.CATEGORY,
            description="Save a subject to models/loras, and optionally export it as a LoRA and an embedding for ComfyUI's "
            "own nodes (Load LoRA, embedding:NAME-token).",
            search_aliases=["CustomCrafter save", "export LoRA", "export embedding"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                SUBJECT.Input("subject", tooltip="The subject to save."),
                io.String.Input(
                    "name", default="subject", tooltip="File name without a folder; .safetensors is added."
                ),
                io.Boolean.Input(
                    "export",
                    default=False,
                    tooltip="Also write NAME-lora.safetensors and the embedding NAME-token.safetensors, with _ for spaces "
                    "in the name. The node shows what to write in prompts.",
                ),
                host.advanced(
                    io.Boolean.Input("overwrite", default=False, tooltip="Replace an existing file of the same name.")
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="File name, as listed in Load Subject.")],
        )

    @classmethod
    def execute(cls, subject: Any, name: str, export: bool, overwrite: bool) -> io.NodeOutput:
        """Save the subject; with ``export`` also what the host's own nodes read."""
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
