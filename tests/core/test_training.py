"""The trainer: what is learned, what stays, and that it learns at all; photos good and bad."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.errors import InputError
from customcrafter_core.subject.targets import lora_targets
from customcrafter_core.training.config import PRESETS, TrainConfig, preset
from customcrafter_core.training.loop import TrainStep, train_subject
from customcrafter_core.training.photos import LONGEST_SIDE, Photo, images_to_tensor, load_image, load_photos, opaque

SIZE = {"width": 64, "height": 48, "frames": 2}


def photos(count: int = 2) -> list[Photo]:
    return [Photo(Image.linear_gradient("L").resize((80, 60)).rotate(90 * i).convert("RGB")) for i in range(count)]


def weights(model: VideoCrafter2) -> dict[str, torch.Tensor]:
    modules = {"unet": model.unet, "text": model.text_encoder, "vae": model.vae}
    return {f"{part}.{name}": value.clone() for part, m in modules.items() for name, value in m.state_dict().items()}


def test_everything_learned_moves_and_nothing_else(model: VideoCrafter2) -> None:
    before = weights(model)
    config = TrainConfig("dog", steps=3, lr=1e-3, **SIZE)
    subject = train_subject(model, photos(), config, prior=photos(1))
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(subject.factors) == set(lora_targets(model.unet))
    assert all(pair.up.abs().max() > 0 for pair in subject.factors.values())
    start = train_subject(model, photos(), TrainConfig("dog", steps=1, lr=1e-12, **SIZE))
    assert (subject.embedding - start.embedding).abs().max() > 1e-4
    assert all((subject.factors[n].down - start.factors[n].down).abs().max() > 0 for n in subject.factors)


def test_only_the_learned_parameters_get_gradients(model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from inside a step: 2 x 96 factors (of this geometry's targets) and one token row."""
    trained: list[int] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        trained.append(sum(p.grad is not None for group in self.param_groups for p in group["params"]))
        assert not any(p.requires_grad for n, p in model.unet.named_parameters() if "lora_" not in n)
        assert not any(p.requires_grad for p in model.vae.parameters())
        assert [tuple(p.shape) for p in model.text_encoder.parameters() if p.requires_grad] == []
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train_subject(model, photos(), TrainConfig("dog", steps=1, **SIZE))
    assert trained == [2 * len(lora_targets(model.unet)) + 1]


def test_same_seed_same_subject_other_seed_another(model: VideoCrafter2) -> None:
    runs = [train_subject(model, photos(), TrainConfig("dog", steps=2, seed=seed, **SIZE)) for seed in (1, 1, 2)]
    name = next(iter(runs[0].factors))
    assert all(torch.equal(runs[0].factors[n].up, runs[1].factors[n].up) for n in runs[0].factors)
    assert torch.equal(runs[0].embedding, runs[1].embedding)
    assert not torch.equal(runs[0].factors[name].down, runs[2].factors[name].down)


def test_prior_of_weight_zero_is_no_prior(model: VideoCrafter2) -> None:
    without = train_subject(model, photos(), TrainConfig("dog", steps=2, **SIZE))
    zero = train_subject(model, photos(), TrainConfig("dog", steps=2, prior_weight=0.0, **SIZE), prior=photos(1))
    assert torch.equal(without.embedding, zero.embedding)


def test_loss_falls(model: VideoCrafter2) -> None:
    seen: list[TrainStep] = []
    config = TrainConfig("dog", steps=40, lr=2e-2, batch=2, **SIZE)
    train_subject(model, photos(1), config, on_step=seen.append)
    losses = [step.loss for step in seen]
    assert [step.step for step in seen] == list(range(40))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_an_exception_leaves_the_model_as_it_was(model: VideoCrafter2) -> None:
    before, modules = weights(model), dict(model.unet.named_modules())

    def stop(step: TrainStep) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_subject(model, photos(), TrainConfig("dog", steps=5, lr=1e-2, **SIZE), on_step=stop)
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module is modules[name] for name, module in model.unet.named_modules())


def test_loss_that_is_not_finite_is_an_error(model: VideoCrafter2) -> None:
    with pytest.raises(InputError, match="learning rate"):
        train_subject(model, photos(), TrainConfig("dog", steps=1, prior_weight=1e300, **SIZE), prior=photos(1))


