"""Pictures that are taken: where they lie, in what formats and modes, and what they come as."""

import warnings

import numpy as np
import pytest
from PIL import Image

from mmenc_plugin.data import open_image
from mmenc_plugin.data.media import decoded, opened, resolve
from mmenc_plugin.errors import MediaError

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8))
GREY16 = RNG.integers(0, 65536, (24, 32)).astype(np.uint16)
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.fixture
def folder(tmp_path):
    """tmp_path/images with a picture, beside a picture that does not belong to it."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for path in (images / "a.png", images / "sub" / "b.png", tmp_path / "outside.png"):
        PICTURE.save(path)
    return images


def saved(path, picture=PICTURE, **options):
    picture.save(path, **options)
    return path


def pixels(picture):
    return np.asarray(picture).astype(int)


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
    with pytest.raises(MediaError, match=r"^the file does not exist in the picture folder$"):
        resolve(folder, name)


def test_without_the_folder_nothing_exists(tmp_path):
    with pytest.raises(MediaError, match=r"^the file does not exist in the picture folder$"):
        resolve(tmp_path / "none", "a.png")


@pytest.mark.parametrize("name", ["../outside.png", "sub/../../outside.png", "/etc/passwd", "{parent}/outside.png"])
def test_a_name_that_leads_out_is_refused(folder, name):
    with pytest.raises(MediaError, match=r"^the name leads out of the picture folder$"):
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
    with pytest.raises(
        MediaError, match=r"^the file (cannot be read: |does not exist)|^not a name that a file can have"
    ):
        resolve(folder, name)


# --- Formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.gif", "x.bmp", "x.tiff"])
def test_every_format_is_read(tmp_path, name):
    picture = open_image(saved(tmp_path / name))
    assert picture.size == (32, 24)
    assert np.abs(pixels(picture.convert("RGB")) - pixels(PICTURE)).mean() < 60


def test_the_name_does_not_matter_but_the_bytes(tmp_path):
    assert open_image(saved(tmp_path / "x.jpg", format="PNG")).size == (32, 24)


def test_eight_pixels_a_side_are_enough(tmp_path):
    assert open_image(saved(tmp_path / "x.png", PICTURE.resize((8, 8)))).size == (8, 8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_one_frame_in_a_format_of_many_is_a_picture(tmp_path, kind):
    grey = PICTURE.convert("L")
    picture = open_image(saved(tmp_path / "x", grey, format=kind, save_all=True, lossless=True))
    np.testing.assert_array_equal(pixels(picture.convert("L")), pixels(grey))


def test_the_first_of_a_phones_pictures_is_taken(tmp_path):
    path = saved(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[PICTURE.rotate(180)], quality=95)
    one = saved(tmp_path / "one.jpg", quality=95)
    np.testing.assert_array_equal(pixels(open_image(path)), pixels(Image.open(one)))


# --- Turned as the camera was -----------------------------------------------------------------------


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("mode", ["RGB", "I;16", "P", "1"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_photo_is_turned_as_its_camera_was(tmp_path, kind, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(GREY16) if mode == "I;16" else PICTURE.convert(mode)
    picture = open_image(saved(tmp_path / "x", upright, format=kind, exif=exif))
    expected = upright if orientation == 1 else upright.transpose(TURNS[orientation])
    scale = 256 if mode == "I;16" else 1
    np.testing.assert_array_equal(pixels(picture), pixels(expected) // scale)
    assert picture.getexif().get(0x0112, 1) == 1, "whoever asks again would turn it again"


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(pixels(open_image(saved(tmp_path / "x.png", exif=exif))), pixels(PICTURE))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it finds
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"nonsense" * 20])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_spoils_no_picture(tmp_path, kind, exif):
    whole = Image.open(saved(tmp_path / "whole", format=kind))
    path = saved(tmp_path / "x", format=kind, exif=exif)
    np.testing.assert_array_equal(pixels(open_image(path)), pixels(whole))


# --- Modes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    ],
)
def test_a_picture_comes_in_the_mode_of_its_file(tmp_path, kind, mode):
    middle = {"LA": "RGBA", "I": "L", "F": "L"}.get(mode, "RGB")
    picture = PICTURE.convert(middle).convert(mode)
    best = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    out = open_image(saved(tmp_path / "x", picture, format=kind, **best))
    assert out.mode == mode
    assert np.abs(pixels(out) - pixels(picture)).max() <= (3 if kind == "JPEG" else 0)


def test_a_printers_jpeg_has_its_colours(tmp_path):
    """Its four inks are stored inverted, as Adobe does."""
    red = Image.new("RGB", (32, 32), (200, 30, 40)).convert("CMYK")
    out = open_image(saved(tmp_path / "x.jpg", red, quality=95)).convert("RGB")
    assert np.abs(pixels(out) - [200, 30, 40]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_sixteen_bits_is_scaled_to_eight(tmp_path, kind, order):
    path = saved(tmp_path / "x", Image.fromarray(GREY16.astype(order)), format=kind)
    picture = open_image(path)
    assert picture.mode == "L"
    np.testing.assert_array_equal(pixels(picture), GREY16 // 256)


def test_grey_of_twelve_bits_is_scaled_to_eight(tmp_path, tiff):
    values = np.arange(64 * 64) % 4096
    high, low = values[::2], values[1::2]
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=1).astype(np.uint8)
    (tmp_path / "x").write_bytes(tiff(packed.tobytes(), _258=12))
    np.testing.assert_array_equal(pixels(open_image(tmp_path / "x")).ravel(), values // 16)


def test_colours_of_sixteen_bits_are_scaled_to_eight(tmp_path, png):
    values = RNG.integers(0, 65536, (24, 32, 3)).astype(">u2")
    (tmp_path / "x").write_bytes(png(32, 24, 16, 2, b"".join(b"\0" + row.tobytes() for row in values)))
    np.testing.assert_array_equal(pixels(open_image(tmp_path / "x")), values // 256)


def test_a_palette_with_alpha_comes_in_its_colours(tmp_path):
    picture = open_image(saved(tmp_path / "x.tiff", PICTURE.convert("P").convert("PA")))
    assert picture.mode == "RGBA"
    np.testing.assert_array_equal(pixels(picture.convert("RGB")), pixels(PICTURE.convert("P").convert("RGB")))


# --- Two steps, and nothing beside ------------------------------------------------------------------


def test_what_was_checked_is_what_is_decoded(tmp_path):
    """A file that changes in between changes nothing."""
    path = saved(tmp_path / "x.png")
    data, header = opened(path)
    path.write_bytes(b"")
    assert data.startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels(decoded(header)), pixels(PICTURE))


def test_the_filters_of_warnings_stay_as_they_are(tmp_path):
    before = list(warnings.filters)
    open_image(saved(tmp_path / "x.png"))
    assert warnings.filters == before
