"""What a trainer learns from: views of photos, folders of photos good and bad, prior pictures and clips."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from customcrafter_core.base_model.loading import load_videocrafter2
from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import PromptTokenizer
from customcrafter_core.errors import InputError
from customcrafter_core.training.augmentation import (
    AUTO,
    CLOSE_FROM,
    LARGE_PHRASES,
    PASTED_BELOW,
    SMALL_PHRASES,
    WHOLE,
    Framing,
    View,
    cut_to,
    draw_view,
    with_phrase,
)
from customcrafter_core.training.batches import Batch
from customcrafter_core.training.captions import with_subject
from customcrafter_core.training.checkpoints import digest_pictures
from customcrafter_core.training.config import TrainConfig
from customcrafter_core.training.examples import encode_examples
from customcrafter_core.training.objective import Captions, compute_losses
from customcrafter_core.training.photos import (
    FORMATS,
    MAX_BYTES,
    MAX_SIDE,
    Clip,
    Photo,
    flatten_alpha,
    images_to_tensor,
    load_image,
    load_photos,
    max_side,
    readable_formats,
)
from customcrafter_core.training.prior import RECORD, generate_prior, load_prior, may_hold
from tests.core import tiny_models

SIZE, UNIT = (128, 80), 8
SWAPPED_PROFILE = Path(__file__).parents[1] / "data" / "red_and_blue_swapped.icc"


def bright(width: int = 300, height: int = 200) -> Image.Image:
    """A photo whose every pixel differs from black and whose columns all differ."""
    ramp = np.linspace(60, 250, width)[None, :, None].repeat(height, 0).repeat(3, 2)
    return Image.fromarray(ramp.astype(np.uint8))


def view(resize: tuple[float, float], seed: int = 0, *, flip: bool = False, image: Image.Image | None = None) -> View:
    return draw_view(image or bright(), Framing(SIZE, UNIT), resize=resize, flip=flip, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("factor", [0.4, 0.45, 0.5, 0.55, 0.599, 0.05])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (40, 31)])
def test_small_views_count_only_where_the_photo_is(factor: float, shape: tuple[int, int]) -> None:
    places = set()
    for seed in range(12):
        drawn = view((factor, factor), seed, image=bright(*shape))
        assert drawn.phrase in SMALL_PHRASES and drawn.image.size == SIZE and drawn.image.mode == "RGB"
        shown = torch.from_numpy(np.array(drawn.image)).amax(2) > 0
        blocks = shown.unfold(0, UNIT, UNIT).unfold(1, UNIT, UNIT)
        assert torch.equal(blocks.all(-1).all(-1).float(), drawn.mask)
        assert torch.equal(blocks.any(-1).any(-1).float(), drawn.mask)  # no latent is half photo, half black
        expected = [max(round(side * factor / UNIT), 1) for side in SIZE]
        assert drawn.mask.sum() == expected[0] * expected[1]
        places.add(tuple(drawn.mask.nonzero()[0].tolist()))
    assert len(places) > 4


@pytest.mark.parametrize("factor", [PASTED_BELOW, 0.8, 1.0])
def test_from_there_to_one_the_photo_is_left_as_it_is(factor: float) -> None:
    drawn = view((factor, factor))
    plain = images_to_tensor([cut_to(bright(), SIZE)])[0]
    assert torch.equal(images_to_tensor([drawn.image])[0], plain)
    assert drawn.phrase == "" and drawn.mask.shape == (10, 16) and drawn.mask.min() == 1


@pytest.mark.parametrize("factor", [1.05, CLOSE_FROM, 1.4])
def test_large_views_are_crops(factor: float) -> None:
    wide = bright(320, 200)  # of the video's aspect: the whole ramp is shown at factor 1
    starts = []
    for seed in range(12):
        drawn = view((factor, factor), seed, image=wide)
        assert drawn.phrase in (LARGE_PHRASES if factor >= CLOSE_FROM else ("",))
        assert drawn.mask.min() == 1
        row = np.asarray(drawn.image)[40, :, 0].astype(float)
        assert (row[-1] - row[0]) == pytest.approx(190 / factor, abs=3)
        starts.append(row[0])
    assert max(starts) - min(starts) > (190 - 190 / factor) / 3


# --- photos of another shape, and masks ---------------------------------------------------------------------------------


def rows(height: int = 400, width: int = 300) -> Image.Image:
    """A portrait whose rows all differ."""
    return Image.fromarray(np.linspace(60, 250, height)[:, None, None].repeat(width, 1).repeat(3, 2).astype(np.uint8))


@pytest.mark.parametrize("factor", [0.4, 1.0])
def test_a_portrait_is_shown_whole_on_black_that_does_not_count(factor: float) -> None:
    """Top and bottom rows are there; all of the photo counts and nothing else, on the grid of latents."""
    framing = Framing(SIZE, UNIT, AUTO)
    assert framing.is_whole((300, 400)) and framing.is_whole((400, 400)) and not framing.is_whole((320, 210))
    drawn = draw_view(rows(), framing, resize=(factor, factor), flip=False, rng=np.random.default_rng(0))
    shown = np.asarray(drawn.image)[..., 0]
    assert shown[shown > 0].min() < 75 and shown.max() > 240
    blocks = torch.from_numpy(shown > 0).unfold(0, UNIT, UNIT).unfold(1, UNIT, UNIT)
    assert torch.equal(blocks.all(-1).all(-1).float(), drawn.mask) and torch.equal(
        blocks.any(-1).any(-1).float(), drawn.mask
    )
    cut = draw_view(rows(), Framing(SIZE, UNIT), resize=(1, 1), flip=False, rng=np.random.default_rng(0))
    assert np.asarray(cut.image).min() > 100, "cut, as the authors do, the top is never seen"


def test_enlarged_views_of_a_whole_portrait_reach_its_ends() -> None:
    seen = [
        np.asarray(
            draw_view(
                rows(), Framing(SIZE, UNIT, WHOLE), resize=(1.3, 1.3), flip=False, rng=np.random.default_rng(i)
            ).image
        )
        for i in range(30)
    ]
    assert min(view.min() for view in seen) < 75 and max(view.max() for view in seen) > 235


@pytest.mark.parametrize(("anchor", "low", "high"), [("top", 60, 150), ("center", 105, 205), ("bottom", 160, 251)])
def test_a_crop_keeps_the_anchored_part(anchor: str, low: int, high: int) -> None:
    framing = Framing(SIZE, UNIT, anchor=anchor)
    view = np.asarray(draw_view(rows(), framing, resize=(1, 1), flip=False, rng=np.random.default_rng(0)).image)
    assert low <= view.min() and view.max() <= high


def test_a_mask_goes_where_its_photo_goes() -> None:
    """White on the left half; mirrored with the photo; the rest counts as much as is asked for."""
    mask = Image.new("L", (300, 200))
    mask.paste(255, (0, 0, 150, 200))
    for seed in range(20):
        drawn = draw_view(
            bright(),
            Framing(SIZE, UNIT),
            resize=(0.4, 1.0),
            flip=True,
            rng=np.random.default_rng(seed),
            mask=mask,
            background=0.1,
        )
        plain = draw_view(bright(), Framing(SIZE, UNIT), resize=(0.4, 1.0), flip=True, rng=np.random.default_rng(seed))
        assert np.array_equal(np.asarray(drawn.image), np.asarray(plain.image))
        there = plain.mask > 0
        left, right = drawn.mask[there].max(), drawn.mask[there].min()
        assert (
            left == pytest.approx(1, abs=0.02)
            and right == pytest.approx(0.1, abs=0.02)
            and drawn.mask[~there].sum() == 0
        )
        ramp = (
            torch.from_numpy(np.asarray(drawn.image)[..., 0].copy()).float().unfold(0, UNIT, UNIT).unfold(1, UNIT, UNIT)
        )
        dark = ramp.mean((-1, -2))[there] < 140  # the photo's left half
        assert drawn.mask[there][dark].min() > 0.9 and drawn.mask[there][~dark].median() < 0.15


def test_masks_lie_beside_photos_or_in_them(tmp_path) -> None:
    bright(60, 40).save(tmp_path / "cup.jpg")
    mask = Image.new("L", (60, 40))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "cup.mask.png")
    see_through = bright(60, 40).convert("RGBA")
    see_through.putalpha(mask)
    see_through.save(tmp_path / "alpha.png")
    bright(60, 40).save(tmp_path / "plain.png")
    alpha, cup, plain = load_photos(tmp_path)
    assert plain.mask is None
    for photo in (alpha, cup):
        assert photo.mask is not None and np.array_equal(np.asarray(photo.mask), np.asarray(mask))
    assert digest_pictures([cup]) != digest_pictures([replace(cup, mask=None)])
    for image, found in ((Image.new("L", (40, 60), 255), "40x60"), (Image.new("L", (60, 40)), "black all over")):
        image.save(tmp_path / "cup.mask.png")
        with pytest.raises(InputError, match=rf"mask of cup\.jpg.*{found}"):
            load_photos(tmp_path)


def test_only_what_the_mask_holds_counts_in_the_loss(tiny: VideoCrafter2) -> None:
    """The noise to be found outside of it may be anything."""
    config = TrainConfig("dog", width=32, height=16, frames=1)
    shape = tiny.latent_shape(32, 16, 1)
    noise, mask = torch.randn(shape), torch.zeros(1, 1, 1, *shape[-2:])
    mask[..., :2] = 1
    other = torch.where(mask > 0, noise, torch.randn(shape))
    ids, zero = PromptTokenizer()(["a dog"]), torch.zeros(1, dtype=torch.long)
    losses = [
        compute_losses(tiny, Captions(tiny), config, [Batch(torch.zeros(shape), one, zero, ids, mask)])[0].item()
        for one in (noise, other)
    ]
    assert losses[0] == losses[1] > 0


def test_all_phrases_occur_and_only_with_their_size() -> None:
    seen = {view((0.4, 1.4), seed).phrase for seed in range(80)}
    assert seen == {*SMALL_PHRASES, *LARGE_PHRASES, ""}


def test_flip_mirrors_half_of_them_with_their_mask() -> None:
    plain, flipped = [[view((0.4, 0.5), seed, flip=flip) for seed in range(60)] for flip in (False, True)]
    mirrored = 0
    for one, other in zip(plain, flipped, strict=True):
        if np.array_equal(np.asarray(one.image), np.asarray(other.image)):
            assert torch.equal(one.mask, other.mask)
        else:
            assert np.array_equal(np.asarray(one.image)[:, ::-1], np.asarray(other.image))
            assert torch.equal(one.mask.flip(1), other.mask)
            mirrored += 1
    assert 20 <= mirrored <= 40


def test_the_same_seed_draws_the_same_view() -> None:
    for seed in range(5):
        one, other = view((0.4, 1.4), seed, flip=True), view((0.4, 1.4), seed, flip=True)
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image)) and one.phrase == other.phrase
    assert len({np.asarray(view((0.4, 1.4), seed).image).tobytes() for seed in range(5)}) > 2


@pytest.mark.parametrize(
    ("caption", "phrase", "expected"),
    [
        ("video of a {}", "zoomed in", "zoomed in video of a {}"),
        ("{}", "very small", "very small {}"),
        ("a {}", "far away", "a far away {}"),
        ("an old {} on a table", "close up", "a close up old {} on a table"),
        ("a", "very small", "very small a"),
        ("a {}", "", "a {}"),
    ],
)
def test_captions_with_a_phrase(caption: str, phrase: str, expected: str) -> None:
    assert with_phrase(caption, phrase) == expected


def write_broken(path) -> None:
    Image.effect_noise((200, 200), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])


def test_broken_photos_are_named_and_only_skipped_when_asked(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "c.png"):
        bright(64, 48).save(tmp_path / name)
    write_broken(tmp_path / "b.jpg")
    with pytest.raises(InputError, match=r"b\.jpg"):
        load_photos(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(load_photos(tmp_path, skip_broken=True)) == 2
    assert "b.jpg" in caplog.text
    for name in ("a.png", "c.png"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"broken: b\.jpg"):
        load_photos(tmp_path, skip_broken=True)


def test_broken_prior_pictures_are_only_skipped_when_asked(
    tiny: VideoCrafter2, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    bright(64, 48).save(tmp_path / "a.png")
    write_broken(tmp_path / "b.jpg")
    for load in (load_prior, lambda folder, **given: generate_prior(tiny, "dog", folder, 2, **given)):
        with pytest.raises(InputError, match=r"b\.jpg"):
            load(tmp_path)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(load(tmp_path, skip_broken=True)) == 1
        assert "Prior picture left out" in caplog.text and "b.jpg" in caplog.text
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"broken: b\.jpg"):
        load_prior(tmp_path, skip_broken=True)


def test_which_folders_may_hold_pictures_made_by_a_base_model(tiny: VideoCrafter2, tmp_path) -> None:
    assert may_hold(tmp_path / "absent", tiny.fingerprint) and may_hold(tmp_path, tiny.fingerprint)
    generate_prior(tiny, "dog", tmp_path, 1, steps=2)
    content = json.loads(tiny.fingerprint)
    close, other = ({**content, "numbers": [n * factor for n in content["numbers"]]} for factor in (1.005, 1.2))
    assert may_hold(tmp_path, json.dumps(close))
    assert not may_hold(tmp_path, json.dumps(other))
    (tmp_path / RECORD).write_text("[]")
    assert may_hold(tmp_path, tiny.fingerprint)


def test_many_kinds_and_sizes_in_one_folder(tmp_path) -> None:
    base = bright(96, 64)
    base.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    base.convert("L").save(tmp_path / "grey.png")
    wide = np.asarray(base.convert("L")).astype(np.uint16) << 8
    Image.fromarray(wide).save(tmp_path / "sixteen.png")
    base.resize((48, 128)).save(tmp_path / "tall.webp", lossless=True)
    base.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", base.size, "blue")])
    base.convert("RGBA").save(tmp_path / "alpha.png")
    (tmp_path / ".hidden.png").write_bytes(b"a partial download")
    photos = dict(zip(sorted(p.name for p in tmp_path.glob("[!.]*")), load_photos(tmp_path), strict=True))
    assert {photo.image.mode for photo in photos.values()} == {"RGB"}
    expected = np.asarray(base).astype(int)
    assert photos["tall.webp"].image.size == (48, 128)
    for name in ("grey.png", "sixteen.png", "alpha.png", "moving.gif", "cmyk.jpg"):
        difference = np.abs(np.asarray(photos[name].image).astype(int) - expected)
        assert difference.mean() < (6 if name == "cmyk.jpg" else 3), name


def test_many_photos_share_the_memory_of_a_few() -> None:
    assert max_side(1) == max_side(100) == 1536
    for count in (1, 10, 141, 200, 500, 5000):
        assert 3 * max_side(count) ** 2 * count <= MAX_BYTES
    assert max_side(500) > 1.4 * 512 * 1.1  # the largest enlargement at VideoCrafter2's width still has pixels


def test_a_photo_is_scaled_to_the_side_asked_for(tmp_path) -> None:
    Image.new("RGB", (900, 300)).save(tmp_path / "large.jpg")
    assert load_image(tmp_path / "large.jpg", 300).size == (300, 100)


def test_folder_without_photos(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(InputError, match="at least one photo"):
        load_photos(tmp_path)
    for path in (tmp_path / "absent", tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="a folder of pictures"):
            load_photos(path)


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_unreadable_photo_is_named(tmp_path, content: bytes) -> None:
    bright(64, 48).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png"):
        load_photos(tmp_path)
    with pytest.raises(InputError, match=r"broken\.png"):
        load_prior(tmp_path)


def test_one_pixel_and_huge(tmp_path) -> None:
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
    assert flatten_alpha(Image.new("RGBA", (20, 20), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_photos_are_cut_to_the_aspect() -> None:
    wide = Image.new("RGB", (200, 50), "black")
    wide.paste((255, 255, 255), (75, 0, 125, 50))
    tensor = images_to_tensor([cut_to(wide, (32, 32))])
    assert tensor.shape == (1, 3, 32, 32)
    assert tensor.min() > 0.9


# --- folders as people have them ---------------------------------------------------------------------------------------


def without_phone_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where neither pillow-heif nor a Pillow with AVIF is installed."""
    monkeypatch.setattr("customcrafter_core.training.photos.readable_formats", lambda: FORMATS)


