"""The network of the demo base model while it is trained: sizes, start, and what is left out to be fast."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel

from customcrafter_core.base_model.config import PROMPT_LENGTH, UNetConfig
from customcrafter_core.base_model.frame_rate import zero_frame_rate_output
from customcrafter_core.base_model.networks import build_unet, text_tower
from customcrafter_core.base_model.text import PromptTokenizer, encode_ids
from customcrafter_core.base_model.video_layers import TemporalConvolution, TemporalTransformer
from customcrafter_core.demo.attention import SharedTextAttention
from customcrafter_core.demo.base import build_demo_text_encoder, keep_precise
from customcrafter_core.diffusion.schedule import NoiseSchedule

UNET = UNetConfig(
    block_out_channels=(32, 64, 64),
    layers_per_block=1,
    attends=(False, True, True),
    cross_attention_dim=64,
    attention_head_dim=16,
    norm_num_groups=4,
)
RESIDUAL_GAIN = 0.3
TEXT_RESIDUAL_GAIN = 0.05
PADDING_LOGIT = -4.0
CONSTANT, SHRINK = 128.0, 16.0
SIGNS = (1.0, -1.0, 1.0, -1.0)
PAIR_GAIN, SHRINK_GAIN = 32.0, 5.5
LEAST_NOISE = 0.08
FAST_WAVES, FIRST_TIME_GAIN, SECOND_TIME_GAIN = 7, 4.0, 3.0


@torch.no_grad()
def build_clear_text_encoder(seed: int = 0) -> CLIPTextModel:
    """The text encoder: random, never trained, and nearly a table of words.

    Its layers add little to a token's embedding, so that a word looks the same whatever stands before it: the network
    need not learn that, and a learned token reaches it as it is. Rounded to what the shipped file can hold.
    """
    encoder = build_demo_text_encoder(seed)
    for layer in text_tower(encoder).encoder.layers:
        for last in (layer.self_attn.out_proj, layer.mlp.fc2):
            for parameter in last.parameters():
                parameter.copy_((parameter * TEXT_RESIDUAL_GAIN).half().float())
    return encoder


def build_training_unet(seed: int = 0) -> UNet3DConditionModel:
    """The UNet before training, started as ``eps = x_t / noise`` (see `start`)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = build_unet(UNET)
        start(unet, NoiseSchedule.videocrafter2())
        overlook_padding(unet)
    return unet


