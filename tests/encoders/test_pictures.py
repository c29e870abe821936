"""Pixels: normalised as torchvision does, and prepared the fast way within a measured distance of the exact one."""

import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw

from mmenc_plugin import encoders
from mmenc_plugin.data import open_image
from mmenc_plugin.encoders import _pictures, _torchvision
from mmenc_plugin.encoders._pictures import PictureRule, normalize, prepare_fast, to_rgb
from mmenc_plugin.errors import MediaError

_torchvision.state()
import simplejpeg  # noqa: E402
from torchvision import transforms  # noqa: E402

RULES = {
    "openclip": PictureRule(32, 32, resize_to=32),
    "transformers": PictureRule(32, 32, resize_to=36, alpha="white", crop="floor"),
    "large": PictureRule(112, 112, resize_to=112),
    "bilinear": PictureRule(48, 64, resize_to=70, resample="bilinear"),
    "squash": PictureRule(40, 56, resize="squash"),
    "classic": PictureRule(64, 64, resize="squash", resample="bilinear", alpha="white"),
}
SIZES = [
    (40, 30),
    (31, 47),
    (64, 64),
    (65, 66),
    (200, 9),
    (8, 400),
    (400, 8),
    (9, 200),
    (300, 211),
    (150, 420),
    (32, 32),
]


def exact(rule):
    """picture -> uint8 [3, H, W] by torchvision on Pillow pictures, as the encoders' libraries do."""
    way = transforms.InterpolationMode(rule.resample)
    shortest, size = rule.resize == "shortest", (rule.height, rule.width)
    resize = transforms.Resize(rule.resize_to if shortest else size, way)

    def cut(picture):
        if rule.crop == "round":
            return transforms.CenterCrop(size)(picture)
        left, top = (picture.width - rule.width) // 2, (picture.height - rule.height) // 2
        return picture.crop((left, top, left + rule.width, top + rule.height))

    steps = [lambda picture: to_rgb(picture, rule.alpha), resize, cut, transforms.PILToTensor()]
    return transforms.Compose(steps)


def drawings(size, seed=0):
    """Noise, black and white noise, a gradient, a raster, and something like a product's photograph."""
    rng, (height, width) = np.random.default_rng(seed), size
    yield rng.integers(0, 256, (height, width, 3))
    yield rng.integers(0, 2, (height, width, 3)) * 255
    yield np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    yield np.indices((height, width)).sum(0)[..., None].repeat(3, 2) // 3 % 2 * 255
    photo = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(photo).ellipse([width // 8, height // 8, width - width // 8, height - height // 8], fill="#a33")
    yield np.clip(np.asarray(photo) + rng.normal(0, 6, (height, width, 3)), 0, 255)


def difference(path, rule):
    """Fast less exact, absolute: [3, H, W]."""
    fast = prepare_fast(path, rule, exact(rule))
    assert (fast.dtype, fast.shape) == (torch.uint8, (3, rule.height, rule.width))
    return (fast.int() - exact(rule)(open_image(path)).int()).abs()


@pytest.fixture
def file(tmp_path):
    """file(pixels, **options): a picture of these pixels in a file, a PNG if nothing else is said."""

    def save(pixels, name="x.png", **options):
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels).astype(np.uint8))
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


# --- The rule and its arithmetic --------------------------------------------------------------------


def test_normalising_is_torchvisions_bit_for_bit():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    rule = PictureRule(64, 64, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(rule.mean, rule.std)])(picture)
    ours = normalize(transforms.PILToTensor()(picture).unsqueeze(0), rule)
    assert torch.equal(ours, theirs.unsqueeze(0))


def test_every_grey_level_is_normalised_as_torchvision_does():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    rule = PictureRule(16, 16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    theirs = transforms.Normalize(rule.mean, rule.std)(levels.float().div(255))
    assert torch.equal(normalize(levels.unsqueeze(0), rule)[0], theirs)
    assert levels.dtype == torch.uint8


@pytest.mark.parametrize(
    ("rule", "fast"),
    [
        (PictureRule(32, 32, resize_to=32), True),
        (PictureRule(32, 40, resize_to=40), True),
        (PictureRule(32, 32, resize="squash"), True),
        (PictureRule(32, 40, resize_to=39), False),  # the cut is larger than the picture: libraries pad
        (PictureRule(32, 32, resize="other", resize_to=32), False),
    ],
)
def test_which_rules_have_a_fast_form(rule, fast):
    assert rule.has_fast_form is fast
    assert json.loads(json.dumps(rule.as_dict())) == rule.as_dict()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_parts_are_dropped_or_white(mode):
    picture = Image.new("RGBA", (8, 8), (30, 30, 30, 0)).convert(mode if mode != "PA" else "P")
    if mode == "P":
        picture.info["transparency"] = picture.getpixel((0, 0))
    if mode == "PA":
        picture = picture.convert("PA")
        picture.putalpha(0)
    assert to_rgb(picture, "white").getpixel((3, 3)) == (255, 255, 255)
    assert max(to_rgb(picture, "drop").getpixel((3, 3))) < 60


# --- The distance between fast and exact ------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("size", SIZES)
def test_a_fast_value_is_within_two_grey_levels(file, rule, size):
    for pixels in drawings(size):
        apart = difference(file(pixels), rule)
        assert apart.max() <= 2
        assert (apart > 1).float().mean() <= 0.001


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_few_values_differ_at_all(file, rule):
    noise, _, gradient, _, photo = drawings((300, 211))
    shares = [(difference(file(pixels), rule) > 0).float().mean().item() for pixels in (noise, gradient, photo)]
    assert max(shares) < 0.05


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_and_colour_go_the_fast_way(file, mode):
    path, rule = (
        file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60), np.uint8)).convert(mode)),
        RULES["large"],
    )

    def never(_):
        raise AssertionError

    assert (prepare_fast(path, rule, never).int() - exact(rule)(open_image(path)).int()).abs().max() <= 2


