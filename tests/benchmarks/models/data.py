"""Interactions and features with the shape of Amazon Baby, drawn from a seed, in the files of both hosts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

N_USERS, N_ITEMS, N_PAIRS = 19_445, 7_050, 160_792
WIDTHS = {"image": 4096, "text": 384}
N_TOPICS = 40
PARTS = ("train", "valid", "test")
NAME = "baby"  # MMRec has settings for a data set of this name


def write(folder: Path, seed: int = 0) -> None:
    """Write `mmrec/baby/` and `recbole/baby/`; items and users bear the same numbers in both."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, N_TOPICS, N_ITEMS)
    users, items = draw_pairs(rng, topics)
    part = split(rng, users)
    for host in ("mmrec", "recbole"):
        (folder / host / NAME).mkdir(parents=True)
    theirs, ours = folder / "mmrec" / NAME, folder / "recbole" / NAME
    rows = zip(users, items, part, strict=True)
    (theirs / f"{NAME}.inter").write_text("userID\titemID\tx_label\n" + "".join(f"{u}\t{i}\t{p}\n" for u, i, p in rows))
    for number, name in enumerate(PARTS):
        rows = zip(users[part == number], items[part == number], strict=True)
        lines = "".join(f"{u}\t{i}\n" for u, i in rows)
        (ours / f"{NAME}.{name}.inter").write_text("user_id:token\titem_id:token\n" + lines)
    (ours / f"{NAME}.item").write_text("item_id:token\n" + "".join(f"{i}\n" for i in range(N_ITEMS)))
    for modality, width in WIDTHS.items():
        np.save(features_path(folder, modality), draw_features(rng, topics, width))


def features_path(folder: Path, modality: str) -> Path:
    """Where the array [I, D] of a modality lies; row k is of item k."""
    return folder / "mmrec" / NAME / f"{modality}_feat.npy"


def draw_pairs(rng: np.random.Generator, topics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs, 5 a user and more, few items with many users, most of a user's items of one topic.

    Each user takes the items with the largest of: log of the item's popularity, liking of its topic, Gumbel noise.
    """
    popularity = rng.permutation((np.arange(N_ITEMS) + 30.0) ** -0.75)
    taken = 5 + rng.multinomial(N_PAIRS - 5 * N_USERS, rng.dirichlet(np.full(N_USERS, 0.4)))
    taken = np.minimum(taken, 300)
    taken[np.argsort(taken)[: N_PAIRS - taken.sum()]] += 1
    liked = rng.integers(0, N_TOPICS, N_USERS)
    items = []
    for user in range(N_USERS):
        chance = np.log(popularity) + 4.0 * (topics == liked[user]) + rng.gumbel(size=N_ITEMS)
        items.append(np.argpartition(-chance, taken[user])[: taken[user]])
    return np.repeat(np.arange(N_USERS), taken), np.concatenate(items)


def split(rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
    """Of each pair 0 (training), 1 (validation) or 2 (test): a tenth of a user's each, one at least."""
    part, counts = np.zeros(len(users), dtype=np.int64), np.bincount(users)
    for start, count in zip(np.cumsum(counts) - counts, counts, strict=True):
        order, held = rng.permutation(count), max(1, count // 10)
        part[start + order[:held]], part[start + order[held : 2 * held]] = 1, 2
    return part


def draw_features(rng: np.random.Generator, topics: np.ndarray, width: int) -> np.ndarray:
    """[I, width] float32: a direction of each topic, and noise; rows of length 1 or so, as encoders give them.

    Longer ones, as they are, drive LGMRec's softmaxes into numbers so small that processors take many times as long.
    """
    centres = rng.standard_normal((N_TOPICS, width), dtype=np.float32)
    values = centres[topics] + 1.5 * rng.standard_normal((len(topics), width), dtype=np.float32)
    return values / np.float32(np.sqrt(width * (1 + 1.5**2)))
