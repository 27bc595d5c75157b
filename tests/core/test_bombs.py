"""Small files that would fill the memory, keep the machine busy, or start other programs: refused in one sentence."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from customcrafter_core.errors import InputError
from customcrafter_core.files.tensor_file import open_tensor_file
from customcrafter_core.subject.formats import read_token
from customcrafter_core.training.photos import load_image, load_photos
from customcrafter_core.training.prior import load_prior

MOST_MEMORY = 2 * 10**9  # bytes more than before
MOST_TIME = 10  # seconds; refusing takes some hundredths


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A test that takes too much memory fails instead of the machine; one that takes too long fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, before[1]))
    started = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - started < MOST_TIME


# --- pictures ---------------------------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims to be as large."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99))]
    chunks = [
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in [*parts, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (10_000, 9_500), (2**30, 16)])
@pytest.mark.parametrize("name", ["bomb.png", "bomb.jpg"])
def test_a_picture_that_claims_to_be_huge(tmp_path: Path, size: tuple[int, int], name: str) -> None:
    (tmp_path / name).write_bytes(png_of(*size))
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_photos(tmp_path)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_prior(tmp_path)


def test_texts_in_a_picture_that_unpack_to_much(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("caption", "a" * 50_000_000, zip=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "bomb.png", pnginfo=info)
    with pytest.raises(InputError, match=r"bomb\.png"):
        load_image(tmp_path / "bomb.png")


def gif_of_many_frames() -> bytes:
    """The second frame, which changes one pixel, again and again."""
    first = Image.new("L", (2000, 2000))
    second = first.copy()
    second.putpixel((0, 0), 255)
    buffer = io.BytesIO()
    first.save(buffer, save_all=True, append_images=[second], duration=100, format="GIF")
    content = buffer.getvalue()
    return content[:-1] + content[content.rindex(b"\x21\xf9\x04") : -1] * 98 + b";"


def png_of_many_frames() -> bytes:
    """It only says how many there are."""
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "PNG")
    content = buffer.getvalue()
    control = b"acTL" + struct.pack(">II", 99, 0)  # the still picture counts too
    chunk = struct.pack(">I", 8) + control + struct.pack(">I", zlib.crc32(control))
    return content[:33] + chunk + content[33:]


@pytest.mark.parametrize("make", [gif_of_many_frames, png_of_many_frames])
def test_an_animation_of_many_large_frames(tmp_path: Path, make: Callable[[], bytes]) -> None:
    """A few kilobytes that stand for more than a gigabyte."""
    (tmp_path / "bomb.png").write_bytes(make())
    assert (tmp_path / "bomb.png").stat().st_size < 50_000
    with pytest.raises(InputError, match=r"100 frames of 2000x2000 in bomb\.png"):
        load_prior(tmp_path)


@pytest.mark.parametrize("side", [65_535, 12_000])
def test_a_frame_larger_than_its_animation(tmp_path: Path, side: int) -> None:
    """GIF allows it; Pillow then enlarges the picture."""
    buffer = io.BytesIO()
    small = [Image.new("P", (64, 64), i) for i in range(2)]
    small[0].save(buffer, "GIF", save_all=True, append_images=small[1:], duration=100)
    content = bytearray(buffer.getvalue())
    place = content.rindex(b"\x2c")  # the second frame's descriptor: left, top, width, height
    content[place : place + 9] = b"\x2c" + struct.pack("<HHHH", 0, 0, side, side)
    (tmp_path / "bomb.gif").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"bomb\.gif"):
        load_prior(tmp_path)


@pytest.mark.parametrize("name", ["photo.png", "photo.gif"])
def test_no_picture_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    for program in ("gs", "gswin64c"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    )
    for load in (load_photos, load_prior):
        with pytest.raises(InputError, match="cannot be read as an image"):
            load(tmp_path / "photos")
    assert not (tmp_path / "started").exists()


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_packed_a_thousand_times(tmp_path: Path) -> None:
    path, packed = tmp_path / "plain.ckpt", tmp_path / "bomb.ckpt"
    torch.save({"a": torch.zeros(3 * 10**7)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert packed.stat().st_size < 300_000
    with pytest.raises(InputError, match="packed by another program"):
        open_tensor_file(packed)


def test_a_pickle_packed_a_thousand_times(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + b"N0" * 10**8 + b"N.")
    with pytest.raises(InputError, match="packed by another program"):
        open_tensor_file(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_one_number_that_claims_to_be_many(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "token.bin"
    torch.save({"<new1>": torch.zeros(1).expand(10**6, 10**6)}, path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="more numbers than it holds in <new1>"):
        read_token(path)


@pytest.mark.parametrize("length", [2**63, 2**31, 10**9])
def test_a_header_that_claims_to_be_huge(tmp_path: Path, length: int) -> None:
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{" + b" " * 1000)
    with pytest.raises(InputError):
        open_tensor_file(path)
