"""What differs between generations of the host, in one place."""

from __future__ import annotations

import html
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import comfy.ops
import comfy.sample
import comfy.sd
import comfy.utils
import folder_paths
from comfy_api.latest import io, ui
from PIL import Image

from ..customcrafter_core.errors import InputError, some_names

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

CATEGORY = "CustomCrafter"
TRAINING, EVALUATION = f"{CATEGORY}/training", f"{CATEGORY}/evaluation"

log = logging.getLogger(__name__)


def schema(**described: Any) -> io.Schema:
    """A node's schema, without the fields that this host does not know (it would drop the whole pack)."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in described.items() if name in known})


def advanced(given: io.Input) -> io.Input:
    """Fold an input away; hosts that cannot do that show it."""
    given.extra_dict["advanced"] = True
    return given


def curve_input(name: str, tooltip: str) -> io.Input:
    """A curve as text; hosts with a curve type take one through the same socket, so saved workflows fit both."""
    text = io.String.Input(name, default="", optional=True, tooltip=tooltip)
    if not hasattr(io, "Curve"):
        return text
    return io.MultiType.Input(text, types=[io.String, io.Curve])


def curve_samples(value: Any, count: int = 201) -> list[float] | None:
    """Equally spaced values of a curve of the host's own type; None for text.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        return None
    try:
        from comfy_api.input import CurveInput

        curve = CurveInput.from_raw(value)
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            expected="a curve as text, such as 0:0.4, 0.1:0.8, or from the host's Curve Editor",
            found=f"{value!s:.40}",
            remedy="Write points progress:strength, progress from 0 to 1.",
        ) from error
    return [float(curve.interp(i / (count - 1))) for i in range(count)]


def model_folder(name: str) -> str:
    """The name of a folder of the host's models; hosts that do not have it are told of it."""
    if name not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
    return name


def show_on_node(picture: torch.Tensor) -> None:
    """Show a picture ``(1, h, w, 3)`` on the running node: the page prefers the last live preview to a node's output."""
    pixels = (picture[0].clamp(0, 1) * 255).byte().numpy()
    comfy.utils.ProgressBar(1).update_absolute(1, 1, ("PNG", Image.fromarray(pixels), None))


def server() -> Any:
    """The host's server; None where nodes are only described and none runs."""
    module = sys.modules.get("server")
    return None if module is None else getattr(module.PromptServer, "instance", None)


class NodeOnPage:
    """A node as the page shows it, which may be told of something while other nodes run."""

    notes: ClassVar[dict[str, str]] = {}
    """Node id -> what stands on it below all else, until the next graph."""

    def __init__(self, node_id: str) -> None:
        self._id = node_id

    def say(self, text: str) -> None:
        """Show text on it, instead of what was there.

        The page reads it as HTML, in which ``<new1>`` would vanish, and a file's text could do worse; ``[[`` as a link.
        """
        text = "\n".join([text, self.notes[self._id]] if self._id in self.notes else [text])
        server().send_progress_text(html.escape(text).replace("[", "&#91;"), self._id)

    def show_levels(self, levels: list[list[float | None]]) -> None:
        """Tell it the noise at which each step begins, (sigma, timestep or None), for what it says while sliders move."""
        server().send_sync("customcrafter.levels", {"node": self._id, "levels": levels})


def on_page(node: type[io.ComfyNode]) -> NodeOnPage:
    """The running node, whose schema asks for its id."""
    return NodeOnPage(node.hidden.unique_id)


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Show text on the running node, whose schema asks for its id."""
    on_page(node).say(text)


def gives_model(kind: str) -> bool:
    """Whether a node's first output is a MODEL."""
    import nodes

    made = nodes.NODE_CLASS_MAPPINGS.get(kind)
    return made is not None and list(made.RETURN_TYPES)[:1] == ["MODEL"]


def shown(node: type[io.ComfyNode], image: torch.Tensor, said: str, *outputs: Any) -> io.NodeOutput:
    """The outputs, with a picture ``(1, h, w, 3)`` and a text on the node."""
    show_on_node(image)
    show_text(node, said)
    return io.NodeOutput(*outputs, ui=ui.PreviewImage(image, cls=node))


def known_choice(name: str, value: str, known: Sequence[str]) -> str:
    """A value of a list of choices; older hosts pass any on.

    Raises:
        InputError: it is not in the list.
    """
    if value not in known:
        raise InputError(
            expected=f"a {name} from the list", found=repr(value), remedy=f"Choose {some_names(list(known), 3)}."
        )
    return value


def layers_for(weight_dtype: torch.dtype, compute_dtype: torch.dtype | None) -> Any:
    """The host's layer classes: they cast, load part by part and take weight functions.

    As its `pick_operations` without ``--fast``, whose classes need what only their own constructors set.
    """
    return comfy.ops.disable_weight_init if compute_dtype in (None, weight_dtype) else comfy.ops.manual_cast


def stored_scale(model: ModelPatcher, key: str) -> float:
    """What a layer multiplies its stored weight by after weight functions: older hosts do so for scaled fp8."""
    layer, _, kind = key.rpartition(".")
    scale = getattr(model.get_model_object(layer), "scale_weight", None) if kind == "weight" else None
    return float(scale) if hasattr(comfy.ops, "scaled_fp8_ops") and scale is not None else 1.0


def make_clip(target: Any, state: Mapping[str, torch.Tensor], folders: list[str], options: dict[str, Any]) -> Any:
    """A CLIP object with its weights."""
    parameters = sum(value.numel() for value in state.values())
    arguments: dict[str, Any] = {"embedding_directory": folders, "parameters": parameters, "model_options": options}
    if "state_dict" in inspect.signature(comfy.sd.CLIP).parameters:
        return comfy.sd.CLIP(target, state_dict=state, **arguments)
    clip = comfy.sd.CLIP(target, **arguments)
    clip.load_sd(state, full_model=True)
    return clip


def fit_empty_latent(model: ModelPatcher, latent: Mapping[str, Any]) -> torch.Tensor:
    """An empty latent with the model's channels and, on hosts that can, at the model's scale; others unchanged."""
    scales = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    known = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    given = {name: latent.get(name) for name in scales if name in known}
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], **given)
