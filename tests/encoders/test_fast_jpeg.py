"""JPEGs prepared the fast way: simplejpeg's pixels are Pillow's, and the same files are taken and refused."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageCms

from mmenc_plugin.data import open_image
from mmenc_plugin.encoders import _pictures
from mmenc_plugin.encoders._pictures import PictureRule, prepare_fast
from mmenc_plugin.errors import MediaError
from mmenc_plugin.testing.samples import picture

SQUASH = PictureRule(32, 48, resize="squash", resample="bilinear")
PHOTO = picture(0, (157, 123))


def squashed(image):
    """What `SQUASH` says, by Pillow."""
    return torch.from_numpy(np.array(image.convert("RGB").resize((48, 32), Image.Resampling.BILINEAR))).permute(2, 0, 1)


@pytest.fixture
def file(tmp_path):
    """file(image, **options): the picture in a JPEG."""

    def save(image, **options):
        image.save(tmp_path / "x.jpg", **options)
        return tmp_path / "x.jpg"

    return save


@pytest.fixture
def decoders(monkeypatch):
    """decoders(path): prepared with simplejpeg's decoder and with Pillow's; and how often the first worked."""
    decode, worked = simplejpeg.decode_jpeg, []

    def counted(*args, **options):
        out = decode(*args, **options)
        worked.append(out)
        return out

    def both(path):
        monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
        fast = prepare_fast(path, SQUASH, squashed)
        monkeypatch.setattr(_pictures, "simplejpeg", None)
        without = prepare_fast(path, SQUASH, squashed)
        monkeypatch.setattr(_pictures, "simplejpeg", simplejpeg)
        return fast, without, len(worked)

    return both


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("quality", [20, 90])
def test_pixels_of_every_sampling_are_those_of_pillow(tmp_path, decoders, sampling, quality):
    data = simplejpeg.encode_jpeg(np.array(PHOTO), quality=quality, colorsubsampling=sampling)
    (tmp_path / "x.jpg").write_bytes(data)
    fast, without, worked = decoders(tmp_path / "x.jpg")
    assert worked == 1
    assert torch.equal(fast, without)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = {
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 3},
    "profile": {"icc_profile": PROFILE},
    "stored in RGB": {"keep_rgb": True, "subsampling": 0},
    "several pictures": {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (64, 64))]},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("size", [(157, 123), (16, 33), (9, 8), (7 * 16 + 1, 64)])
def test_pixels_of_every_kind_of_jpeg_are_those_of_pillow(file, decoders, options, size):
    fast, without, worked = decoders(file(picture(1, size), **options))
    assert worked == 1
    assert torch.equal(fast, without)


@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_of_grey_jpegs_are_those_of_pillow(file, decoders, progressive):
    path = file(PHOTO.convert("L"), progressive=progressive)
    fast, without, worked = decoders(path)
    assert worked == 1
    assert torch.equal(fast, without)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_before_it_is_resized(file, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = file(PHOTO, exif=exif)
    fast = prepare_fast(path, SQUASH, squashed)
    assert (fast.int() - squashed(open_image(path)).int()).abs().max() <= 2


def test_four_inks_are_left_to_pillow(file, decoders):
    fast, without, worked = decoders(file(PHOTO.convert("CMYK")))
    assert worked == 0
    assert torch.equal(fast, without)


def test_without_the_package_pillow_decodes(python):
    look = "from mmenc_plugin.encoders import _pictures; print(_pictures.simplejpeg)"
    done = python(f"import sys; sys.modules['simplejpeg'] = None; {look}")
    assert done.stdout == "None\n", done.stderr


# --- The same files are taken and refused -----------------------------------------------------------


def outcome(prepare):
    """The pixels, or the reason."""
    try:
        return prepare().tolist()
    except MediaError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it finds
@pytest.mark.parametrize("kind", ["baseline", "progressive", "restart markers"])
def test_damaged_jpegs_are_taken_or_refused_as_in_exact_mode(tmp_path, kind):
    """Bytes changed anywhere: the pixels of Pillow's decoder, or its reason."""
    rng = np.random.default_rng(0)
    out = io.BytesIO()
    PHOTO.crop((0, 0, 40, 40)).save(out, "JPEG", **KINDS.get(kind, {}))
    whole, reasons = out.getvalue(), set()
    for _ in range(150):
        data = bytearray(whole)
        for position in rng.integers(2, len(data), rng.integers(1, 4)):
            data[position] = rng.choice([0, 255, rng.integers(256)])
        (tmp_path / "x.jpg").write_bytes(data if rng.random() < 0.8 else data[: rng.integers(len(data))])
        fast = outcome(lambda: prepare_fast(tmp_path / "x.jpg", SQUASH, squashed))
        slow = outcome(lambda: squashed(open_image(tmp_path / "x.jpg")))
        assert isinstance(fast, str) == isinstance(slow, str)
        if isinstance(fast, str):
            assert fast == slow
        else:
            assert np.abs(np.array(fast) - np.array(slow)).max() <= 2
        reasons.add(fast if isinstance(fast, str) else "taken")
    assert {"taken", "truncated or damaged"} <= reasons