@pytest.mark.parametrize("rule", [RULES["transformers"], RULES["openclip"]])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
def test_what_the_fast_way_cannot_do_is_done_exactly(file, rule, mode):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    picture = picture.convert("RGBA").convert(mode) if mode == "LA" else picture.convert(mode)
    asked = []
    path = file(picture, "x.jpg" if mode == "CMYK" else "x.png")
    fast = prepare_fast(path, rule, lambda picture: asked.append(picture.mode) or exact(rule)(picture))
    assert asked == [mode]
    assert torch.equal(fast, exact(rule)(open_image(path)))


@pytest.mark.parametrize("key", [0, (255, 255, 255)])
def test_a_transparent_colour_is_laid_on_white(file, key):
    picture = Image.new("L" if key == 0 else "RGB", (40, 40), key)
    fast = prepare_fast(file(picture, transparency=key), RULES["classic"], exact(RULES["classic"]))
    assert (fast == 255).all()


def test_features_of_the_fast_way_point_the_same_way(file, tiny_clip):
    uri = f"openclip:local-dir:{tiny_clip}"
    paths = [file(pixels, f"{k}.jpg", quality=90) for k, pixels in enumerate(drawings((90, 120)))]
    slow, fast = (encoders.build(uri, preparation=way).embed_images(paths) for way in ("exact", "fast"))
    assert torch.cosine_similarity(slow, fast).min() >= 0.9999
    assert not torch.equal(slow, fast)


# --- JPEGs: simplejpeg's pixels are Pillow's --------------------------------------------------------


@pytest.fixture
def decoders(monkeypatch):
    """decoders(path, rule): prepared with simplejpeg's decoder and with Pillow's; and how often the first worked."""
    decode, worked = simplejpeg.decode_jpeg, []

    def counted(*args, **options):
        out = decode(*args, **options)
        worked.append(out)
        return out

    def both(path, rule=RULES["large"]):
        monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
        fast = prepare_fast(path, rule, exact(rule))
        monkeypatch.setattr(_pictures, "simplejpeg", None)
        without = prepare_fast(path, rule, exact(rule))
        monkeypatch.setattr(_pictures, "simplejpeg", simplejpeg)
        return fast, without, len(worked)

    return both


PHOTO = next(reversed(list(drawings((123, 157)))))


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("quality", [20, 90])
def test_pixels_of_every_sampling_are_those_of_pillow(tmp_path, decoders, sampling, quality):
    data = simplejpeg.encode_jpeg(PHOTO.astype(np.uint8), quality=quality, colorsubsampling=sampling)
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
@pytest.mark.parametrize("size", [(123, 157), (33, 16), (8, 9), (64, 7 * 16 + 1)])
def test_pixels_of_every_kind_of_jpeg_are_those_of_pillow(file, decoders, options, size):
    *_, photo = drawings(size)
    fast, without, worked = decoders(file(photo, "x.jpg", **options))
    assert worked == 1
    assert torch.equal(fast, without)


@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_of_grey_jpegs_are_those_of_pillow(file, decoders, progressive):
    path = file(Image.fromarray(PHOTO.astype(np.uint8)).convert("L"), "x.jpg", progressive=progressive)
    fast, without, worked = decoders(path)
    assert worked == 1
    assert torch.equal(fast, without)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_before_it_is_resized(file, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert difference(file(PHOTO, "x.jpg", exif=exif), RULES["bilinear"]).max() <= 2


def test_four_inks_are_left_to_pillow(file, decoders):
    picture = Image.fromarray(PHOTO.astype(np.uint8)).convert("CMYK")
    fast, without, worked = decoders(file(picture, "x.jpg"))
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
    rng, rule = np.random.default_rng(0), PictureRule(32, 32, resize="squash", resample="bilinear")
    out = io.BytesIO()
    Image.fromarray(PHOTO.astype(np.uint8)[:40, :40]).save(out, "JPEG", **KINDS.get(kind, {}))
    whole, reasons = out.getvalue(), set()
    for _ in range(150):
        data = bytearray(whole)
        for position in rng.integers(2, len(data), rng.integers(1, 4)):
            data[position] = rng.choice([0, 255, rng.integers(256)])
        (tmp_path / "x.jpg").write_bytes(data if rng.random() < 0.8 else data[: rng.integers(len(data))])
        fast = outcome(lambda: prepare_fast(tmp_path / "x.jpg", rule, exact(rule)))
        slow = outcome(lambda: exact(rule)(open_image(tmp_path / "x.jpg")))
        assert isinstance(fast, str) == isinstance(slow, str)
        if isinstance(fast, str):
            assert fast == slow
        else:
            assert np.abs(np.array(fast) - np.array(slow)).max() <= 2
        reasons.add(fast if isinstance(fast, str) else "taken")
    assert {"taken", "truncated or damaged"} <= reasons


# --- In threads -------------------------------------------------------------------------------------


def test_threads_change_neither_the_pixels_nor_anything_else(file):
    rule, threads, filters = RULES["large"], torch.get_num_threads(), list(warnings.filters)
    paths = [file(pixels, f"{k}.jpg") for k in range(6) for pixels in list(drawings((90, 120), k))[-1:]]
    alone = [prepare_fast(path, rule, exact(rule)) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: prepare_fast(path, rule, exact(rule)), paths * 5))
    assert all(torch.equal(one, other) for one, other in zip(alone * 5, together, strict=True))
    assert (torch.get_num_threads(), warnings.filters) == (threads, filters)
