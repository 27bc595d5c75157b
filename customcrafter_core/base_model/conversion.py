"""Match a checkpoint's tensors, one by one, with the parameters of our networks; strict in both directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ..errors import InputError, some_names
from .config import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, ModelConfig, Shapes
from .key_tables import Table, rename, text_table, unet_table, vae_table
from .networks import Networks, text_tower

# Not weights: the noise schedule that Lightning stores beside them, and parts of the text tower that are never used.
SCHEDULE_BUFFERS = {
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar",
    "scale_arr", "scale_arr_prev", "scale_factor",
}  # fmt: skip
UNUSED_TEXT = ("text_projection", "logit_scale", "attn_mask")
MAX_NAMES = 40  # in one message


@dataclass(frozen=True)
class Source:
    """Where a parameter comes from: a tensor of the file, or the ``part``-th third of its rows (q, k, v)."""

    name: str
    part: int | None = None

    def take(self, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Cut the part out and give it our shape: some 1×1 convolutions of the original are linear layers here."""
        if self.part is not None:
            tensor = tensor.chunk(3)[self.part].clone()  # a view would keep all three parts alive
        return tensor.reshape(shape)


@dataclass
class Mismatch:
    """Everything that does not fit, by name."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def raise_if_any(self) -> None:
        """Raise one error that names the weights that do not fit.

        Raises:
            InputError: unless nothing was found.
        """
        lists = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}
        found = "; ".join(
            f"{len(names)} {what}: {some_names(names, MAX_NAMES)}" for what, names in lists.items() if names
        )
        if found:
            raise InputError(
                expected="exactly the weights of VideoCrafter2",
                found=found,
                remedy="The file is damaged or belongs to another model; get VideoCrafter2's model.ckpt again.",
            )


def refuse_other_models(shapes: Shapes) -> None:
    """Refuse what by its names is another model, and say which.

    Args:
        shapes: names and shapes of a file.

    Raises:
        InputError: there is none of VideoCrafter2's marks: layers over frames and a frame-rate embedding in its UNet.
    """
    unet = [name for name in shapes if name.startswith(UNET_PREFIX)]
    if any("lora" in name for name in shapes):
        found = "a LoRA file"
    elif not unet and any(name.startswith(("conv_in", "down_blocks", "unet.")) for name in shapes):
        found = "a model in diffusers format"
    elif not unet:
        found = f"other weights, such as {next(iter(shapes), 'none at all')!r}"
    elif not any(".temopral_conv." in name for name in unet):
        found = "an image model (Stable Diffusion format, no temporal layers)"
    elif not any("fps_embedding" in name for name in unet):
        found = "a video model without frame-rate embedding (VideoCrafter1 or older)"
    else:
        return
    raise InputError(
        expected="a VideoCrafter2 text-to-video checkpoint",
        found=found,
        remedy="Use VideoCrafter2's model.ckpt (text-to-video, 512, version 2).",
    )


def named_parts(networks: Networks, config: ModelConfig) -> Iterator[tuple[str, nn.Module, Table]]:
    """Each network as (prefix of its names in the checkpoint, module, table)."""
    yield UNET_PREFIX, networks.unet, unet_table(config.unet)
    yield TEXT_PREFIX, text_tower(networks.text_encoder), text_table(config.text)
    yield VAE_PREFIX, networks.vae, vae_table(config.vae)


def match(shapes: Shapes, networks: Networks, config: ModelConfig) -> dict[str, Source]:
    """Find the source of every parameter.

    Args:
        shapes: names and shapes of the file.
        networks: our networks, which may lie on the meta device.
        config: the sizes they were built with.

    Returns:
        For each parameter, named by its network's prefix and our name, its source.

    Raises:
        InputError: it names every missing, unexpected and misshapen weight.
    """
    mismatch, sources = Mismatch(), {}
    left = {name for name in shapes if not _ignored(name, config)}
    for prefix, module, table in named_parts(networks, config):
        wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        for name in [name for name in left if name.startswith(prefix)]:
            for ours, source in _targets(name, prefix, table):
                if ours not in wanted:
                    continue
                left.discard(name)
                shape = wanted.pop(ours)
                if source.part is not None:  # a third of the file's tensor
                    shape = (3 * shape[0], *shape[1:])
                if not _fits(shapes[name], shape, source.part is not None):
                    mismatch.misshapen.append(f"{name} {tuple(shapes[name])} instead of {shape}")
                sources[prefix + ours] = source
        mismatch.missing += sorted(_original_names(wanted, prefix, table))
    mismatch.unexpected += sorted(left)
    mismatch.misshapen = sorted(set(mismatch.misshapen))  # q, k and v come from one tensor
    mismatch.raise_if_any()
    return sources


def _targets(name: str, prefix: str, table: Table) -> Iterator[tuple[str, Source]]:
    ours = rename(name.removeprefix(prefix), table)
    if ours is None:
        return
    for kind in ("weight", "bias"):
        if ours.endswith(f".in_proj_{kind}"):
            for part, letter in enumerate("qkv"):
                yield ours.replace(f"in_proj_{kind}", f"{letter}_proj.{kind}"), Source(name, part)
            return
    yield ours, Source(name)


def _original_names(names: Mapping[str, object], prefix: str, table: Table) -> set[str]:
    backwards = {ours: original for original, ours in table.items()}
    found = set()
    for name in names:
        for letter in "qkv":
            name = name.replace(f"self_attn.{letter}_proj.", "self_attn.in_proj_")
        found.add(prefix + (rename(name, backwards) or name))
    return found


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...], exactly: bool) -> bool:
    if exactly:
        return tuple(shape) == wanted
    # only trailing ones may differ: a 1x1 convolution against a linear layer
    longer, shorter = sorted((tuple(shape), tuple(wanted)), key=len, reverse=True)
    return longer[: len(shorter)] == shorter and set(longer[len(shorter) :]) <= {1}


def _ignored(name: str, config: ModelConfig) -> bool:
    unused_block = f"{TEXT_PREFIX}transformer.resblocks.{config.text.num_hidden_layers}."
    unused = tuple(TEXT_PREFIX + part for part in UNUSED_TEXT)
    return name in SCHEDULE_BUFFERS or name.startswith(unused_block) or name in unused


def assign(
    networks: Networks, config: ModelConfig, sources: Mapping[str, Source], weights: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Put each tensor in the place of its parameters, without a copy.

    Args:
        networks: built on the meta device; every parameter is replaced.
        config: the sizes they were built with.
        sources: from `match`.
        weights: each tensor of the file that is a source, once, with its name, in the dtype and on the device wanted.
    """
    places = defaultdict(list)
    for prefix, module, _ in named_parts(networks, config):
        for name, old in module.state_dict().items():
            source = sources[prefix + name]
            places[source.name].append((source, tuple(old.shape), module, name))
    for file_name, tensor in weights:
        for source, shape, module, name in places[file_name]:
            put(module, name, source.take(tensor, shape))


def put(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Let a parameter of a network be a tensor, which is not copied and has no gradients."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
