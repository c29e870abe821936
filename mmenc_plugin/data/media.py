"""Pictures: opened with care, refused with a reason.

A reason is a fixed sentence without names and sizes, so that reasons can be counted over a catalogue.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmenc_plugin.errors import MediaError

# Pillow hands on a JPEG of several pictures (MPO, as phones write for depth or brightness) with its first one.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "F", "I;16", "I;16B", "I;16L")
MAX_BYTES = 1 << 28  # of a file: a quarter of a gigabyte
MAX_PIXELS = 89_478_485  # Pillow's own bound: a quarter of a gigabyte of RGB
MAX_ASPECT = 50  # long side to short side; an encoder that resizes by the short side would need gigabytes
MIN_SIDE = 8  # pixels; anything smaller is a placeholder or a tracking pixel

_TOO_LARGE = f"more than {MAX_PIXELS:,} pixels"
_TILE_WIDTH, _TILE_HEIGHT, _BITS, _ORIENTATION = 322, 323, 258, 274  # tags of TIFF, the last also of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def resolve(image_dir: Path, name: str) -> Path:
    """The path of a picture, which must lie in `image_dir`, links followed.

    Raises:
        MediaError: no name, no file, or one outside `image_dir`.
    """
    if not name:
        raise MediaError("no picture is named")
    try:
        root = image_dir.resolve()
        path = (root / name).resolve()
        inside, there = path.is_relative_to(root), path.is_file()
    except OSError as error:
        raise MediaError(f"the file cannot be read: {error.strerror}") from error
    except (ValueError, RuntimeError) as error:  # a NUL in it, a ring of links
        raise MediaError("not a name that a file can have") from error
    if not inside:
        raise MediaError("the name leads out of the picture folder")
    if not there:
        raise MediaError("the file does not exist in the picture folder")
    return path


def open_image(path: Path) -> Image.Image:
    """Decode a picture, turned as its EXIF orientation says, in the mode of its file.

    What becomes of alpha, palettes, grey and CMYK is the encoder's affair, with two exceptions that Pillow
    itself gets wrong: integer grey of 12 or 16 bits comes scaled to 8 (Pillow cuts it at 255, so that most
    pictures are white), and a palette with alpha comes as RGBA (Pillow resizes the palette's numbers).
    Grey of 32 bits (modes I and F) is handed on, to be cut at 0 and 255 as every library does.

    Raises:
        MediaError: the file is damaged, of another format, animated, too large or too small.
    """
    return decoded(opened(path)[1])


def opened(path: Path) -> tuple[bytes, Image.Image]:
    """The bytes of a picture, and what its header says: everything is checked, nothing is decoded.

    Raises:
        MediaError: as for `open_image`.
    """
    data = _read(path)
    with _reasons():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check(image)
    return data, image


def decoded(image: Image.Image) -> Image.Image:
    """The picture of which `opened` gave the header; see `open_image`.

    Raises:
        MediaError: it is truncated or damaged.
    """
    with _reasons():
        image.load()
        turn = turn_of(image)  # after loading, since Pillow turns a TIFF itself
        image = _plain(image)
        return image if turn is None else _turned(image, turn)


def to_rgb(image: Image.Image, alpha: Literal["drop", "white"]) -> Image.Image:
    """A picture of any mode in RGB, transparent parts dropped or laid on white."""
    if alpha == "white" and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What brings the picture upright, by its EXIF orientation; None where it is, or says nothing readable."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # on damaged EXIF, Pillow raises whatever its parsing runs into; the pixels may be whole
        return None


def _turned(image: Image.Image, turn: Image.Transpose) -> Image.Image:
    image = image.transpose(turn)
    for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):  # so that nobody turns it again
        image.info.pop(name, None)
    return image


def _read(path: Path) -> bytes:
    """The bytes of a file, all at once, so that what is checked is what is decoded."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MediaError("not a regular file")
            if status.st_size > MAX_BYTES:
                raise MediaError(f"a file of more than {MAX_BYTES >> 20} MiB")
            return file.read(status.st_size)
    except OSError as error:
        raise MediaError(f"the file cannot be read: {error.strerror}") from error


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes into is opened too, not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever Pillow raises becomes a MediaError."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # on damaged bytes, Pillow's decoders raise whatever their parsing runs into
        raise MediaError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture of a known format ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return _TOO_LARGE
    if isinstance(error, MemoryError):
        return "more memory is needed than there is"
    if any(words in str(error).lower() for words in ("decompressed data too large", "in text chunks")):  # of a PNG
        return "more data beside the picture than Pillow takes"
    return "truncated or damaged"


def _check(image: Image.Image) -> None:
    width, height = image.size
    tags = getattr(image, "tag_v2", {})
    # A tile of a TIFF is decoded whole, however small the picture that it holds.
    if max(width * height, int(tags.get(_TILE_WIDTH, 1)) * int(tags.get(_TILE_HEIGHT, 1))) > MAX_PIXELS:
        raise MediaError(_TOO_LARGE)
    if min(width, height) < MIN_SIDE:
        raise MediaError(f"a side under {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(f"one side over {MAX_ASPECT} times the other")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise MediaError("animated, or of several pages; save the one that shows the item")
    if image.mode not in MODES:
        raise MediaError(f"colours stored as {image.mode}; convert it to RGB")


def _plain(image: Image.Image) -> Image.Image:
    """Modes that Pillow itself resizes or converts wrongly: see `open_image`."""
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))[0]
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> (bits - 8)).astype(np.uint8))
    return image
