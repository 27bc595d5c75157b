"""Load VideoCrafter2 from a checkpoint file: strict, one tensor at a time, never a second copy of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..diffusion.schedule import NoiseSchedule
from ..errors import InputError
from .conversion import Source, assign, match
from .fingerprint import fingerprint
from .geometry import Geometry, HiddenSizes, defaults_of, hidden_sizes_of, read_geometry
from .model import VideoCrafter2
from .networks import Networks, build_networks, restore_buffers
from .tensor_file import TensorFile, open_tensor_file

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_videocrafter2(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    hidden: HiddenSizes | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> VideoCrafter2:
    """Load the base model.

    Args:
        path: VideoCrafter2's ``model.ckpt``, the same names as ``.safetensors``, or the demo checkpoint.
        dtype: of all weights: float32, float16 or bfloat16.
        device: where the weights go.
        hidden: head widths and norm groups; by default from the file's metadata, else VideoCrafter2's.
        on_tensor: called with (tensors read, tensors in all).

    Returns:
        The model, without gradients, in evaluation mode.

    Raises:
        InputError: not such a checkpoint; every weight that does not fit is named.
    """
    with open_tensor_file(path) as file:
        defaults = defaults_of(file.metadata)
        networks, geometry, sources = plan(file, hidden)
        total, done = len(sources), 0

        def read(name: str) -> torch.Tensor:
            nonlocal done
            done += 1
            if on_tensor is not None:
                on_tensor(done, total)
            return read_weight(file, name, dtype, device)

        assign(networks, geometry, sources, read)
        restore_buffers(networks.text_encoder)
    for network in (networks.unet, networks.text_encoder, networks.vae):
        network.eval().to(device)
    return VideoCrafter2(
        unet=networks.unet,
        text_encoder=networks.text_encoder,
        vae=networks.vae,
        geometry=geometry,
        hidden=hidden or hidden_sizes_of(file.metadata),
        defaults=defaults,
        schedule=NoiseSchedule.videocrafter2(),
        fingerprint=fingerprint(networks.unet),
    )


def plan(file: TensorFile, hidden: HiddenSizes | None = None) -> tuple[Networks, Geometry, dict[str, Source]]:
    """Read the geometry, build the networks on the meta device and find the source of every parameter.

    Raises:
        InputError: the names or shapes are not those of VideoCrafter2.
    """
    shapes = {name: info.shape for name, info in file.tensors.items()}
    geometry = read_geometry(shapes, hidden or hidden_sizes_of(file.metadata))
    with torch.device("meta"):
        networks = build_networks(geometry)
    return networks, geometry, match(shapes, networks, geometry)


def read_weight(file: TensorFile, name: str, dtype: torch.dtype, device: str | torch.device) -> torch.Tensor:
    """Read one weight in the dtype and on the device wanted; mapped into memory where nothing has to change.

    Raises:
        InputError: the weight holds NaN or infinity, or is no floating-point tensor.
    """
    stored = file.tensors[name].dtype
    if not stored.is_floating_point:
        raise InputError(
            expected="floating-point weights", found=f"{name} in {stored}", remedy="Use the original file."
        )
    on_cpu = torch.device(device).type == "cpu"
    value = file.map(name) if stored == dtype and on_cpu else file.read(name)
    weight = value.to(device=device, dtype=dtype)
    if not _is_finite(weight):
        if _is_finite(value):
            raise InputError(
                expected=f"weights within the range of {dtype}",
                found=f"{name} with larger values",
                remedy="Use bfloat16.",
            )
        raise InputError(
            expected="finite weights",
            found=f"NaN or infinity in {name} of {file.path.name}",
            remedy="The file is damaged; get it again.",
        )
    return weight


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are; unlike `torch.isfinite` without a copy of the tensor."""
    return not tensor.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))
