"""VideoCrafter2's UNet as a MODEL: loaded, moved, patched and sampled by the host like any other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as memory
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from comfy.supported_models_base import BASE
from einops import rearrange

from ...customcrafter_core.base_model.model import VideoCrafter2
from ...customcrafter_core.base_model.video_layers import VideoUNet
from ...customcrafter_core.errors import InputError
from .. import host
from .layers import use_host_layers
from .sampling_space import VideoCrafter2Sampling
from .without_effect import check_run, refuse_without_effect

FRAME_RATE = "customcrafter_fps"  # in transformer_options
KEY = "customcrafter_model"
UNET_DTYPES = [torch.float16, torch.bfloat16, torch.float32]


class VideoLatents(comfy.latent_formats.SD15):
    """Stable Diffusion's latents, several frames of them."""

    # With 3 the host would make 16 videos of one frame from an empty batch of 16 images.
    latent_dimensions = 2

    def __init__(self) -> None:
        super().__init__()
        self.taesd_decoder_name = None  # it previews images only


class VideoCrafter2Config(BASE):
    """What the host asks a model's configuration for."""

    unet_config = {"disable_unet_model_creation": True}  # noqa: RUF012 (the host's own convention)
    latent_format = VideoLatents
    memory_usage_factor = 2.0
    supported_inference_dtypes = UNET_DTYPES


class HostUNet(VideoUNet):
    """The UNet, called the way the host calls; its weights are named ``diffusion_model.<diffusers' name>``."""

    compute_dtype: torch.dtype
    default_fps: int

    @property
    def dtype(self) -> torch.dtype:
        """What activations are cast to; the weights may be held in another type."""
        return self.compute_dtype

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Predict the noise.

        Args:
            x: ``(b, c, t, h, w)``, or ``(b · t, c, h, w)`` with the frames as the batch.
            timesteps: ``(b,)`` or ``(b · t,)``.
            context: text embeddings, one for each row of ``x``.
            control: of a ControlNet; refused.
            transformer_options: the host's.

        Returns:
            The noise in the shape of ``x``.
        """
        options = transformer_options or {}
        check_call(x, context, control, options, self.config.in_channels)
        run = WrapperExecutor.new_class_executor(
            self._predict, self, get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        )
        return run.execute(x, timesteps, context, options)

    def _predict(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        if x.ndim == 4:
            videos = len(options.get("cond_or_uncond", (0,)))
            frames = len(x) // videos
            video = rearrange(x, "(b t) c h w -> b c t h w", b=videos)
            noise = self._predict(video, timesteps[::frames], context[::frames], options)
            return rearrange(noise, "b c t h w -> (b t) c h w")
        fps = torch.full((len(x),), options.get(FRAME_RATE, self.default_fps), device=x.device)
        return super().forward(x, timesteps, context, timestep_cond=fps, return_dict=False)[0]


def check_call(x: torch.Tensor, context: Any, control: Any, options: dict[str, Any], channels: int) -> None:
    """Refuse what VideoCrafter2 cannot do, rather than leave it without effect.

    Raises:
        InputError: a latent of other channels, no text, a ControlNet, or a patch of the host's own UNet.
    """
    if x.shape[1] != channels:
        raise InputError(
            expected=f"a latent of {channels} channels for VideoCrafter2",
            found=f"one of {x.shape[1]}",
            remedy="Use Empty Video Latent, or encode with the VAE of Load VideoCrafter2.",
        )
    if context is None:
        raise InputError(
            expected="text conditioning", found="none", remedy="Connect CLIP Text Encode with the CLIP of this model."
        )
    refuse_without_effect(control, options)


class VideoCrafter2Model(comfy.model_base.BaseModel):
    """VideoCrafter2 for the host's samplers."""

    def __init__(self, config: VideoCrafter2Config, base: VideoCrafter2, device: torch.device) -> None:
        super().__init__(config, device=device)
        self.diffusion_model = base.unet
        self.model_sampling = VideoCrafter2Sampling(base.schedule)
        self.weight_dtype = config.unet_config["dtype"]
        self.base = base

    def get_dtype(self) -> torch.dtype:
        """Type the weights are held in."""
        return self.weight_dtype


def preferred_dtype(parameters: int) -> torch.dtype:
    """What the host wants the weights of a UNet of so many parameters to be held in."""
    return memory.unet_dtype(model_params=parameters, supported_dtypes=UNET_DTYPES)


def make_model(base: VideoCrafter2) -> ModelPatcher:
    """A MODEL around the UNet of a loaded base model, which is taken over in the type that its weights have."""
    device, offload = memory.get_torch_device(), memory.unet_offload_device()
    unet, dtype = base.unet, base.dtype
    compute = memory.unet_manual_cast(dtype, device, UNET_DTYPES)
    use_host_layers(unet, host.layers_for(dtype, compute))
    unet.__class__ = HostUNet
    unet.compute_dtype, unet.default_fps = compute or dtype, base.defaults.fps

    # the host's nodes for its own UNet (FreeU and others) read the last one; what they patch is refused in forward
    channels = unet.config.block_out_channels[0]
    config = VideoCrafter2Config({**VideoCrafter2Config.unet_config, "model_channels": channels})
    config.latent_format.spacial_downscale_ratio = base.config.pixels_per_latent
    config.set_inference_dtype(dtype, compute)
    # text encoder and VAE live in the host's CLIP and VAE; here only their sizes are of use
    facts = replace(base, text_encoder=cast(Any, None), vae=cast(Any, None))
    model = VideoCrafter2Model(config, facts, offload)
    patcher = ModelPatcher(model, load_device=device, offload_device=offload)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, check_run)
    return patcher


def base_of(model: ModelPatcher) -> VideoCrafter2 | None:
    """The base model (UNet and sizes) behind a MODEL; None if it is another model."""
    return model.model.base if isinstance(model.model, VideoCrafter2Model) else None


def require_base(model: ModelPatcher, remedy: str = "Connect that node's MODEL output.") -> VideoCrafter2:
    """The base model behind a MODEL.

    Args:
        model: any MODEL.
        remedy: what else to do with another model.

    Raises:
        InputError: it is another model.
    """
    base = base_of(model)
    if base is None:
        raise InputError(
            expected="the MODEL of Load VideoCrafter2",
            found=type(model.model).__name__,
            remedy=remedy,
        )
    return base
