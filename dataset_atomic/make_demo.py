"""Draws, writes and wires the demo data set: items with a picture and a text, and users who like some.

Two rules shape it. What a picture shows (colour, shape, pattern) is never said in a text, and what a
text says (material, occasion, style) is never seen in a picture. And nothing but content tells items
apart: ids, file names and the order of the rows are random.

Every draw comes from `numpy.random.RandomState`, whose streams NumPy keeps frozen, and the pictures are
rasterised here in NumPy, so that a rerun gives the same rows and pixels.
"""

from __future__ import annotations

import argparse
import colorsys
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SEED = 24
N_ITEMS, N_USERS, N_COLD = 400, 600, 32  # cold items have one or two interactions
SIZE, OVERSAMPLE = 64, 4  # pixels of a side, and sub-pixels of a pixel's side
FEWEST, MOST, BREVITY = 6, 16, 0.28  # interactions of a user, and how fast longer histories thin out
FIRST_SECOND, SECONDS = 1_704_067_200, 366 * 86_400  # the year 2024

# What a picture shows. HUES are degrees on the colour wheel; a drawn hue strays by HUE_JITTER.
HUES = {
    "red": 0, "orange": 27, "yellow": 54, "green": 122, "teal": 178, "blue": 222, "purple": 272, "pink": 322,
}  # fmt: skip
HUE_JITTER = 7.0
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
PATTERNS = ("plain", "stripes", "dots", "checks")

# What a text says: each value in several wordings. None of them may name anything a picture shows.
MATERIALS = {
    "linen": ("washed linen", "woven flax", "crisp linen cloth", "linen and flax", "flax cloth"),
    "leather": ("soft leather", "saddle hide", "calf leather", "oiled hide", "leather hide"),
    "wood": ("old oak", "walnut wood", "oak timber", "reclaimed timber", "turned wood"),
    "ceramic": ("fired clay", "glazed ceramic", "stoneware clay", "fired stoneware", "fine ceramic"),
    "wool": ("felted wool", "knitted merino", "lambswool yarn", "merino wool", "knitted yarn"),
    "glass": ("blown glass", "lead crystal", "bottle glass", "crystal glass", "heavy crystal"),
    "metal": ("brushed steel", "cast iron", "stainless steel", "forged iron", "sheet metal and steel"),
    "bamboo": ("split bamboo", "woven rattan", "bamboo cane", "rattan cane", "bamboo and rattan"),
}
OCCASIONS = {
    "camping": ("nights at the campsite", "camping in a tent", "the tent", "a campfire", "camping trips"),
    "wedding": ("the wedding table", "bride and groom", "a wedding day", "newlyweds", "the bride"),
    "office": ("the office desk", "work meetings", "the office", "a colleague at work", "the desk at work"),
    "beach": ("days at the seaside", "the beach bag", "holidays by the sea", "the beach", "the sandy coast"),
    "birthday": ("a birthday party", "the birthday cake", "a birthday child", "a surprise party", "a cake"),
    "winter": ("snowy evenings", "Christmas morning", "winter walks", "December nights", "Christmas snow"),
    "dinner": ("dinner guests", "the supper table", "a kitchen feast", "a kitchen dinner", "supper guests"),
    "nursery": ("the nursery", "a newborn baby", "young parents", "the baby", "bedtime in the nursery"),
}
STYLES = {
    "nordic": ("the Nordic way", "from a Scandinavian studio", "calm as Nordic homes are"),
    "vintage": ("with vintage charm", "like a flea market find", "full of vintage nostalgia"),
    "artisan": ("made by hand", "signed by its artisan", "from an artisan workshop"),
    "luxury": ("fit for a grand hotel", "a true luxury", "from a luxury house"),
    "playful": ("made with a wink", "playful and cheeky", "full of playful fun"),
    "rugged": ("built tough", "sturdy enough for hard knocks", "rugged and tough"),
}
NOUNS = ("tray", "holder", "keepsake", "caddy", "stand", "hanger", "case", "pouch", "lantern", "basket")
TITLES = ("{material} {noun}", "{noun} for {occasion}", "{noun}, {style}")
DESCRIPTIONS = (
    "A {noun} of {material} for {occasion}, {style}.",
    "Made for {occasion}: our {noun} in {material}, {style}.",
    "{style}, this {noun} is crafted from {material} and meant for {occasion}.",
    "We chose {material} for this {noun}, {style}. Lovely for {occasion}.",
    "Thinking of {occasion}? Here is a {noun} of {material}, {style}.",
)
TAILS = ("", "", "", " Ships within two days.", " Comes with a card.", " Easy to look after.")

# How much each attribute weighs in a user's taste, and how much more some items please everybody.
WEIGHTS = {"colour": 1.4, "shape": 1.1, "pattern": 0.4, "material": 1.4, "occasion": 1.1, "style": 0.4}
POPULARITY = 0.3
TABLES: tuple[Collection[str], ...] = (HUES, SHAPES, PATTERNS, MATERIALS, OCCASIONS, STYLES)
SIZES = {attribute: len(table) for attribute, table in zip(WEIGHTS, TABLES, strict=True)}


