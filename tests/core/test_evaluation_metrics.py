"""The paper's metrics against a computation of their own, the encoders' folders, intervals, dynamic degree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from transformers import CLIPModel, ViTModel

from customcrafter_core.base_model.text import PromptTokenizer
from customcrafter_core.errors import InputError
from customcrafter_core.evaluation import metrics
from customcrafter_core.evaluation.dynamic_degree import is_dynamic, moves, raft
from customcrafter_core.evaluation.encoders import ClipEncoder, DinoEncoder
from customcrafter_core.evaluation.scoring import METRICS, MOTION, Scorer, open_scorer, summarize
from customcrafter_core.intervals import Interval, bootstrap_mean, outermost
from customcrafter_core.output import chart
from tests.core import small_encoders

PROMPT = "a <new1> teddy bear is running on grass"
RNG = np.random.default_rng(0)
FRAMES = RNG.random((5, 40, 60, 3)).astype(np.float32)
PHOTOS = [Image.fromarray(RNG.integers(0, 255, (50, 30 + 9 * i, 3), np.uint8)) for i in range(3)]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoders.write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoders.write_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> ClipEncoder:
    return ClipEncoder(clip_folder)


@pytest.fixture(scope="module")
def dino(dino_folder: Path) -> DinoEncoder:
    return DinoEncoder(dino_folder)


def images_of_frames() -> list[Image.Image]:
    return [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in FRAMES]


def cropped(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """CLIP's preprocessing: short side to 32, the middle 32 × 32, normalised."""
    scale = 32 / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - 32) // 2, (image.height - 32) // 2
    pixels = np.asarray(image.crop((left, top, left + 32, top + 32)), np.float32) / 255
    return torch.from_numpy((pixels - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def own_clip(folder: Path, images: list[Image.Image], text: str) -> tuple[np.ndarray, np.ndarray]:
    """CLIP's embeddings by its whole forward pass, the text by this project's own tokenizer."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ids = PromptTokenizer({})([text])
    ids = ids[:, : int((ids == 49407).int().argmax()) + 1]
    with torch.no_grad():
        result = CLIPModel.from_pretrained(folder)(
            input_ids=ids, pixel_values=torch.stack([cropped(image, mean, std) for image in images])
        )
    return result.image_embeds.double().numpy(), result.text_embeds[0].double().numpy()


def own_dino(folder: Path, images: list[Image.Image]) -> np.ndarray:
    pixels = [np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32) for image in images]
    batch = torch.from_numpy(np.stack(pixels) / 127.5 - 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        return ViTModel.from_pretrained(folder)(batch).last_hidden_state[:, 0].double().numpy()


def test_each_metric_equals_a_computation_of_its_own(
    clip: ClipEncoder, dino: DinoEncoder, clip_folder: Path, dino_folder: Path
) -> None:
    frames, text = own_clip(clip_folder, images_of_frames(), "a teddy bear is running on grass")
    photos, _ = own_clip(clip_folder, PHOTOS, "")
    scores = Scorer(clip, dino).score(FRAMES, PROMPT, PHOTOS)
    seen, own = own_dino(dino_folder, images_of_frames()), own_dino(dino_folder, PHOTOS)
    expected = {
        "CLIP-T": np.mean([cosine(f, text) for f in frames]),
        "CLIP-I": np.mean([cosine(f, p) for f in frames for p in photos]),
        "DINO-I": np.mean([cosine(f, p) for f in seen for p in own]),
        "T. Cons.": np.mean([cosine(frames[i], frames[i + 1]) for i in range(len(frames) - 1)]),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=0, abs=1e-5)


def test_the_token_is_taken_out_unless_the_literal_form_is_asked_for(clip: ClipEncoder, clip_folder: Path) -> None:
    _, text = own_clip(clip_folder, images_of_frames(), PROMPT)
    frames, _ = own_clip(clip_folder, images_of_frames(), "")
    literal = np.mean([cosine(f, text) for f in frames])
    without = Scorer(clip).score(FRAMES, PROMPT)["CLIP-T"]
    assert Scorer(clip, literal=True).score(FRAMES, PROMPT)["CLIP-T"] == pytest.approx(literal, abs=1e-5)
    assert without == Scorer(clip).score(FRAMES, "a teddy bear is running on grass")["CLIP-T"]
    assert abs(without - literal) > 1e-4
    assert metrics.without_tokens("<new1> cat and <mug> mug", ["<new1>", "<mug>"]) == "cat and mug"


def test_consistency_of_identical_frames_is_one_and_shuffling_lowers_it(clip: ClipEncoder) -> None:
    def consistency(frames: np.ndarray) -> float:
        return metrics.consecutive_similarity(clip.images(frames))

    assert consistency(FRAMES[:1].repeat(6, axis=0)) == pytest.approx(1, abs=1e-6)
    ways = np.linspace(0, 1, 12)[:, None, None, None]
    fading = (FRAMES[:1] * (1 - ways) + FRAMES[1:2] * ways).astype(np.float32)
    shuffled = fading[np.random.default_rng(3).permutation(12)]
    assert consistency(shuffled) < consistency(fading) - 1e-3
    with pytest.raises(InputError, match="two frames"):
        consistency(FRAMES[:1])


def test_a_video_of_the_photo_itself_has_similarity_one(clip: ClipEncoder, dino: DinoEncoder) -> None:
    still = FRAMES[:1].repeat(3, axis=0)
    same, others = (Scorer(clip, dino).score(still, photos=photos) for photos in (images_of_frames()[:1], PHOTOS))
    for name in ("CLIP-I", "DINO-I"):
        assert same[name] == pytest.approx(1, abs=1e-6)
        assert others[name] < 0.999


def test_long_prompts_are_cut_as_clip_does(clip: ClipEncoder) -> None:
    assert clip.text("a dog " * 100).isfinite().all()


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("config.json", "clip"),
        ("preprocessor_config.json", "dino"),
        ("vocab.json", "clip"),
        ("model.safetensors", "clip"),
    ],
)
def test_what_a_folder_lacks_is_named(file: str, kind: str, tmp_path: Path) -> None:
    write, encoder = {
        "clip": (small_encoders.write_clip, ClipEncoder),
        "dino": (small_encoders.write_dino, DinoEncoder),
    }[kind]
    folder = write(tmp_path)
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"(?s){file}.*downloads nothing"):
        encoder(folder)


def test_another_kind_of_model_is_refused(clip_folder: Path, dino_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="type 'clip'"):
        DinoEncoder(clip_folder)
    with pytest.raises(InputError, match=r"(?s)tokenizer.json or vocab.json"):
        ClipEncoder(dino_folder)
    with pytest.raises(InputError, match="nothing at openai/clip-vit-base-patch32"):
        ClipEncoder("openai/clip-vit-base-patch32")
    folder = small_encoders.write_dino(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        DinoEncoder(folder)


def test_scores_leave_out_what_is_absent_and_name_it(clip: ClipEncoder, dino_folder: Path, clip_folder: Path) -> None:
    everything = Scorer(clip, DinoEncoder(dino_folder), flow=lambda frames: np.zeros((len(frames) - 1, 4, 4, 2)))
    assert list(everything.score(FRAMES, PROMPT, PHOTOS)) == list(METRICS)
    assert everything.absent == {} and len(everything.notes) == 2
    only_clip = open_scorer(clip=clip_folder)
    assert set(only_clip.score(FRAMES, PROMPT)) == {"CLIP-T", "T. Cons.", MOTION}
    assert set(only_clip.absent) == {"DINO-I", "Dynamic degree"} and "ViT-S/16" in only_clip.absent["DINO-I"]
    nothing = Scorer()
    summary = summarize([nothing.score(FRAMES), nothing.score(FRAMES[::-1])], nothing)
    assert set(summary.means) == {MOTION} and set(summary.absent) == set(METRICS) - {MOTION}


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_normal_law_for_many_values() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    interval = bootstrap_mean(list(values))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert interval == bootstrap_mean(list(values))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        interval = bootstrap_mean(list(rng.normal(0, 1, 30)), resamples=1000)
        assert interval.low is not None and interval.high is not None
        hits += interval.low <= 0 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def coverage(effects: dict[str, float], units: dict[str, list[int]], **drawn: str) -> float:
    """How often a nominal 95 % interval holds the true mean, 0, of values that are sums of random effects."""
    rng, hits, trials = np.random.default_rng(3), 0, 200
    for _ in range(trials):
        values = sum(
            rng.normal(0, size, max(units[name]) + 1)[units[name]] for name, size in effects.items()
        ) + rng.normal(0, 0.5, len(next(iter(units.values()))))
        found = bootstrap_mean(list(values), resamples=400, **{kind: units[name] for kind, name in drawn.items()})
        assert found.low is not None and found.high is not None
        hits += found.low <= 0 <= found.high
    return hits / trials


def test_intervals_over_subjects_hold_the_truth_where_those_over_videos_do_not() -> None:
    """20 subjects, 10 prompts each; scores of a subject are alike."""
    units = {"subject": [i // 10 for i in range(200)], "video": list(range(200))}
    assert coverage({"subject": 1.0}, units, groups="video") < 0.65
    assert coverage({"subject": 1.0}, units, groups="subject") > 0.88


def test_intervals_of_judgements_are_over_people_and_pairs() -> None:
    """15 people judge 15 pairs of videos; each person has a leaning, and each pair a better video."""
    units = {"rater": [i // 15 for i in range(225)], "pair": [i % 15 for i in range(225)]}
    effects = {"rater": 0.5, "pair": 1.0}
    assert coverage(effects, units, groups="rater") < 0.8
    assert coverage(effects, units, groups="rater", crossed="pair") > 0.88


def test_values_of_one_group_stay_together() -> None:
    values, groups = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    alone, together = bootstrap_mean(values), bootstrap_mean(values, groups=groups)
    assert (together.low, together.high) == (0, 1)
    assert alone.low is not None and alone.low > 0.35
    one = bootstrap_mean(values, groups=["a"] * 100, crossed=groups)
    assert (one.low, one.high) == (together.low, together.high), "a single group is not drawn"


def test_the_outermost_unit_that_there_are_several_of_is_drawn() -> None:
    subjects, trainings, videos = ["a", "a", "b", "b"], [0, 1, 0, 1], [0, 1, 2, 3]
    assert outermost(subjects, trainings, videos) == 0
    assert outermost(["a"] * 4, trainings, videos) == 1
    assert outermost(["a"] * 4, [0] * 4, videos) == outermost(["a"], [0], [0]) == 2


def test_one_value_has_no_interval_and_bad_values_are_refused() -> None:
    assert (bootstrap_mean([2.0]).low, str(bootstrap_mean([2.0]))) == (None, "2.000")
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(InputError):
            bootstrap_mean(values)


# --- pictures ---------------------------------------------------------------------------------------------------------


def lengths_of_bars(picture: Image.Image, count: int) -> list[int]:
    """Pixels of each bar along its longest row."""
    pixels = np.asarray(picture)
    colours = [np.asarray(ImageColor.getrgb(chart.COLOURS[i])) for i in range(count)]
    return [int((pixels == colour).all(-1).sum(1).max()) for colour in colours]


@pytest.mark.parametrize("largest", [0.8, 4.0])
def test_bars_are_as_long_as_their_means(largest: float) -> None:
    means = [largest, largest / 2, largest / 8, 0.0]
    bars = {f"bar {i}": Interval(mean, None, None, 1) for i, mean in enumerate(means)}
    whole, *others = lengths_of_bars(chart.bar_chart(bars, title="x"), len(bars))
    assert whole > 200
    assert others == pytest.approx([whole / 2, whole / 8, 0], abs=1.5)


def test_whiskers_span_the_interval() -> None:
    bar = Interval(0.5, 0.25, 0.75, 9)
    (whole,) = lengths_of_bars(chart.bar_chart({"x": Interval(1.0, None, None, 1)}, title=""), 1)
    pixels = np.asarray(chart.bar_chart({"": bar}, title=""))
    ink = (pixels == np.asarray(ImageColor.getrgb(chart.INK))).all(-1)
    found = np.flatnonzero(ink[chart.TOP + 20])
    first = found[: int(np.argmax(np.diff(found) > 1)) + 1]  # the number stands behind
    assert (first[0] - 150, first[-1] - 150) == pytest.approx((whole / 4, whole * 3 / 4), abs=2)


# --- dynamic degree ---------------------------------------------------------------------------------------------------


def test_dynamic_degree_follows_the_rule() -> None:
    limit = 6 * 320 / 256
    for fast, expected in ((3, False), (4, True)):  # of 15 pairs of 16 frames
        speeds = [limit * 1.01] * fast + [limit * 0.99] * (15 - fast)
        assert moves(speeds, frames=16, short_side=320) is expected
    assert not moves([0.0], frames=2, short_side=64)


def test_dynamic_degree_takes_the_fastest_twentieth_and_thins_out_fast_videos() -> None:
    seen: list[int] = []

    def flow(frames: np.ndarray) -> np.ndarray:
        seen.append(len(frames))
        field = np.zeros((len(frames) - 1, 20, 20, 2))
        field[:, 0, :, 0] = 3.0  # exactly one twentieth of the pixels, 2.34 needed at a short side of 100
        return field

    frames = np.zeros((16, 100, 120, 3))
    assert is_dynamic(frames, flow)
    assert not is_dynamic(frames, lambda frames: flow(frames) * 0.7)
    assert is_dynamic(frames, flow, fps=24)
    assert seen == [16, 16, 6]
    for count, fps in ((3, 24), (2, 60), (3, 60), (4, 24)):  # too short to leave out so many: first and last are kept
        seen.clear()
        assert is_dynamic(np.linspace(0, 1, count)[:, None, None, None] * np.ones((1, 100, 120, 3)), flow, fps=fps)
        assert seen == [2]
    with pytest.raises(InputError, match="two frames; found 1"):
        is_dynamic(frames[:1], flow)


def test_raft_needs_its_file_and_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nothing at"):
        raft(tmp_path / "raft.pth")
    (tmp_path / "raft.pth").write_bytes(b"none")
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models.optical_flow", None)
    with pytest.raises(InputError, match="torchvision"):
        raft(tmp_path / "raft.pth")


def test_raft_gives_pixels_of_the_video_and_refuses_other_weights(tmp_path: Path) -> None:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", reason="TORCHVISION MISSING")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="other content"):
        raft(tmp_path / "other.pth")
    torch.manual_seed(0)
    model = optical_flow.raft_large(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    frames = RNG.random((3, 132, 140, 3)).astype(np.float32)
    flow = raft(tmp_path / "raft.pth")(frames)
    video = torch.from_numpy((frames * 255).round() / 127.5 - 1).permute(0, 3, 1, 2).float()
    padded = torch.nn.functional.pad(video, [0, 4, 0, 4], mode="replicate")
    with torch.no_grad():
        expected = model(padded[1:2], padded[2:3], num_flow_updates=20)[-1][0, :, :132, :140]
    assert flow.shape == (2, 132, 140, 2)
    assert np.abs(flow[1] - expected.permute(1, 2, 0).numpy()).max() < 1e-4
    small = raft(tmp_path / "raft.pth")(frames[:2, :64, :80])
    assert small.shape[1:3] == (128, 160)  # enlarged: RAFT takes no less
