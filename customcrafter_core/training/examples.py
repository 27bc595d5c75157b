"""What the model is shown: latents of photos and clips, each encoded once, with the token ids of their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image

from ..base_model.model import VideoCrafter2
from ..base_model.text import PromptTokenizer
from ..errors import InputError
from .augmentation import Framing, View, cut_to, draw_view, with_phrase
from .captions import pattern, with_subject
from .config import TrainConfig
from .photos import Clip, Photo, images_to_tensor

IMAGES_AT_ONCE = 4
MAX_VIEWS = 512  # 40 MB of latents at VideoCrafter2's size

OnEncoded = Callable[[int, int], None]


@dataclass(frozen=True)
class Examples:
    """Latent distributions of stills or of clips; a frame is a fresh draw from its picture's distribution."""

    mean: torch.Tensor
    """``(n, c, t, h, w)``; t is 1 for stills."""
    std: torch.Tensor
    """``(n, c, t, h, w)``"""
    mask: torch.Tensor
    """How much the loss counts, ``(n, 1, 1, h, w)``, 0 … 1."""
    captions: list[torch.Tensor]
    """For each example the token ids ``(m, 77)`` of its captions."""

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, index: torch.Tensor, frames: int, generator: torch.Generator) -> torch.Tensor:
        """Draw videos ``(b, c, frames, h, w)``: stills repeated, of clips successive frames from a random one on.

        Args:
            index: which examples ``(b,)``.
            frames: of each video.
            generator: of the draws, on the CPU.
        """
        mean, std = self.mean[index], self.std[index]
        if mean.shape[2] > 1:
            firsts = torch.randint(mean.shape[2] - frames + 1, (len(index),), generator=generator).tolist()
            mean = torch.stack([video[:, first : first + frames] for video, first in zip(mean, firsts, strict=True)])
            std = torch.stack([video[:, first : first + frames] for video, first in zip(std, firsts, strict=True)])
        b, c, _, h, w = mean.shape
        return mean + std * torch.randn(b, c, frames, h, w, generator=generator)


@dataclass(frozen=True)
class ExampleSets:
    """The subject's examples and, each perhaps absent, those of the class: stills and clips."""

    subject: Examples
    prior: tuple[Examples, ...] = ()


def encode_examples(
    model: VideoCrafter2,
    config: TrainConfig,
    photos: Sequence[Photo],
    prior: Sequence[Photo | Clip] = (),
    on_encoded: OnEncoded | None = None,
) -> ExampleSets:
    """Encode everything that training will show, each picture once; the result is on the CPU in float32.

    Args:
        model: the base model.
        config: the settings.
        photos: of the subject; each is seen in `TrainConfig.views` differently resized views.
        prior: stills and clips of the class, seen as they are; without effect if the prior's weight is 0.
        on_encoded: called with how many pictures are encoded, and of how many.

    Raises:
        InputError: a clip is shorter than the video that is trained, or a size does not fit.
    """
    stills = [picture for picture in prior if isinstance(picture, Photo)] if config.prior_weight else []
    clips = [picture for picture in prior if isinstance(picture, Clip)] if config.prior_weight else []
    views = count_views(config, len(photos))
    frames = sum(len(clip.frames) for clip in clips)
    count = _Count(len(photos) * views + len(stills) + frames, on_encoded)
    encoder = _Encoder(model, config, video_size(model, config), count)
    subject = encoder.views(photos, views)
    prior_sets = [encoder.stills(stills)] if stills else []
    prior_sets += [encoder.clips(clips)] if clips else []
    return ExampleSets(subject, tuple(prior_sets))


