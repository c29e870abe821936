"""Pictures: which are taken, and with what words the others are refused."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmenc_plugin.data import open_image
from mmenc_plugin.data.media import MAX_PIXELS, resolve
from mmenc_plugin.errors import MediaError

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    """tmp_path/images with a picture, beside a picture that does not belong to it."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for path in (images / "a.png", images / "sub" / "b.png", tmp_path / "outside.png"):
        PICTURE.save(path)
    return images


@pytest.fixture
def refused(tmp_path):
    """refused(bytes, name): why `open_image` does not take a file with them."""

    def ask(data, name="x.jpg"):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(MediaError) as caught:
            open_image(path)
        return str(caught.value)

    return ask


def saved(path, picture=PICTURE, **options):
    picture.save(path, **options)
    return path


def declared_png(width, height):
    """A small file that says it holds a 1-bit picture of that size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# --- Where a picture may lie ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "sub/b.png", "sub/../a.png", "./a.png"])
def test_a_picture_in_the_folder_is_found(folder, name):
    path = resolve(folder, name)
    assert path.is_file()
    assert path.is_relative_to(folder.resolve())


def test_the_folder_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert resolve(tmp_path / "link", "a.png") == (folder / "a.png").resolve()


def test_no_name_is_no_picture(folder):
    with pytest.raises(MediaError, match="no picture is named"):
        resolve(folder, "")


@pytest.mark.parametrize("name", ["none.png", "sub", ".", "a.png/x", "A picture.png"])
def test_what_is_no_file_does_not_exist(folder, name):
    with pytest.raises(MediaError, match="does not exist in"):
        resolve(folder, name)


def test_without_the_folder_nothing_exists(tmp_path):
    with pytest.raises(MediaError, match="does not exist in"):
        resolve(tmp_path / "none", "a.png")


@pytest.mark.parametrize("name", ["../outside.png", "sub/../../outside.png", "/etc/passwd", "{parent}/outside.png"])
def test_a_name_that_leads_out_is_refused(folder, name):
    with pytest.raises(MediaError, match="leads out of"):
        resolve(folder, name.format(parent=folder.parent))


@pytest.mark.parametrize(("link", "target"), [("link.png", "../outside.png"), ("up", "..")])
def test_a_link_that_leads_out_is_refused(folder, link, target):
    (folder / link).symlink_to(target)
    with pytest.raises(MediaError, match="leads out of"):
        resolve(folder, "up/outside.png" if link == "up" else link)


def test_a_neighbour_whose_name_begins_alike_is_outside(folder):
    (folder.parent / "images2").mkdir()
    saved(folder.parent / "images2" / "a.png")
    with pytest.raises(MediaError, match="leads out of"):
        resolve(folder, "../images2/a.png")


@pytest.mark.parametrize("name", ["https://shop.example/" + "x" * 300 + ".jpg", "x" * 300, "a\0b.png", "loop.png"])
def test_a_name_that_no_file_can_have_is_a_missing_picture(folder, name):
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(MediaError):
        resolve(folder, name)


# --- Which files are pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.gif", "x.bmp", "x.tiff"])
def test_every_format_is_read(tmp_path, name):
    picture = open_image(saved(tmp_path / name))
    assert picture.size == (32, 24)
    assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - np.asarray(PICTURE)).mean() < 60


def test_the_name_does_not_matter_but_the_bytes(tmp_path):
    assert open_image(saved(tmp_path / "x.jpg", format="PNG")).size == (32, 24)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_270),
        (8, Image.Transpose.ROTATE_90),
    ],
)
def test_a_photo_is_turned_as_its_camera_was(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_image(saved(tmp_path / "x.png", exif=exif))
    expected = PICTURE.transpose(turn) if turn is not None else PICTURE
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))
    assert 0x0112 not in picture.getexif() or orientation == 1


def test_eight_pixels_a_side_are_enough_and_seven_are_not(tmp_path):
    assert open_image(saved(tmp_path / "x.png", PICTURE.resize((8, 8)))).size == (8, 8)
    for size in [(7, 100), (100, 7), (1, 1)]:
        with pytest.raises(MediaError, match=f"{size[0]} x {size[1]} pixels, a side under 8"):
            open_image(saved(tmp_path / "x.png", PICTURE.resize(size)))


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tiff"])
def test_an_animation_is_refused(tmp_path, name):
    frames = [PICTURE, PICTURE.rotate(90), PICTURE.rotate(180)]
    with pytest.raises(MediaError, match=r"animated \(3 frames\)"):
        open_image(saved(tmp_path / name, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize("name", ["x.jpg", "x.tiff"])
def test_cmyk_is_refused(tmp_path, name):
    with pytest.raises(MediaError, match=r"CMYK.*convert it to RGB"):
        open_image(saved(tmp_path / name, PICTURE.convert("CMYK")))


@pytest.mark.parametrize("size", [(30_000, 30_000), (MAX_PIXELS, 1), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_decoded(refused, size):
    assert "89,478,485" in refused(declared_png(*size), "x.png") or "a side under 8" in refused(declared_png(*size))


def test_a_picture_just_over_the_bound_is_refused_with_its_size(refused):
    assert refused(declared_png(12_000, 9_000)) == "12,000 x 9,000 pixels, more than 89,478,485"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_picture_is_refused(tmp_path, refused, kind, share):
    data = saved(tmp_path / "whole", format=kind).read_bytes()
    assert refused(data[: int(len(data) * share)]).startswith(("truncated or damaged", "not a picture"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"This is no picture, but a text.\n" * 50,
        b"<!DOCTYPE html><html><body>404</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"></svg>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n",
        b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n",
    ],
    ids=["empty", "text", "html", "svg", "eps", "pdf"],
)
def test_a_file_that_is_no_picture_is_refused_whatever_its_name(refused, data):
    for name in ("x.jpg", "x.eps", "x.svg", "x.pdf"):
        assert refused(data, name).startswith("not a picture of a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF)")


def test_a_format_that_pillow_knows_but_we_do_not_take_is_refused(tmp_path, refused):
    for kind in ("PPM", "ICO", "TGA", "JPEG2000", "EPS"):
        assert refused(saved(tmp_path / "whole", format=kind).read_bytes()).startswith("not a picture")


def test_a_picture_that_cannot_be_read_is_refused(folder):
    with pytest.raises(MediaError):
        open_image(folder)  # a folder: what a file system answers when it will not read


# --- Files with one byte changed: whatever Pillow makes of it, the answer is a picture or a MediaError ------


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it finds
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_damaged_header_is_refused_or_read(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    options = {"exif": exif} if kind != "TIFF" else {}
    data = saved(tmp_path / "whole", format=kind, **options).read_bytes()
    for position in range(8, 140):
        for value in (2, 255):
            (tmp_path / "x").write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            with contextlib.suppress(MediaError):
                open_image(tmp_path / "x")
