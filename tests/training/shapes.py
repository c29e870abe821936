"""Items whose texts, at most 13 letters long, say what their pictures show: a colour above another."""

import itertools

import numpy as np
from PIL import Image

from mmenc_plugin.types import ItemTable

COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "yellow": (230, 220, 40),
    "black": (10, 10, 10), "white": (245, 245, 245), "purple": (150, 40, 170), "orange": (240, 140, 20),
    "grey": (128, 128, 128),
}  # fmt: skip


def make_shapes(folder, n=None):
    """All pairs of colours, in a shuffled order, or the first n of them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pairs = list(itertools.product(COLOURS, COLOURS))
    pairs = [pairs[k] for k in rng.permutation(len(pairs))][:n]
    for k, (above, below) in enumerate(pairs):
        pixels = np.concatenate([np.full((16, 32, 3), COLOURS[colour]) for colour in (above, below)])
        noisy = (pixels + rng.integers(-10, 10, pixels.shape)).clip(0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / "images" / f"{k}.png")
    texts = [f"{above} {below}" for above, below in pairs]
    return ItemTable(
        [f"i{k}" for k in range(len(pairs))], texts, [f"{k}.png" for k in range(len(pairs))], folder / "images"
    )