def phone_photo(path, ending: str) -> None:
    """A photo as phones save it."""
    if ending == ".avif" and ending not in readable_formats():
        pytest.skip("Pillow has no AVIF here")
    if ending == ".heic":
        pytest.importorskip("pillow_heif")
        readable_formats()
    Image.new("RGB", (64, 48), (200, 40, 40)).save(path.with_suffix(".png"))
    Image.open(path.with_suffix(".png")).save(path, format="AVIF" if ending == ".avif" else "HEIF")
    path.with_suffix(".png").unlink()


@pytest.mark.parametrize("ending", [".avif", ".heic"])
@pytest.mark.parametrize("called", ["", ".jpg"])
def test_photos_of_phones_are_read_whatever_they_are_called(tmp_path, ending: str, called: str) -> None:
    phone_photo(tmp_path / f"one{ending}", ending)
    if called:
        (tmp_path / f"one{ending}").rename(tmp_path / f"one{called}")
    (photo,) = load_photos(tmp_path)
    assert np.abs(np.asarray(photo.image)[24, 32].astype(int) - (200, 40, 40)).max() < 16


def test_photos_of_phones_are_named_where_they_cannot_be_read(
    tmp_path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    phone_photo(tmp_path / "renamed.avif", ".avif")
    content = (tmp_path / "renamed.avif").read_bytes()
    without_phone_photos(monkeypatch)
    for name in ("b.heic", "c.HEIC"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"b\.heic, c\.HEIC.*pillow-heif"):
        load_photos(tmp_path)
    (tmp_path / "renamed.avif").rename(tmp_path / "renamed.jpg")
    with pytest.raises(InputError, match=r"renamed\.jpg, which is HEIC or AVIF inside\. .*pillow-heif"):
        load_photos(tmp_path)
    bright(64, 48).save(tmp_path / "renamed.jpg")
    assert len(load_photos(tmp_path)) == 1
    assert "2 files beside 1 photo: b.heic, c.HEIC. Install pillow-heif" in caplog.text


def test_what_is_left_out_of_a_folder_is_named_and_what_belongs_to_it_is_not(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cup.jfif", "two.JPG", "three.jpe"):
        bright(64, 48).save(tmp_path / name, format="JPEG")
    for name in ("cup.txt", "two.CAPTION", ".hidden.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_text("a {} here")
    assert [photo.caption for photo in load_photos(tmp_path)] == ["a {} here", "", "a {} here"]
    assert not caplog.text
    (tmp_path / "more").mkdir()
    for name in ("film.mov", "notes.txt", "raw.dng"):
        (tmp_path / name).write_bytes(b"x")
    load_photos(tmp_path)
    assert "4 files beside 3 photos: film.mov, more, notes.txt, raw.dng." in caplog.text


def test_colour_profiles_become_srgb(tmp_path) -> None:
    """A profile whose red and blue are swapped, so that nothing but converting gives the right colours."""
    pixels = Image.new("RGB", (32, 32), (10, 60, 220))
    swapped = SWAPPED_PROFILE.read_bytes()
    pixels.save(tmp_path / "a.png", icc_profile=swapped)
    alpha = pixels.convert("RGBA")
    alpha.save(tmp_path / "b.png", icc_profile=swapped)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels.save(tmp_path / "c.png", icc_profile=srgb)
    a, b, c = (np.asarray(photo.image)[0, 0].astype(int) for photo in load_photos(tmp_path))
    assert np.abs(a - (220, 60, 10)).max() < 12 and np.array_equal(a, b)
    assert tuple(c) == (10, 60, 220), "sRGB is left exactly as it is"


def test_a_broken_colour_profile_is_told(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (32, 32), (10, 60, 220)).save(tmp_path / "a.png", icc_profile=b"no profile")
    assert load_photos(tmp_path)[0].image.getpixel((0, 0)) == (10, 60, 220)
    assert "colour profile of a.png" in caplog.text


# --- captions as people have them --------------------------------------------------------------------------------------

TEXT = "a caf\u00e9 cup \u2019on\u2019 a table"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("ending", [".txt", ".TXT", ".caption"])
def test_captions_of_any_usual_encoding(tmp_path, encoding: str, ending: str) -> None:
    bright(64, 48).save(tmp_path / "cup.png")
    (tmp_path / f"cup{ending}").write_bytes(f"{TEXT}\r\n".encode(encoding))
    assert load_photos(tmp_path)[0].caption == TEXT


@pytest.mark.parametrize(
    "content", ["\u684c\u5b50\u4e0a\u7684\u676f\u5b50".encode("gbk"), b"\x81\x8d cup", b"\xff\xfea"]
)
def test_captions_in_other_encodings_are_refused_by_name(tmp_path, content: bytes) -> None:
    bright(64, 48).save(tmp_path / "cup.png")
    (tmp_path / "cup.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"UTF-8 in cup\.txt.*Save the file as UTF-8"):
        load_photos(tmp_path)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a {} on a table", "a {} on a table"),
        ("a <new1> on a table", "a {} on a table"),
        ("a <new1> teddy bear on a sofa", "a {} on a sofa"),
        ("photo of a Teddy  Bear beside a teddy bear shop", "photo of a {} beside a teddy bear shop"),
        ("teddy bears", "{}, teddy bears"),
        ("sitting on a sofa", "{}, sitting on a sofa"),
        ("{} and {}", "{} and {}"),
    ],
)
def test_captions_are_free_text(caption: str, expected: str) -> None:
    assert with_subject(caption, "<new1>", "teddy bear") == expected


def test_free_captions_are_what_is_learned(tiny: VideoCrafter2) -> None:
    """An empty one stands for the method's own; of the class nothing is put in front."""
    photos = [Photo(bright(), caption) for caption in ("photo of a dog on a sofa", "on a sofa", "")]
    prior = [Photo(bright(), caption) for caption in ("a dog that runs", "grass")]
    config = TrainConfig("dog", resize=(1.0, 1.0))
    sets = encode_examples(tiny, config, photos, prior)
    ids = PromptTokenizer({"<new1>": 1})
    assert torch.equal(sets.subject.captions[0], ids(["photo of a <new1> dog on a sofa"]))
    assert torch.equal(sets.subject.captions[1], ids(["<new1> dog, on a sofa"]))
    assert torch.equal(sets.subject.captions[2], ids([text.replace("{}", "<new1> dog") for text in config.captions]))
    assert torch.equal(torch.cat(sets.prior[0].captions), ids(["a dog that runs", "grass"]))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_photos_are_not_kept_at_full_size(tmp_path, suffix: str) -> None:
    pixels = Image.linear_gradient("L").resize((3200, 1600)).convert("RGB")
    exif = pixels.getexif()
    exif[0x0112] = 6
    pixels.save(tmp_path / f"large.{suffix}", exif=exif)
    (photo,) = load_photos(tmp_path)
    assert photo.image.size == (MAX_SIDE // 2, MAX_SIDE)  # upright
    Image.new("RGB", (100, 60)).save(tmp_path / f"large.{suffix}")
    assert load_photos(tmp_path)[0].image.size == (100, 60)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter2:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return load_videocrafter2(tiny_models.write(path, tiny_models.state_dict()))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Stop(Exception):
    pass


@pytest.mark.parametrize("clips", [False, True])
def test_making_goes_on_where_it_stopped_and_reuses_what_is_there(tiny: VideoCrafter2, tmp_path, clips: bool) -> None:
    whole = generate_prior(tiny, "dog", tmp_path / "whole", 4, clips=clips, steps=2)
    assert len(whole) == 4 and all(isinstance(item, Clip if clips else Photo) for item in whole)

    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        generate_prior(tiny, "dog", tmp_path / "parts", 4, clips=clips, steps=2, on_item=stop)
    assert len(load_prior(tmp_path / "parts")) == 2
    seen: list[tuple[int, int]] = []
    generate_prior(tiny, "dog", tmp_path / "parts", 4, clips=clips, steps=2, on_item=lambda *at: seen.append(at))
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    (tmp_path / "parts" / f"prior-00001.{'webp' if clips else 'png'}").unlink()
    generate_prior(tiny, "dog", tmp_path / "parts", 4, clips=clips, steps=2)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    seen.clear()
    generate_prior(tiny, "dog", tmp_path / "parts", 3, clips=clips, steps=2, on_item=lambda *at: seen.append(at))
    assert seen == [(3, 3)]


def test_a_still_is_the_middle_frame_of_the_clip(tiny: VideoCrafter2, tmp_path) -> None:
    (still,) = generate_prior(tiny, "dog", tmp_path / "stills", 1, steps=2)
    (clip,) = generate_prior(tiny, "dog", tmp_path / "clips", 1, clips=True, steps=2)
    assert isinstance(still, Photo) and isinstance(clip, Clip)
    assert len(clip.frames) == tiny.defaults.frames
    middle = clip.frames[tiny.defaults.frames // 2]
    assert np.array_equal(np.asarray(still.image), np.asarray(middle))


def test_a_folder_made_with_other_settings_is_refused(tiny: VideoCrafter2, tmp_path) -> None:
    generate_prior(tiny, "dog", tmp_path, 1, steps=2)
    before = contents(tmp_path)
    for changes, named in (
        ({"class_word": "cat"}, "class_word 'dog' instead of 'cat'"),
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"steps": 3}, "steps 2 instead of 3"),
        ({"clips": True}, "kind 'stills' instead of 'clips'"),
        ({"model": replace(tiny, fingerprint="{}")}, "another base model"),
    ):
        with pytest.raises(InputError, match=named):
            generate_prior(
                **{"model": tiny, "class_word": "dog", "folder": tmp_path, "count": 2, "steps": 2, **changes}
            )
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(InputError, match=RECORD):
        generate_prior(tiny, "dog", tmp_path, 2, steps=2)
    (tmp_path / RECORD).unlink()
    with pytest.raises(InputError, match=f"{RECORD} is missing"):
        generate_prior(tiny, "dog", tmp_path, 2, steps=2)
    assert {**contents(tmp_path), RECORD: before[RECORD]} == before


def test_own_pictures_count(tiny: VideoCrafter2, tmp_path) -> None:
    bright(40, 30).save(tmp_path / "mine.jpg")
    items = generate_prior(tiny, "dog", tmp_path, 2, steps=2)
    assert len(items) == 2 and sorted(contents(tmp_path)) == ["mine.jpg", "prior-00000.png", RECORD]


def test_animations_are_clips_and_pictures_photos(tmp_path) -> None:
    frames = [Image.new("RGB", (32, 24), (40 * i, 90, 10)) for i in range(4)]
    for name in ("a.gif", "b.png", "c.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50)
    frames[0].save(tmp_path / "d.png")
    (tmp_path / "b.txt").write_text("a {} that runs")
    loaded = load_prior(tmp_path, least=4)
    assert [type(item) for item in loaded] == [Clip, Clip, Clip, Photo]
    assert [len(item.frames) for item in loaded if isinstance(item, Clip)] == [4, 4, 4]
    assert loaded[1].caption == "a {} that runs"
    assert isinstance(loaded[1], Clip) and loaded[1].frames[2].getpixel((3, 3)) == (80, 90, 10)
    with pytest.raises(InputError, match="at least 5 pictures"):
        load_prior(tmp_path, least=5)


def test_a_clip_whose_frames_repeat_keeps_its_length(tiny: VideoCrafter2, tmp_path, monkeypatch) -> None:
    steady = torch.rand(1, 1, 16, 32, 3).expand(1, 6, 16, 32, 3)
    moving = torch.cat([steady[:, :3], torch.rand(1, 3, 16, 32, 3)], 1)
    monkeypatch.setattr(VideoCrafter2, "decode", lambda self, latent: moving)
    (clip,) = generate_prior(tiny, "dog", tmp_path, 1, clips=True, steps=2)
    assert isinstance(clip, Clip) and len(clip.frames) == 6
    expected = (moving[0].numpy() * 255).round().astype(np.uint8)
    assert all(np.array_equal(np.asarray(f), e) for f, e in zip(clip.frames, expected, strict=True))


def test_animations_that_cannot_be_used_are_named(tmp_path) -> None:
    frames = [Image.new("RGB", (16, 16), (i % 256, i // 256, 0)) for i in range(520)]
    path = tmp_path / "endless.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=20)
    with pytest.raises(InputError, match=r"at most 512 frames.*endless\.gif"):
        load_prior(tmp_path)
    noise = [Image.effect_noise((64, 64), 90 + i).convert("RGB") for i in range(6)]
    path.unlink()
    path = tmp_path / "half.webp"
    noise[0].save(path, save_all=True, append_images=noise[1:], lossless=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"half\.webp"):
        load_prior(tmp_path)
