"""Inputs of score_topk, and its answer by Python's own sort."""

import importlib.util
from itertools import pairwise

import torch

from mmenc_plugin.kernels.score_topk import cpu

SCORERS = ["cpu", "reference", *(["triton"] if importlib.util.find_spec("triton") else [])]


def whole_numbers(*shape, dtype=torch.float32, seed=0, largest=3):
    """Small whole numbers: their products are exact in any order and type, and tie often."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).to(dtype)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def csr(rows):
    """CSR of a list of lists."""
    counts = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    ids = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), ids


def rows_of(pair):
    """The list of lists of a CSR."""
    offsets, ids = (part.tolist() for part in pair)
    return [ids[low:high] for low, high in pairwise(offsets)]


def random_csr(users, items, most=10, seed=0):
    """Up to `most` item rows a user, unsorted; some users have none, and some rows stand twice."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, most + 1, (users,), generator=generator).tolist()
    return csr([torch.randint(0, items, (count,), generator=generator).tolist() for count in counts])


def by_hand(users, items, k, bias=None, exclude=None, candidates=None, targets=None):
    """[(row, score), ...] of each user, best first, and (above, tied, tied before) of each target."""
    allowed = range(len(items)) if candidates is None else sorted(candidates.tolist())
    lists, ranks = [], []
    for user, vector in enumerate(users.double().tolist()):
        out = set() if exclude is None else set(rows_of(exclude)[user])
        scores = [
            sum(a * b for a, b in zip(vector, item, strict=True)) + (0.0 if bias is None else bias[row].item())
            for row, item in enumerate(items.double().tolist())
        ]
        open_ = [row for row in allowed if row not in out and scores[row] > float("-inf")]
        best = [(row, scores[row]) for row in sorted(open_, key=lambda row: (-scores[row], row))[:k]]
        lists.append(best + [(-1, float("-inf"))] * (min(k, len(allowed)) - len(best)))
        for target in [] if targets is None else rows_of(targets)[user]:
            others = [row for row in open_ if row != target]
            ties = [row for row in others if scores[row] == scores[target]]
            ranks.append(
                (sum(scores[row] > scores[target] for row in others), len(ties), sum(t < target for t in ties))
            )
    return lists, ranks


def found(top):
    """A TopK in the form of `by_hand`."""
    lists = [list(zip(*row, strict=True)) for row in zip(top.ids.tolist(), top.scores.tolist(), strict=True)]
    counts = [] if top.ranks is None else [top.ranks.above, top.ranks.tied, top.ranks.tied_before]
    return lists, list(zip(*(count.tolist() for count in counts), strict=True))


def assert_same(top, expected):
    """Every number the same."""
    assert torch.equal(top.ids, expected.ids)
    assert torch.equal(top.scores, expected.scores)
    assert (top.ranks is None) == (expected.ranks is None)
    if expected.ranks is not None:
        for name in ("above", "tied", "tied_before"):
            assert torch.equal(getattr(top.ranks, name), getattr(expected.ranks, name)), name


def small_tiles(monkeypatch, rows, width, group):
    """Tiles of `rows` users by `width` items."""
    monkeypatch.setattr(cpu, "ROWS", rows)
    monkeypatch.setattr(cpu, "AREA", rows * width)
    monkeypatch.setattr(cpu, "VALUES", 1)
    monkeypatch.setattr(cpu, "WIDEST", width)
    monkeypatch.setattr(cpu, "GROUP", group)
    monkeypatch.setattr(cpu, "FIRST", 2)
    monkeypatch.setattr(cpu, "WAITING", 1)