@torch.no_grad()
def overlook_padding(unet: UNet3DConditionModel) -> None:
    """Let attention to the text begin on its words: two thirds or more of the 77 tokens are padding, all alike."""
    padding = encode_ids(build_clear_text_encoder(), PromptTokenizer()([""]))[0, PROMPT_LENGTH // 2 :].mean(0)
    for block in unet.modules():
        if not isinstance(block, BasicTransformerBlock) or block.attn2.to_k.in_features != UNET.cross_attention_dim:
            continue
        attention, width = block.attn2, block.norm2.bias.shape[0]
        block.norm2.bias.copy_(0.5 * torch.randn(width))
        asked = (attention.to_q.weight @ block.norm2.bias).view(attention.heads, -1)
        away = asked / asked.square().sum(1, keepdim=True) * PADDING_LOGIT / attention.scale
        present = (attention.to_k.weight @ padding).view(attention.heads, -1)
        attention.to_k.weight += torch.outer((away - present).flatten(), padding) / padding.square().sum()


@torch.no_grad()
def start(unet: UNet3DConditionModel, schedule: NoiseSchedule) -> None:
    """Make the network say ``eps = (x_t + signal(t) F(x_t, t)) / noise(t)`` with ``F = 0``, and keep that form in training.

    So ``F`` learns the clean latent, negated, at one size for every t. Without it, what is to be learned of eps is as small
    as the signal is in the noise, 0.05 at t = 980, and drowns in the jitter of the training's own steps; and at low t it
    holds most of the input's own noise, which norms have divided by a spread that no layer can tell exactly.

    The input goes as +x and -x through the last skip connection and two groups of the last norm, beside pairs of constants
    against which the picture's own spread hardly counts (``silu(x) - silu(-x) = x`` takes it back out). The constants
    shrink with the noise, so that the norm divides by it. The last residual block's second norm has pairs that grow as the
    signal shrinks, for the same reason. Time features stay as they are drawn, and the frame rate has no effect: all clips
    have the same.
    """
    carry, last = _Carried(), unet.up_blocks[-1].resnets[-1]
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")) and hasattr(module, "weight"):
            module.weight *= RESIDUAL_GAIN
            module.bias *= RESIDUAL_GAIN
    for module in unet.modules():
        if isinstance(module, TemporalConvolution):  # begins silent, and so does all that depends on the frame
            torch.nn.init.normal_(module.conv4[-1].weight, std=0.02)
    for silent in (unet.transformer_in.proj_out, unet.up_blocks[-1].temp_convs[-1].conv4[-1]):
        silent.weight.zero_()
        silent.bias.zero_()
    for layer in (last.conv_shortcut, last.conv2, unet.conv_out):
        layer.weight.zero_()
        layer.bias.zero_()
    unet.conv_in.weight[carry.all] = 0
    unet.conv_in.bias[carry.all] = 0
    skip = last.conv_shortcut.in_channels - unet.conv_in.out_channels
    for sign, places in ((1.0, carry.plus), (-1.0, carry.minus)):
        for channel, at in enumerate(places):
            unet.conv_in.weight[at, channel, 1, 1] = sign
            last.conv_shortcut.weight[at, skip + at] = 1.0
            unet.conv_out.weight[channel, at, 1, 1] = sign
    last.conv_shortcut.bias[carry.constants] = CONSTANT * torch.tensor(SIGNS)
    unet.conv_norm_out.weight.fill_(((2 * CONSTANT**2 + UNET.in_channels) / carry.size) ** 0.5)
    _divide_by_time(unet, schedule)


@torch.no_grad()
def _divide_by_time(unet: UNet3DConditionModel, schedule: NoiseSchedule) -> None:
    """Fit the functions of t by which the last two norms divide."""
    carry, last, times = _Carried(), unet.up_blocks[-1].resnets[-1], _Times()
    embedding = unet.time_embedding
    zero_frame_rate_output(embedding)
    half = embedding.linear_1.in_features // 2
    for start_of in (0, half):  # sines and cosines too fast for a function of t that changes slowly
        embedding.linear_1.weight[:, start_of : start_of + FAST_WAVES] = 0
    embedding.linear_1.weight *= FIRST_TIME_GAIN
    embedding.linear_2.weight *= SECOND_TIME_GAIN
    timesteps = torch.arange(len(schedule.signal))
    features = torch.nn.functional.silu(embedding(unet.time_proj(timesteps).float(), torch.full_like(timesteps, 8)))
    growing = 2 * PAIR_GAIN / schedule.signal.double()
    # constant * noise = constant - shrink * silu(z)
    z = _inverse_silu(CONSTANT / SHRINK * (1 - schedule.noise.double().clamp(min=LEAST_NOISE)))
    share = z / (2 * SHRINK_GAIN)  # of its norm group's size, beside the growing pair
    shrinking = growing * share / (1 - share**2).sqrt()
    last.conv1.weight[times.all] = 0
    last.conv1.bias[times.all] = 0
    for rows, wanted in ((times.growing, growing), (times.shrinking, shrinking)):
        weight, bias = _fit(features.double(), wanted, 1 / growing)
        for row, sign in zip(rows, itertools.cycle((1.0, -1.0)), strict=False):
            last.time_emb_proj.weight[row] = sign * weight
            last.time_emb_proj.bias[row] = sign * bias
    last.norm2.weight.fill_(PAIR_GAIN)
    last.norm2.weight[times.shrinking] = SHRINK_GAIN
    last.conv2.weight[carry.constants, times.shrinking[0], 1, 1] = -SHRINK * torch.tensor(SIGNS)


def _fit(features: torch.Tensor, wanted: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights ``(d,)`` and bias of the linear function of time features ``(n, d)`` nearest to the wanted one ``(n,)``."""
    design = torch.cat([features, torch.ones_like(features[:, :1])], 1) * importance[:, None]
    ridge = 1e-4 * torch.eye(design.shape[1], dtype=design.dtype)
    fitted = torch.linalg.solve(design.T @ design + ridge, design.T @ (wanted * importance)).float()
    return fitted[:-1], fitted[-1]


def _inverse_silu(value: torch.Tensor) -> torch.Tensor:
    """The ``z >= 0`` with ``silu(z) = value``, by Newton's method."""
    z = value.clone()
    for _ in range(50):
        gate = torch.sigmoid(z)
        z = (z - (z * gate - value) / (gate * (1 + z * (1 - gate)))).clamp(min=0)
    return z


class _Carried:
    """The channels that carry the input: half of the latent's in each of two norm groups, plain and negated, and constants."""

    def __init__(self) -> None:
        channels, self.size = UNET.in_channels, UNET.block_out_channels[0] // UNET.norm_num_groups
        half = channels // 2
        self.plus = [c % half + self.size * (c // half) for c in range(channels)]
        self.minus = [c + half for c in self.plus]
        self.constants = [channels, channels + 1, self.size + channels, self.size + channels + 1]
        self.all = [*self.plus, *self.minus, *self.constants]


class _Times:
    """The channels of the last residual block that hold functions of t, as pairs: one in each norm group, one more."""

    def __init__(self) -> None:
        size = UNET.block_out_channels[0] // UNET.norm_num_groups
        self.growing = [group * size + i for group in range(UNET.norm_num_groups) for i in (0, 1)]
        self.shrinking = [self.growing[-1] + 1, self.growing[-1] + 2]
        self.all = [*self.growing, *self.shrinking]


def hold(unet: UNet3DConditionModel) -> None:
    """Keep what `start` built: freeze whole layers, and let some channels of others get no gradient."""
    carry, times, last = _Carried(), _Times(), unet.up_blocks[-1].resnets[-1]
    for module in (
        unet.time_embedding,
        unet.conv_norm_out,
        unet.conv_out,
        last.conv_shortcut,
        unet.up_blocks[-1].temp_convs[-1],
        unet.transformer_in,
    ):
        module.requires_grad_(False)
    last.norm2.bias.requires_grad_(False)
    last.conv2.bias.requires_grad_(False)
    _without(unet.conv_in.weight, rows=carry.all)
    _without(unet.conv_in.bias, rows=carry.all)
    for parameter in (*last.conv1.parameters(), *last.time_emb_proj.parameters(), last.norm2.weight):
        _without(parameter, rows=times.all)
    others = [i for i in range(UNET.block_out_channels[0]) if i not in carry.plus and i not in carry.minus]
    _without(last.conv2.weight, rows=others, columns=times.all)


def _without(parameter: nn.Parameter, rows: list[int], columns: list[int] | None = None) -> None:
    kept = torch.ones_like(parameter)
    kept[rows] = 0
    if columns:
        kept[:, columns] = 0
    parameter.register_hook(lambda gradient: gradient * kept)


class _Through(nn.Module):
    def forward(self, hidden_states: torch.Tensor, **unused: Any) -> tuple[torch.Tensor]:
        return (hidden_states,)


class _Same(nn.Module):
    def forward(self, x: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
        return x


class TrainedUNet(nn.Module):
    """The UNet as it is trained: for clips or, its layers over frames skipped, for single frames; bfloat16 inside."""

    def __init__(self, unet: UNet3DConditionModel) -> None:
        super().__init__()
        self.unet = unet.eval().requires_grad_(True)  # no dropout: a resumed run is the same run
        hold(unet)
        self.attention = SharedTextAttention()
        unet.set_attn_processor(self.attention)
        unet.transformer_in = _Through()
        unet.up_blocks[-1].temp_convs[-1] = _Same()
        keep_precise([unet.conv_in, unet.up_blocks[-1].resnets[-1].conv_shortcut, unet.conv_norm_out, unet.conv_out])

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, fps: torch.Tensor
    ) -> torch.Tensor:
        """Predicted noise of ``(b, 4, f, h, w)``; with one frame, layers over frames are skipped."""
        frames = noisy.shape[2]
        self.attention.frames = frames
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            if frames == 1:
                with spatial_only(self.unet):
                    return self.unet(noisy, timesteps, text, timestep_cond=fps).sample.float()
            return self.unet(noisy, timesteps, text, timestep_cond=fps).sample.float()


@contextmanager
def spatial_only(unet: UNet3DConditionModel) -> Iterator[None]:
    """Skip the layers over frames."""
    skipped = [m for m in unet.modules() if isinstance(m, TemporalConvolution | TemporalTransformer)]
    for module in skipped:
        module.forward = _same if isinstance(module, TemporalConvolution) else _same_in_tuple
    try:
        yield
    finally:
        for module in skipped:
            del module.forward


def _same(x: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
    return x


def _same_in_tuple(x: torch.Tensor, num_frames: int = 1, **unused: Any) -> tuple[torch.Tensor]:
    return (x,)
