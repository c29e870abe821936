"""Pictures: opened with care, refused with a reason."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmenc_plugin.errors import MediaError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485  # Pillow's own bound: a quarter of a gigabyte of RGB
MAX_ASPECT = 50  # long side to short side; an encoder that resizes by the short side would need gigabytes
MIN_SIDE = 8  # pixels; anything smaller is a placeholder or a tracking pixel


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
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a ring of links
        raise MediaError(f"'{name[:80]}' is not a name that a file can have") from None
    if not inside:
        raise MediaError(f"'{name}' leads out of the picture folder")
    if not there:
        raise MediaError(f"'{name}' does not exist in the picture folder")
    return path


def open_image(path: Path) -> Image.Image:
    """Decode a picture, turned as its EXIF orientation says, in the mode of its file.

    Raises:
        MediaError: the file is damaged, of another format, animated, CMYK, too large or too small.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check(image)
                image.load()
                return _plain(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise MediaError(f"not a picture of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise MediaError(f"more than {MAX_PIXELS:,} pixels") from None
    except MediaError:
        raise
    except Exception as error:  # on damaged bytes, Pillow's decoders raise whatever their parsing runs into
        raise MediaError(f"truncated or damaged: {error}") from None


def _plain(image: Image.Image) -> Image.Image:
    """Modes that Pillow itself resizes or converts wrongly: 16 bits are cut at 255, a palette's numbers mixed."""
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return image


def _check(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise MediaError(f"{width:,} x {height:,} pixels, more than {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise MediaError(f"{width} x {height} pixels, a side under {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(f"{width:,} x {height:,} pixels, one side over {MAX_ASPECT} times the other")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise MediaError(f"animated ({image.n_frames} frames); save the frame that shows the item")  # type: ignore[attr-defined]
    if image.mode == "CMYK":
        raise MediaError("CMYK, whose colours need a print profile; convert it to RGB")
