"""Learn a subject: LoRA on spatial attention and the token V*, everything else frozen (paper, SSLM)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..base_model.model import VideoCrafter2
from ..base_model.text import PromptTokenizer, encode_ids, learned_tokens
from ..errors import InputError
from ..subject.adapter import lora_layers
from ..subject.formats import class_embedding
from ..subject.subject import LoRAFactors, Subject
from ..subject.targets import lora_targets
from .config import TrainConfig
from .photos import Photo, images_to_tensor, thumbnail
from .still_video import StillVideos

ADAPTER = "subject"


@dataclass(frozen=True)
class TrainStep:
    """What a callback sees after each step; ``prior_loss`` is 0 without prior images."""

    step: int
    steps: int
    loss: float
    prior_loss: float


@dataclass
class Learner:
    """The parameters that are learned; nothing else of the model has gradients."""

    factors: dict[str, LoRAFactors]
    embedding: nn.Parameter

    @classmethod
    def start(cls, model: VideoCrafter2, config: TrainConfig, generator: torch.Generator) -> Learner:
        """Start as the authors do: down ~ N(0, 1/rank), up 0, V* from the class word."""
        factors = {}
        for name, layer in lora_targets(model.unet).items():
            down = torch.randn(config.rank, layer.in_features, generator=generator) / config.rank
            up = torch.zeros(layer.out_features, config.rank)
            factors[name] = LoRAFactors(nn.Parameter(down.to(model.device)), nn.Parameter(up.to(model.device)))
        return cls(factors, nn.Parameter(class_embedding(model, config.class_word).clone().to(model.device)))

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, object]]:
        """Groups for the optimiser: LoRA factors, then V*."""
        lora = [value for pair in self.factors.values() for value in (pair.down, pair.up)]
        return [{"params": lora, "lr": config.lr}, {"params": [self.embedding], "lr": config.token_lr or config.lr}]

    @contextmanager
    def attached(self, model: VideoCrafter2) -> Iterator[None]:
        """Put the parameters into the model while the context lasts, at strength 1."""
        with ExitStack() as stack:
            stack.enter_context(lora_layers(model.unet, {ADAPTER: self.factors}, dtype=torch.float32))
            stack.enter_context(learned_tokens(model.text_encoder, [self.embedding]))
            yield

    def subject(self, config: TrainConfig, model: VideoCrafter2, steps: int, picture: bytes) -> Subject:
        """What was learned, as a subject with tensors of its own."""
        factors: Mapping[str, LoRAFactors] = {
            name: LoRAFactors(pair.down.detach().cpu().clone(), pair.up.detach().cpu().clone())
            for name, pair in self.factors.items()
        }
        return Subject(
            factors,
            self.embedding.detach().cpu().clone(),
            placeholder=config.placeholder,
            class_word=config.class_word,
            steps=steps,
            base=model.fingerprint,
            training=config.as_metadata(),
            thumbnail=picture,
        )


def train_subject(
    model: VideoCrafter2,
    photos: Sequence[Photo],
    config: TrainConfig,
    *,
    prior: Sequence[Photo] = (),
    on_step: Callable[[TrainStep], None] | None = None,
) -> Subject:
    """Learn a subject from photos.

    Args:
        model: the base model; it is what it was before when this returns or raises.
        photos: of the subject; those without a caption get `TrainConfig.captions` in turn.
        config: all settings.
        prior: pictures of the class, for prior preservation (eq. 3); captions likewise.
        on_step: called after each step; an exception it raises ends the training.

    Returns:
        The subject.

    Raises:
        InputError: no photos, a size or dtype that does not fit, or a loss that is not finite.
    """
    check_dtype(model.dtype)
    if not photos:
        raise InputError(expected="at least one photo of the subject", found="none", remedy="Three to ten are best.")
    width, height = config.width or model.defaults.width, config.height or model.defaults.height
    model.latent_shape(width, height, config.frames)
    called = f"{config.placeholder} {config.class_word}"
    sources = [_Source.encode(model, photos, called, config, (width, height))]
    if prior and config.prior_weight > 0:
        sources.append(_Source.encode(model, prior, config.class_word, config, (width, height)))
    generator = torch.Generator().manual_seed(config.seed)
    learner = Learner.start(model, config, generator)
    optimizer = torch.optim.AdamW(learner.parameter_groups(config), weight_decay=config.weight_decay)
    batches = _Batches(config, sources, generator)

    with learner.attached(model), torch.enable_grad():
        for step in range(config.steps):
            losses = batches.losses(model)
            loss = losses[0] + config.prior_weight * losses[1] if len(losses) > 1 else losses[0]
            if not torch.isfinite(loss):
                raise InputError(
                    expected="a finite loss", found=f"{loss.item()} in step {step}", remedy="Lower the learning rate."
                )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if on_step is not None:
                values = [value.item() for value in losses] + [0.0]
                on_step(TrainStep(step, config.steps, values[0], values[1]))
    return learner.subject(config, model, config.steps, thumbnail(photos[0].image))


def check_dtype(dtype: torch.dtype) -> None:
    """Refuse to train in half precision: small gradients become zero in it, and large activations infinite.

    Raises:
        InputError: the dtype is float16.
    """
    if dtype == torch.float16:
        raise InputError(
            expected="a base model in bfloat16 or float32 for training",
            found="one in float16, whose range is too small for gradients",
            remedy="Use bfloat16, which needs no more memory.",
        )


@dataclass(frozen=True)
class _Source:
    """Still videos and, for each photo, the token ids ``(n, 77)`` of its captions."""

    stills: StillVideos
    captions: list[torch.Tensor]

    @classmethod
    def encode(
        cls, model: VideoCrafter2, photos: Sequence[Photo], called: str, config: TrainConfig, size: tuple[int, int]
    ) -> _Source:
        tokenizer = PromptTokenizer({config.placeholder: 1})
        stills = StillVideos.encode(model, images_to_tensor([photo.image for photo in photos], *size))
        wordings = [[photo.caption] if photo.caption else config.captions for photo in photos]
        return cls(
            stills, [tokenizer([caption.replace("{}", called) for caption in captions]) for captions in wordings]
        )


@dataclass(frozen=True)
class _Batches:
    """Draws noised still videos with captions and gives the losses of a step; all draws from one generator."""

    config: TrainConfig
    sources: list[_Source]
    generator: torch.Generator

    def losses(self, model: VideoCrafter2) -> list[torch.Tensor]:
        """Noise-prediction losses ``[L_video]`` or ``[L_video, L_pr]`` (eq. 1, 3), in one forward pass."""
        drawn = [self._draw(source) for source in self.sources]
        x0, ids = torch.cat([latent for latent, _ in drawn]), torch.cat([ids for _, ids in drawn])
        noise = torch.randn(x0.shape, generator=self.generator)
        timesteps = torch.randint(len(model.schedule.signal), (len(x0),), generator=self.generator)
        noised = model.schedule.add_noise(x0, noise, timesteps).to(model.device, model.dtype)
        text = encode_ids(model.text_encoder, ids).to(model.dtype)
        fps = torch.full((len(x0),), self.config.fps or model.defaults.fps, device=model.device)
        predicted = model.unet(noised, timesteps.to(model.device), text, timestep_cond=fps).sample
        error = (predicted.float() - noise.to(model.device)).pow(2).mean((1, 2, 3, 4))
        error = error * self._weights(model, timesteps).to(error)
        return [part.mean() for part in error.chunk(len(self.sources))]

    def _weights(self, model: VideoCrafter2, timesteps: torch.Tensor) -> torch.Tensor:
        """Weight of each still video's loss ``(b,)``."""
        if not self.config.min_snr_gamma:
            return torch.ones(len(timesteps))
        snr = (model.schedule.signal[timesteps] / model.schedule.noise[timesteps]) ** 2
        return snr.clamp(max=self.config.min_snr_gamma) / snr

    def _draw(self, source: _Source) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``(b, c, t, h, w)`` of still videos and token ids ``(b, 77)`` of their captions."""
        index = torch.randint(len(source.stills), (self.config.batch,), generator=self.generator)
        latent = source.stills.draw(index, self.config.frames, self.generator)
        captions = [source.captions[i] for i in index.tolist()]
        picks = torch.randint(1 << 30, (self.config.batch,), generator=self.generator).tolist()
        ids = torch.stack([ids[pick % len(ids)] for ids, pick in zip(captions, picks, strict=True)])
        return latent, ids