BAD_SETTINGS = [
    {"steps": 0},
    {"rank": 0},
    {"frames": 0},
    {"batch": 0},
    {"lr": 0.0},
    {"lr": float("nan")},
    {"prior_weight": -1.0},
    {"class_word": " "},
    {"lr": 1e40},
    {"token_lr": 1.5},
    {"placeholder": "dog"},
    {"placeholder": "<a b>"},
    {"captions": ("no place",)},
]


@pytest.mark.parametrize("change", BAD_SETTINGS)
def test_settings_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(InputError) as error:
        TrainConfig(**{"class_word": "dog", **change})
    assert error.value.found and error.value.remedy


def test_presets() -> None:
    assert preset("paper", "dog") == TrainConfig("dog")
    assert (TrainConfig("dog").steps, TrainConfig("dog").lr, TrainConfig("dog").weight_decay) == (10_000, 3e-5, 1e-2)
    assert all(preset(name, "dog", seed=3).seed == 3 for name in PRESETS)
    with pytest.raises(InputError, match="paper"):
        preset("fast", "dog")


def test_no_photos(model: VideoCrafter2) -> None:
    with pytest.raises(InputError, match="at least one photo"):
        train_subject(model, [], TrainConfig("dog", **SIZE))


def test_size_not_divisible(model: VideoCrafter2) -> None:
    with pytest.raises(InputError, match="divisible by 8"):
        train_subject(model, photos(), TrainConfig("dog", width=63, height=48))


def test_folder_without_photos(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(InputError, match="at least one photo"):
        load_photos(tmp_path)
    with pytest.raises(InputError, match="a folder of photos"):
        load_photos(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_unreadable_photo_is_named(tmp_path, content: bytes) -> None:
    photos()[0].image.save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png"):
        load_photos(tmp_path)


def test_truncated_photo_is_named(tmp_path) -> None:
    path = tmp_path / "half.jpg"
    Image.effect_noise((200, 200), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"half\.jpg"):
        load_image(path)


def test_one_pixel_and_huge(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(InputError, match=r"dot\.png with 1x1"):
        load_image(tmp_path / "dot.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png"):
        load_image(tmp_path / "bomb.png")


def test_rotation_and_transparency(tmp_path) -> None:
    image = Image.new("RGB", (60, 40), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (40, 60)
    assert opaque(Image.new("RGBA", (20, 20), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_photos_are_cut_to_the_aspect() -> None:
    wide = Image.new("RGB", (200, 50), "black")
    wide.paste((255, 255, 255), (75, 0, 125, 50))
    tensor = images_to_tensor([wide], 32, 32)
    assert tensor.shape == (1, 3, 32, 32)
    assert tensor.min() > 0.9


def test_caption_beside_a_photo(model: VideoCrafter2, tmp_path) -> None:
    photos()[0].image.save(tmp_path / "cup.png")
    (tmp_path / "cup.txt").write_text("a {} on a table\n")
    loaded = load_photos(tmp_path)
    assert loaded[0].caption == "a {} on a table"
    config = TrainConfig("cup", steps=1, **SIZE)
    captioned = train_subject(model, loaded, config)
    plain = train_subject(model, [Photo(loaded[0].image)], config)
    assert not torch.equal(captioned.embedding, plain.embedding)
    (tmp_path / "cup.txt").write_text("a cup on a table")
    with pytest.raises(InputError, match=r"cup\.txt"):
        load_photos(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_photos_are_not_kept_at_full_size(tmp_path, suffix: str) -> None:
    pixels = Image.linear_gradient("L").resize((3200, 1600)).convert("RGB")
    exif = pixels.getexif()
    exif[0x0112] = 6
    pixels.save(tmp_path / f"large.{suffix}", exif=exif)
    (photo,) = load_photos(tmp_path)
    assert photo.image.size == (LONGEST_SIDE // 2, LONGEST_SIDE)  # upright
    Image.new("RGB", (100, 60)).save(tmp_path / f"large.{suffix}")
    assert load_photos(tmp_path)[0].image.size == (100, 60)


def test_float16_is_refused(model: VideoCrafter2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoCrafter2, "dtype", torch.float16)
    with pytest.raises(InputError, match="Use bfloat16"):
        train_subject(model, photos(), TrainConfig("dog", steps=1, **SIZE))
