"""Videos and contact sheets that others can open, and files that are complete or absent."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from customcrafter_core.errors import InputError
from customcrafter_core.files import writing
from customcrafter_core.files.writing import free_stem, write_bytes, write_json
from customcrafter_core.output.pixels import enlarge, to_bytes
from customcrafter_core.output.sheet import CELL, SheetRow, contact_sheet, write_sheet
from customcrafter_core.output.video import CODEC_OPTIONS, SHORTEST_SIDE, encode_video, write_video


def colours(frames: int = 5, height: int = 48, width: int = 64) -> torch.Tensor:
    """Plain frames that become redder; the left half is blue."""
    video = torch.zeros(frames, height, width, 3)
    video[..., 0] = torch.linspace(0, 1, frames).view(-1, 1, 1)
    video[:, :, : width // 2, 2] = 1
    return video


def decoded(content: bytes) -> tuple[list[np.ndarray], float, str]:
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return images, float(stream.average_rate), stream.codec_context.pix_fmt


@pytest.mark.parametrize("codec", sorted(CODEC_OPTIONS))
def test_video_holds_all_frames_in_their_colours(codec: str) -> None:
    images, fps, layout = decoded(encode_video(colours(), 8, codec=codec))
    assert (len(images), fps, layout) == (5, 8, "yuv420p")
    assert images[0].shape == (288, 384, 3)  # 48 x 64 times 6
    for i, image in enumerate(images):
        expected = to_bytes(colours())[i]
        assert abs(image[100, 50].astype(int) - expected[10, 5]).max() < 12
        assert abs(image[100, 300].astype(int) - expected[10, 50]).max() < 12


def test_video_of_full_size_is_not_enlarged_and_odd_sides_are_filled(tmp_path: Path) -> None:
    path = write_video(tmp_path / "new" / "video.mp4", colours(2, 301, 257), 28)
    images, fps, _ = decoded(path.read_bytes())
    assert [image.shape for image in images] == [(302, 258, 3)] * 2
    assert fps == 28


def test_same_frames_give_the_same_file() -> None:
    assert encode_video(colours(), 8) == encode_video(colours(), 8)


def test_enlarging_repeats_pixels() -> None:
    pixels = to_bytes(torch.rand(1, 3, 5, 3, generator=torch.Generator().manual_seed(0)))
    large = enlarge(pixels, SHORTEST_SIDE)
    assert large.shape == (1, 258, 430, 3)
    assert (large[:, ::86, ::86] == pixels).all() and (large[:, 85::86, 85::86] == pixels).all()
    assert enlarge(large, SHORTEST_SIDE) is large


@pytest.mark.parametrize(
    "frames", [torch.zeros(0, 8, 8, 3), torch.zeros(2, 3, 8, 8), torch.full((1, 8, 8, 3), torch.nan)]
)
def test_what_is_no_video_is_refused(frames: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_video(tmp_path / "video.mp4", frames, 8)
    with pytest.raises(InputError):
        write_sheet(tmp_path / "sheet.png", [SheetRow("", frames)])
    assert not list(tmp_path.iterdir())


def test_sheet_has_a_row_for_each_video_and_a_column_for_each_frame(tmp_path: Path) -> None:
    rows = [
        SheetRow("base model", colours(16, 32, 32)),
        SheetRow("a label that needs more than one line", colours(3, 32, 32)),
    ]
    with Image.open(write_sheet(tmp_path / "sheet.png", rows, title="<new1> ball is moving left", columns=4)) as sheet:
        bare = contact_sheet([SheetRow("", row.frames) for row in rows], columns=4)
        assert bare.width >= 4 * CELL and bare.height >= 2 * CELL
        assert sheet.width > bare.width + 100  # labels at the left
        assert sheet.height > bare.height + 20  # title on top
        assert sheet.mode == "RGB"


def test_sheet_shows_the_first_and_the_last_frame_sharp() -> None:
    checkers = torch.zeros(9, 16, 16, 3)
    checkers[:, ::2, ::2] = 1
    checkers[-1] = 0.5
    sheet = np.asarray(contact_sheet([SheetRow("", checkers)], columns=2))
    assert {0, 255} <= set(sheet[40:180, 10:160].reshape(-1).tolist())
    assert (sheet[100, 200:320] == 128).all()  # nothing smoothed


def test_labels_are_spelt_in_letters_that_the_font_has() -> None:
    video = colours(2, 32, 32)
    spelt = contact_sheet([SheetRow("lambda = 0.4 -> 0.8", video)], title="cafe")
    assert contact_sheet([SheetRow("λ = 0.4 → 0.8", video)], title="café") == spelt


def test_large_frames_are_scaled_down() -> None:
    sheet = contact_sheet([SheetRow("", torch.zeros(2, 320, 512, 3))])
    assert sheet.height < 2 * CELL


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bytes(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": True})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_go_on_behind_the_last_one(tmp_path: Path) -> None:
    assert free_stem(tmp_path / "absent", "video") == "video-0001"
    for name in ("video-0001.mp4", "video-0007-2.mp4", "video-late.mp4", "videos-0009.mp4"):
        (tmp_path / name).touch()
    assert free_stem(tmp_path, "video") == "video-0008"