def count_views(config: TrainConfig, photos: int) -> int:
    """How many views of each photo are made: one without augmentation, and at most `MAX_VIEWS` of all together."""
    if config.resize == (1.0, 1.0) and not config.flip:
        return 1
    return max(1, min(config.views, MAX_VIEWS // photos))


def video_size(model: VideoCrafter2, config: TrainConfig) -> tuple[int, int]:
    """Width and height in pixels of the videos that are trained.

    Raises:
        InputError: the model has no latents of this size.
    """
    width, height = config.width or model.defaults.width, config.height or model.defaults.height
    model.latent_shape(width, height, config.frames)
    return width, height


class _Count:
    """Counts pictures for a progress bar."""

    def __init__(self, total: int, tell: OnEncoded | None) -> None:
        self.done, self.total, self.tell = 0, total, tell

    def add(self, pictures: int) -> None:
        self.done += pictures
        if self.tell is not None:
            self.tell(self.done, self.total)


@dataclass(frozen=True)
class _Encoder:
    model: VideoCrafter2
    config: TrainConfig
    size: tuple[int, int]
    count: _Count

    def views(self, photos: Sequence[Photo], views: int) -> Examples:
        """The subject: view ``j`` of photo ``i`` depends on the seed, ``i`` and ``j`` only."""
        masks, captions = [], []

        def draw() -> Iterator[Image.Image]:
            for i, photo in enumerate(photos):
                for j in range(views):
                    view = self._view(photo, np.random.default_rng([self.config.seed, i, j]))
                    masks.append(view.mask)
                    captions.append(self._ids(self._of_subject(photo.caption), self.config.trigger, view.phrase))
                    yield view.image

        mean, std = self._encode(draw(), len(photos) * views)
        return Examples(mean, std, torch.stack(masks)[:, None, None], captions)

    def _view(self, photo: Photo, rng: np.random.Generator) -> View:
        config = self.config
        framing = Framing(self.size, self.model.config.pixels_per_latent, config.fit, config.crop_anchor)
        return draw_view(
            photo.image, framing, resize=config.resize, flip=config.flip, rng=rng,
            mask=photo.mask, background=config.mask_background,
        )  # fmt: skip

    def stills(self, photos: Sequence[Photo]) -> Examples:
        """Pictures of the class, as they are."""
        captions = [self._ids(self._of_class(photo.caption), self.config.class_word) for photo in photos]
        return _unmasked(*self._encode((cut_to(photo.image, self.size) for photo in photos), len(photos)), captions)

    def clips(self, clips: Sequence[Clip]) -> Examples:
        """Videos of the class, all cut to the length of the shortest."""
        length = min(len(clip.frames) for clip in clips)
        if length < self.config.frames:
            raise InputError(
                expected=f"prior clips of at least {self.config.frames} frames, as many as are trained",
                found=f"one of {length}",
                remedy="Train fewer frames, or make the clips again.",
            )
        captions = [self._ids(self._of_class(clip.caption), self.config.class_word) for clip in clips]
        frames = (cut_to(frame, self.size) for clip in clips for frame in clip.frames[:length])
        return _unmasked(*self._encode(frames, len(clips)), captions)

    def _of_subject(self, caption: str) -> str:
        return caption and with_subject(caption, self.config.placeholder, self.config.class_word)

    def _of_class(self, caption: str) -> str:
        return caption and pattern(caption, self.config.placeholder, self.config.class_word)

    def _ids(self, caption: str, called: str, phrase: str = "") -> torch.Tensor:
        wordings = [caption] if caption else self.config.captions
        texts = [with_phrase(wording, phrase).replace("{}", called) for wording in wordings]
        tokenizer = PromptTokenizer({self.config.placeholder: self.config.tokens})
        for text in texts:
            if self.config.placeholder in text and not tokenizer.placeholders_in(text):
                raise InputError(
                    expected=f"captions of at most {tokenizer.length - 2} tokens, {self.config.placeholder} included",
                    found=f"a longer one, whose end is cut off: {text!r}",
                    remedy="Shorten it, or lower the number of vectors (tokens) of the learned token.",
                )
        return tokenizer(texts)

    @torch.no_grad()
    def _encode(self, frames: Iterator[Image.Image], videos: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation ``(n, c, t, h, w)`` of ``videos`` equally long videos, a few frames at a time."""
        means, stds = [], []
        while chunk := list(islice(frames, IMAGES_AT_ONCE)):
            mean, std = self.model.encode_moments(images_to_tensor(chunk))
            means.append(mean.float().cpu())
            stds.append(std.float().cpu())
            self.count.add(len(chunk))
        # (n·t, c, h, w) -> (n, c, t, h, w)
        mean, std = (torch.cat(parts).unflatten(0, (videos, -1)).transpose(1, 2) for parts in (means, stds))
        return mean.contiguous(), std.contiguous()


def _unmasked(mean: torch.Tensor, std: torch.Tensor, captions: list[torch.Tensor]) -> Examples:
    return Examples(mean, std, torch.ones(len(mean), 1, 1, *mean.shape[-2:]), captions)