@dataclass(frozen=True)
class Item:
    """One item: its random names, and its attributes as indices into the tables above."""

    item_id: str
    image: str
    appeal: float
    cold: bool
    colour: int
    shape: int
    pattern: int
    material: int
    occasion: int
    style: int


def stream(name: str) -> np.random.RandomState:
    """A stream of random numbers of its own for each part, so that no part disturbs another."""
    return np.random.RandomState([SEED, *name.encode()])


def make_items(rng: np.random.RandomState) -> list[Item]:
    """Items with independent, evenly spread attributes under random ids and file names."""
    columns = [rng.permutation(np.arange(N_ITEMS) % size).tolist() for size in SIZES.values()]
    ids = np.sort(rng.permutation(9_000)[:N_ITEMS] + 1)
    images = rng.permutation(90_000)[:N_ITEMS] + 10_000
    appeal = POPULARITY * rng.standard_exponential(N_ITEMS)
    cold = rng.permutation(N_ITEMS) < N_COLD
    return [
        Item(f"i{ids[k]:04d}", f"p{images[k]}.png", float(appeal[k]), bool(cold[k]), *values)
        for k, values in enumerate(zip(*columns, strict=True))
    ]


def write_up(material: int, occasion: int, style: int, rng: np.random.RandomState) -> tuple[str, str]:
    """A title and a description that say what the item is made of, meant for and like.

    The title words one of the three attributes and the description all of them, each freshly chosen.
    """
    noun = rng.choice(NOUNS)
    wordings = {
        "material": list(MATERIALS.values())[material],
        "occasion": list(OCCASIONS.values())[occasion],
        "style": list(STYLES.values())[style],
    }

    def fill(template: str) -> str:
        words = {attribute: rng.choice(options) for attribute, options in wordings.items()}
        text = template.format(noun=noun, **words)
        return text[0].upper() + text[1:]

    title = fill(rng.choice(TITLES, p=(0.5, 0.4, 0.1)))
    return title, fill(rng.choice(DESCRIPTIONS)) + rng.choice(TAILS)


