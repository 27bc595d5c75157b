"""Load VideoCrafter2 from a checkpoint file: strict, one tensor at a time, never a second copy of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from ..diffusion.schedule import NoiseSchedule
from ..errors import InputError
from ..files.tensor_file import TensorFile, open_tensor_file
from .config import UNET_PREFIX, Defaults, ModelConfig, read_config
from .conversion import Source, assign, match, put, refuse_other_models
from .fingerprint import SAMPLED, fingerprint
from .model import VideoCrafter2
from .networks import Networks, build_networks, restore_buffers

PARTS = 16
"""A file is mapped again after each such part: its pages would pile up beside the weights that are made of them."""


def load_videocrafter2(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    unet_dtype: Callable[[int], torch.dtype] | None = None,
    device: str | torch.device = "cpu",
    config: ModelConfig | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> VideoCrafter2:
    """Load the base model.

    Args:
        path: VideoCrafter2's ``model.ckpt``, the same names as ``.safetensors``, or the demo checkpoint.
        dtype: of all weights, one of `DTYPE_NAMES`.
        unet_dtype: gives another one for the UNet, which has the number of parameters that it is called with.
        device: where the weights go.
        config: its sizes; by default from the file's metadata, else VideoCrafter2's.
        on_tensor: called with (tensors read, tensors in all).

    Returns:
        The model, without gradients, in evaluation mode.

    Raises:
        InputError: not such a checkpoint (every weight that does not fit is named), NaN, infinity or numbers beyond the
            range of the type, or a file that ends early.
    """
    with open_tensor_file(path) as file:
        networks, config, defaults, sources = plan(file, config)
        mark = stored_fingerprint(file, networks, sources)
        dtypes = dict.fromkeys((source.name for source in sources.values()), dtype)
        if unet_dtype is not None:
            chosen = unet_dtype(sum(parameter.numel() for parameter in networks.unet.parameters()))
            dtypes |= {name: chosen for name in dtypes if name.startswith(UNET_PREFIX)}
        assign(networks, config, sources, counted(read_weights(file, dtypes, device), len(dtypes), on_tensor))
        restore_buffers(networks.text_encoder)
    for network in (networks.unet, networks.text_encoder, networks.vae):
        network.eval().to(device)
    return VideoCrafter2(
        unet=networks.unet,
        text_encoder=networks.text_encoder,
        vae=networks.vae,
        config=config,
        defaults=defaults,
        schedule=NoiseSchedule.videocrafter2(),
        fingerprint=mark,
    )


def plan(
    file: TensorFile, config: ModelConfig | None = None
) -> tuple[Networks, ModelConfig, Defaults, dict[str, Source]]:
    """Build the networks on the meta device and find the source of every parameter.

    Args:
        file: an open checkpoint.
        config: its sizes; by default from the file's metadata, else VideoCrafter2's.

    Returns:
        Networks, their sizes, the video they were made for, and for each parameter its source.

    Raises:
        InputError: the names or shapes are not those of the model, or the metadata cannot be read.
    """
    shapes = {name: tuple(value.shape) for name, value in file.tensors.items()}
    refuse_other_models(shapes)
    stored, defaults = read_config(file.metadata)
    config = config or stored
    with torch.device("meta"):
        networks = build_networks(config)
    return networks, config, defaults, match(shapes, networks, config)


def stored_fingerprint(file: TensorFile, networks: Networks, sources: Mapping[str, Source]) -> str:
    """The fingerprint by the numbers as they are stored: 8-bit types round them too far.

    Args:
        file: an open checkpoint.
        networks: of its sizes; the few weights that the fingerprint is taken of are put in their places.
        sources: from `match`.
    """
    for name in SAMPLED:
        source, old = sources[UNET_PREFIX + name], networks.unet.get_parameter(name)
        put(networks.unet, name, source.take(file.read(source.name), tuple(old.shape)))
    return fingerprint(networks.unet)


def read_weights(
    file: TensorFile, dtypes: Mapping[str, torch.dtype], device: str | torch.device = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Read weights one after another, as they lie in the file; those that need no change stay mapped into memory.

    Args:
        file: an open file.
        dtypes: the names of the weights, with the type that each is wanted in.
        device: where they go.

    Yields:
        Name and weight.

    Raises:
        InputError: a weight holds NaN or infinity, is beyond the range of its type, or is no floating-point tensor where
            one is wanted.
    """
    converted, limit = 0, file.path.stat().st_size // PARTS
    sizes = {name: file.tensors[name].nbytes for name in dtypes}
    for name in sorted(dtypes, key=lambda name: file.tensors[name].data_ptr()):
        if converted and converted + sizes[name] > limit:
            file.release_pages()
            converted = 0
        weight = _read_weight(file, name, dtypes[name], device)
        if weight is not file.tensors[name]:
            converted += sizes[name]
        yield name, weight


def _read_weight(file: TensorFile, name: str, dtype: torch.dtype, device: str | torch.device) -> torch.Tensor:
    stored = file.tensors[name]
    if dtype.is_floating_point and not stored.dtype.is_floating_point:
        found = f"{name} in {stored.dtype}"
        raise InputError(expected="floating-point weights", found=found, remedy="Use the original file.")
    weight = stored.to(device, dtype)
    _check_finite(file, name, stored, weight)
    return weight


def _check_finite(file: TensorFile, name: str, stored: torch.Tensor, weight: torch.Tensor) -> None:
    if _is_finite(weight):
        return
    if _is_finite(stored):
        raise InputError(
            expected=f"weights within the range of {weight.dtype}",
            found=f"{name} with larger values",
            remedy="Use bfloat16.",
        )
    raise InputError(
        expected="finite weights",
        found=f"NaN or infinity in {name} of {file.path.name}",
        remedy="The file is damaged; get it again.",
    )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are; unlike `torch.isfinite` without a copy of the tensor."""
    if not tensor.dtype.is_floating_point or not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:  # torch counts with none of the 8-bit types
        tensor = tensor.half()
    return all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))


def counted(
    weights: Iterable[tuple[str, torch.Tensor]], total: int, on_tensor: Callable[[int, int], None] | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same weights; each is told to ``on_tensor`` as (tensors read, tensors in all)."""
    for done, named in enumerate(weights, 1):
        if on_tensor is not None:
            on_tensor(done, total)
        yield named
