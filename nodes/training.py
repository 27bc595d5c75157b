"""Learn a subject from photos; photos of the demo world to try it with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..customcrafter_core.errors import InputError
from . import host
from .files import SUFFIX, new_file
from .inputs import SUBJECT
from .training_inputs import (
    ANEW,
    STARTS,
    advanced_inputs,
    basic_inputs,
    config_from,
    optional_inputs,
    run_options_from,
    single,
)

if TYPE_CHECKING:
    from ..customcrafter_core.training.loop import TrainingResult
    from .native.training import Order

PRIOR_FOLDER = Path("customcrafter") / "prior"  # in the host's output folder
LISTS = ("images", "captions", "prior", "prior_captions", "masks")


class SubjectTrainer(io.ComfyNode):
    """A subject from photos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.schema(
            node_id="CustomCrafterSubjectTrainer",
            display_name="Subject Trainer",
            category=host.TRAINING,
            description="Learn a subject from three to ten photos of it. Cancel keeps what was learned; running again "
            "goes on from there. The file appears in models/loras.",
            search_aliases=["train LoRA", "CustomCrafter training", "DreamBooth", "textual inversion", "personalize"],
            is_output_node=True,
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Load VideoCrafter2. It stays as it is."),
                io.Clip.Input("clip", tooltip="The CLIP of the same Load VideoCrafter2."),
                io.Vae.Input("vae", tooltip="The VAE of the same Load VideoCrafter2."),
                io.Image.Input(
                    "images",
                    tooltip="Photos of the subject, of any sizes: from Load Image (from Folder) or any other image loader.",
                ),
                *basic_inputs(),
                *optional_inputs(),
                *advanced_inputs(),
            ],
            outputs=[
                SUBJECT.Output(display_name="subject", tooltip="For the other nodes of this pack."),
                io.Custom("LORA_MODEL").Output(
                    display_name="lora", tooltip="The LoRA alone, for Save LoRA or Dynamic LoRA Weights."
                ),
                io.Custom("LOSS_MAP").Output(display_name="loss", tooltip="Each step's loss, for Plot Loss Graph."),
                io.Image.Output(
                    display_name="samples", tooltip="The sample videos of the run, a row of frames for each."
                ),
                io.Image.Output(display_name="loss_picture", tooltip="The loss over the steps."),
            ],
        )

    @classmethod
    def execute(cls, **given: list[Any]) -> io.NodeOutput:
        """Train."""
        from ..customcrafter_core.training.config import check_preset
        from .native.model import require_base
        from .native.source import source_of
        from .native.training import train

        lists = {name: given.pop(name, None) or [] for name in LISTS}
        one = {name: single(name, values) for name, values in given.items()}
        path = source_of(one["model"], one["clip"], one["vae"])
        check_preset(one["preset"], require_base(one["model"]).config.unet)
        order = order_of(lists, one)
        result = train(one["model"], path, order, lambda text: host.show_text(cls, text))
        return _output(cls, result, order)


def order_of(lists: dict[str, list[Any]], one: dict[str, Any]) -> Order:
    """What the inputs ask for, checked before anything is loaded or written.

    Raises:
        InputError: an input that cannot be used.
    """
    from ..customcrafter_core.demo.run import recommended_with
    from .native.photos import photos_of
    from .native.text import check_token
    from .native.training import MadePrior, Order

    config = config_from(one)
    check_token(config.placeholder)
    start_over = host.known_choice("start", one["start"], STARTS) == ANEW
    target = target_file(one["name"], start_over=start_over)
    if not any(len(batch) for batch in lists["images"]):
        raise InputError(
            expected="at least one photo of the subject",
            found="none",
            remedy="Put them into a folder of their own in the host's input folder, and connect Load Image (from Folder), "
            "called Load Image Dataset from Folder on older hosts, to images.",
        )
    photos = photos_of(lists["images"], lists["captions"], "photos", lists["masks"])
    prior = photos_of(lists["prior"], lists["prior_captions"], "prior pictures")
    folder = Path(folder_paths.get_output_directory()) / PRIOR_FOLDER
    made = MadePrior(one.get("make_prior", 0), one.get("prior_clips", False), folder)
    run_options = replace(
        run_options_from(one, target, start_over=start_over), recommended=recommended_with(one["preset"])
    )
    return Order(config, target, run_options, photos, prior, made)


def target_file(name: str, *, start_over: bool) -> Path:
    """The subject's file in the host's LoRA folder.

    Raises:
        InputError: the name is none, or another file has it that no run of the trainer began.
    """
    from ..customcrafter_core.training.checkpoints import has_run

    loras = Path(folder_paths.get_folder_paths("loras")[0])
    target = new_file(loras, name.strip().removesuffix(SUFFIX), overwrite=True)
    if target.exists() and not start_over and not has_run(target):
        raise InputError(
            expected="a new file name, or that of a run to go on with",
            found=f"{target.name}, which exists",
            remedy="Choose another name, or start over to replace it.",
        )
    return target


def _output(node: type[io.ComfyNode], result: TrainingResult, order: Order) -> io.NodeOutput:
    """The results, as they are handed to other nodes and shown."""
    from ..customcrafter_core.subject.file import lora_tensors
    from ..customcrafter_core.training.pictures import draw_loss, stack_images
    from .native.picture import as_image
    from .native.training import no_samples, samples_picture

    loss, samples = draw_loss(result.steps), samples_picture(order.target)
    shown = as_image(loss if samples is None else stack_images([samples, loss]))
    return io.NodeOutput(
        result.subject,
        lora_tensors(result.subject),
        {"loss": [step.loss for step in result.steps]},
        as_image(no_samples() if samples is None else samples),
        as_image(loss),
        ui=ui.PreviewImage(shown, cls=node),
    )


class DemoPhotos(io.ComfyNode):
    """Photos of the demo's subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        text = io.String.Output
        return host.schema(
            node_id="CustomCrafterDemoPhotos",
            display_name="Demo Photos",
            category=host.TRAINING,
            description="Five photos of an orange square, and pictures of other toys, to try the Subject Trainer "
            "with the built-in demo model, which never saw an orange square.",
            search_aliases=["CustomCrafter example", "training images", "demo data"],
            inputs=[],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Photos of the subject."),
                text(display_name="captions", tooltip="What they show."),
                io.Image.Output(display_name="prior", tooltip="Pictures of other things of the class."),
                text(display_name="prior_captions", tooltip="What they show."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Draw them."""
        from ..customcrafter_core.demo.run import demo_photos, demo_prior
        from .native.picture import as_image

        outputs: list[Any] = []
        for photos in (demo_photos(), demo_prior()):
            outputs.append(torch.cat([as_image(photo.image) for photo in photos]))
            outputs.append("\n".join(photo.caption for photo in photos))
        return io.NodeOutput(*outputs)


NODES = [SubjectTrainer, DemoPhotos]