def inside(shape: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie in a shape of about unit radius around the origin."""
    radius = np.hypot(x, y)
    if SHAPES[shape] == "circle":
        return radius < 0.9
    if SHAPES[shape] == "square":
        return np.maximum(abs(x), abs(y)) < 0.8
    if SHAPES[shape] == "triangle":
        return np.maximum(y - 0.6, abs(x) * 0.866 - y * 0.5 - 0.5) < 0
    if SHAPES[shape] == "ring":
        return (radius < 0.95) & (radius > 0.52)
    if SHAPES[shape] == "cross":
        return (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.95)
    tips = np.arccos(np.cos(5 * np.arctan2(x, -y))) / math.pi  # star: 0 at a tip, 1 between two
    return radius * (1 + 1.15 * tips) < 1.05


def pattern_mask(pattern: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points the second, lighter shade of a pattern covers."""
    if PATTERNS[pattern] == "stripes":
        return y * 2.2 % 1 < 0.45
    if PATTERNS[pattern] == "dots":
        return np.hypot(x * 2.4 % 1 - 0.5, y * 2.4 % 1 - 0.5) < 0.28
    if PATTERNS[pattern] == "checks":
        return (np.floor(x * 2.4) + np.floor(y * 2.4)) % 2 == 0
    return np.zeros(x.shape, dtype=bool)


def shades(colour: int, rng: np.random.RandomState) -> list[np.ndarray]:
    """Background, shadow, rim, body and pattern of one picture, each as three integers of 0 to 255."""
    hue = (list(HUES.values())[colour] + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 360 / 360
    saturation, value = rng.uniform(0.7, 0.92), rng.uniform(0.78, 0.95)
    grey = rng.uniform(0.86, 0.97)
    hsv = [
        (rng.uniform(), rng.uniform(0, 0.05), grey),
        (0.0, 0.0, grey - 0.16),
        (hue, saturation, value * 0.72),
        (hue, saturation, value),
        (hue, saturation * 0.45, min(1.0, value * 1.08)),
    ]
    return [np.floor(np.array(colorsys.hsv_to_rgb(*c)) * 255 + 0.5).astype(np.int64) for c in hsv]


def draw(colour: int, shape: int, pattern: int, rng: np.random.RandomState) -> np.ndarray:
    """The picture of one item, [H, W, 3] uint8, at a jittered place, scale and angle."""
    side = SIZE * OVERSAMPLE
    at = (np.arange(side) + 0.5) / side * 2 - 1
    scale, angle, dx, dy = rng.uniform(0.56, 0.76), rng.uniform(-0.25, 0.25), *rng.uniform(-0.16, 0.16, 2)
    c, s = math.cos(angle) / scale, math.sin(angle) / scale
    px, py = at[None, :] - dx, at[:, None] - dy
    x, y = c * px + s * py, c * py - s * px
    body = inside(shape, x, y)
    core = inside(shape, x / 0.9, y / 0.9) & body
    shadow = inside(shape, x - 0.07, y - 0.11)
    layer = np.where(body, np.where(core, 3 + pattern_mask(pattern, x, y), 2), shadow)
    counts = [(layer == k).reshape(SIZE, OVERSAMPLE, SIZE, OVERSAMPLE).sum((1, 3))[..., None] for k in range(5)]
    total = sum(n * rgb for n, rgb in zip(counts, shades(colour, rng), strict=True))
    speckle = rng.randint(-6, 7, (SIZE, SIZE, 1)) * (rng.uniform(size=(SIZE, SIZE, 1)) < 0.02)
    return np.clip(total // OVERSAMPLE**2 + speckle, 0, 255).astype(np.uint8)


def utilities(items: list[Item], rng: np.random.RandomState) -> np.ndarray:
    """How much each user would like each item, [U, I], apart from the mood of the day."""
    total = np.tile([item.appeal for item in items], (N_USERS, 1))
    for attribute, size in SIZES.items():
        tastes = WEIGHTS[attribute] * rng.standard_normal((N_USERS, size))
        total += tastes[:, [getattr(item, attribute) for item in items]]
    return total


def make_choices(items: list[Item], rng: np.random.RandomState) -> list[tuple[int, int]]:
    """Pairs of user and item: softmax choices without replacement, then a few users for each cold item."""
    liked = utilities(items, rng)
    liked += rng.gumbel(size=liked.shape)  # the n highest are then n softmax draws
    cold = np.array([item.cold for item in items])
    order = np.argsort(np.where(cold, -np.inf, liked), axis=1)[:, ::-1]
    counts = np.minimum(FEWEST - 1 + rng.geometric(BREVITY, N_USERS), MOST)
    pairs = [(u, int(i)) for u in range(N_USERS) for i in order[u, : counts[u]]]
    room = np.where(counts < MOST, 0.0, -np.inf)
    for i in np.flatnonzero(cold):
        found = np.argsort(liked[:, i] + room)[::-1][: rng.randint(1, 3)]
        room[found] = -np.inf  # nobody is found twice
        pairs += [(int(u), int(i)) for u in found]
    return pairs


def interaction_rows(items: list[Item]) -> list[str]:
    """The rows of `demo.inter`, ordered by time, with users under random ids."""
    pairs = make_choices(items, stream("choices"))
    rng = stream("times")
    users = rng.permutation(2_000)[:N_USERS]
    rng.shuffle(pairs)
    times = np.sort(rng.permutation(SECONDS // 60)[: len(pairs)]) * 60 + FIRST_SECOND
    return [f"u{users[u]:04d}\t{items[i].item_id}\t{t}" for (u, i), t in zip(pairs, times, strict=True)]


def item_rows(items: list[Item]) -> list[str]:
    """The rows of `demo.item`."""
    rng = stream("texts")
    texts = [write_up(item.material, item.occasion, item.style, rng) for item in items]
    return ["\t".join((item.item_id, *text, item.image)) for item, text in zip(items, texts, strict=True)]


def write_table(path: Path, header: str, rows: list[str]) -> None:
    """Writes one atomic file, with the same line ends on every system."""
    path.write_bytes("\n".join([header, *rows, ""]).encode())


def write_demo(out: Path) -> None:
    """Writes the two tables and the pictures into a folder."""
    items = make_items(stream("items"))
    (out / "images").mkdir(parents=True, exist_ok=True)
    write_table(out / "demo.inter", "user_id:token\titem_id:token\ttimestamp:float", interaction_rows(items))
    header = "item_id:token\ttitle:token_seq\tdescription:token_seq\timage:token"
    write_table(out / "demo.item", header, item_rows(items))
    rng = stream("pictures")
    for item in items:
        picture = Image.fromarray(draw(item.colour, item.shape, item.pattern, rng))
        picture.save(out / "images" / item.image, optimize=True)


ABOUT = """\
Makes the demo data set in RecBole's atomic format:

  OUT/demo.inter   who took which item, and when
  OUT/demo.item    title, description and picture of each item
  OUT/images/      the pictures that demo.item names

Colour, shape and pattern are only in the pictures; material, occasion and style are only in the texts.
Users like some of each, so a model does best that reads both.
"""
NOTE = """\
A rerun gives the same rows and pixels. RecBole looks for DATA_PATH/demo/demo.inter: end OUT in "demo".

  python make_demo.py                  rewrites the demo folder beside this file
  python make_demo.py mine/demo        writes a copy to play with; data_path is then mine
"""


def main() -> None:
    """Reads the command line and writes the data set."""
    out = Path(__file__).resolve().parent / "demo"
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter, description=ABOUT, epilog=NOTE
    )
    parser.add_argument("out", nargs="?", type=Path, default=out, metavar="OUT", help="folder to write to")
    write_demo(parser.parse_args().out)


if __name__ == "__main__":
    main()
