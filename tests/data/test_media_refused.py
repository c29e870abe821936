"""Pictures that are refused: with which words, without waiting, and before anything large is made of them."""

import contextlib
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmenc_plugin.data import media, open_image
from mmenc_plugin.data.media import MAX_PIXELS
from mmenc_plugin.errors import MediaError

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8))
TOO_LARGE = "more than 89,478,485 pixels"


@pytest.fixture
def refused(tmp_path):
    """refused(what): why `open_image` does not take a path, a file with these bytes, or a picture as it is saved."""

    def ask(what, **options):
        path = what if isinstance(what, os.PathLike) else tmp_path / "x"
        if isinstance(what, bytes):
            path.write_bytes(what)
        elif isinstance(what, Image.Image):
            what.save(path, **options)
        with pytest.raises(MediaError) as caught:
            open_image(path)
        return str(caught.value)

    return ask


# --- What is no file --------------------------------------------------------------------------------


def test_a_pipe_is_not_waited_for(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "not a regular file"


def test_a_device_is_not_read(tmp_path, refused):
    (tmp_path / "zero").symlink_to("/dev/zero")  # without end
    assert refused(tmp_path / "zero") == "not a regular file"


def test_a_folder_and_a_missing_file_are_named_so(tmp_path, refused):
    assert refused(tmp_path) == "the file cannot be read: Is a directory"
    assert refused(tmp_path / "none") == "the file cannot be read: No such file or directory"


def test_a_huge_file_is_not_read(tmp_path, refused):
    PICTURE.save(tmp_path / "x.bmp")
    os.truncate(tmp_path / "x.bmp", media.MAX_BYTES + 1)  # holes, no bytes on the disk
    assert refused(tmp_path / "x.bmp") == "a file of more than 256 MiB"


# --- What is no picture -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"This is no picture, but a text.\n" * 50,
        b"<!DOCTYPE html><html><body>404</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"></svg>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n",
        b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n",
        b"SIMPLE  =                    T" + b" " * 50 + b"BITPIX  =                    8",
    ],
    ids=["empty", "text", "html", "svg", "eps", "pdf", "fits"],
)
def test_a_file_that_is_no_picture_is_refused_whatever_its_name(tmp_path, refused, data):
    for name in ("x.jpg", "x.eps", "x.svg", "x.pdf"):
        (tmp_path / name).write_bytes(data)
        expected = "not a picture of a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF)"
        assert refused(tmp_path / name) == expected


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "JPEG2000", "EPS", "PCX", "SGI", "DDS", "PDF", "AVIF"])
def test_a_format_that_pillow_knows_but_we_do_not_take_is_refused(refused, kind):
    assert refused(PICTURE, format=kind).startswith("not a picture of a known format")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_picture_is_refused(tmp_path, refused, kind, share):
    PICTURE.save(tmp_path / "whole", format=kind)
    data = (tmp_path / "whole").read_bytes()
    assert refused(data[: int(len(data) * share)]).startswith(("truncated or damaged", "not a picture"))


# --- What shows no item -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 100), (100, 7), (1, 1)])
def test_a_placeholder_is_refused(refused, size):
    assert refused(PICTURE.resize(size), format="PNG") == "a side under 8 pixels"


@pytest.mark.parametrize("size", [(8, 401), (401, 8)])
def test_a_line_is_refused(refused, size):
    assert refused(PICTURE.resize(size), format="PNG") == "one side over 50 times the other"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize("frames", [2, 3])
def test_an_animation_is_refused(refused, kind, frames):
    others = [PICTURE.rotate(90 * k) for k in range(1, frames)]
    reason = refused(PICTURE, format=kind, save_all=True, append_images=others)
    assert reason == "animated, or of several pages; save the one that shows the item"


def test_colours_that_no_library_resizes_are_refused(refused):
    assert refused(PICTURE.convert("LAB"), format="TIFF") == "colours stored as LAB; convert it to RGB"


# --- Bombs: small files that ask for much -----------------------------------------------------------


def webp(width, height):
    """A still picture of 16 x 16 on a canvas of any size."""
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(screen, frame):
    """An empty picture on an empty screen."""
    descriptor = struct.pack("<HH", *screen) + bytes(3) + b"," + bytes(4) + struct.pack("<HH", *frame)
    return b"GIF89a" + descriptor + b"\0\x02\x01\0\0;"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(12_000, 9_000), (30_000, 30_000), (MAX_PIXELS, 8), (2**31 - 1, 2**31 - 1)])
def test_a_declared_size_is_refused_before_it_is_decoded(refused, png, size):
    assert refused(png(*size, 1, 0, b"\0" * 1000)) == TOO_LARGE


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_warning_that_is_an_error_is_the_same_reason(refused, png):
    assert refused(png(12_000, 9_000, 1, 0, b"")) == TOO_LARGE


def test_canvases_of_other_formats_are_refused_too(refused, tiff):
    for data in (gif((65535, 65535), (64, 64)), gif((64, 64), (65535, 65535)), tiff(b"", _256=60_000, _257=60_000)):
        assert refused(data) == TOO_LARGE
    assert refused(webp(16_383, 16_383)) in (TOO_LARGE, "truncated or damaged")


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt"])
def test_a_text_that_unpacks_to_much_is_refused(refused, png, name):
    packed = zlib.compress(b"a" * (2 << 20), 9)
    text = (name, b"k\0" + (b"\0" if name == b"zTXt" else b"\1\0\0\0") + packed)
    data = png(32, 24, 8, 0, b"".join(b"\0" + bytes(32) for _ in range(24)), text)
    assert len(data) < 10_000
    assert refused(data) == "more text beside the picture than Pillow takes"


def test_a_tile_larger_than_any_picture_is_refused(refused, tiff):
    """Pillow would make room for the whole tile: 1.6 gigabytes for a picture of 64 x 64."""
    data = tiff(b"\0" * 100, _259=8, _322=40_000, _323=40_000, _324=200, _325=100)
    assert refused(data) == TOO_LARGE


@pytest.mark.parametrize("compression", [1, 5, 8])
def test_strips_that_are_not_there_are_refused(refused, tiff, compression):
    assert refused(tiff(b"\0" * 100, _259=compression, _279=0xFFFFFFF0)) == "truncated or damaged"


def test_memory_that_is_not_there_is_a_reason(refused, monkeypatch, tmp_path):
    def greedy(_):
        raise MemoryError

    PICTURE.save(tmp_path / "x.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", greedy)
    assert refused(tmp_path / "x.png") == "more memory is needed than there is"


# --- Files with one byte changed: whatever Pillow makes of it, the answer is a picture or a MediaError ------


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it finds
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"])
def test_a_damaged_header_is_refused_or_read(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    PICTURE.save(tmp_path / "whole", format=kind, **options)
    data = (tmp_path / "whole").read_bytes()
    taken = 0
    for position in range(8, 140):
        for value in (2, 255):
            (tmp_path / "x").write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            with contextlib.suppress(MediaError):
                taken += bool(open_image(tmp_path / "x"))
    assert 0 < taken < 264
