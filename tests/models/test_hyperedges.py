"""Hyperedges: the contrast in few dimensions is that of the embeddings themselves."""

import torch

from mmenc_plugin.models.blocks.contrast import info_nce
from mmenc_plugin.models.blocks.hyperedges import contrast, over_hyperedges

N_USERS, N_ITEMS, K, D = 6, 9, 3, 8


def draw(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = ((N_USERS, K), (N_ITEMS, K), (N_ITEMS, D))
    return [torch.rand(shape, dtype=torch.float64, generator=g).requires_grad_() for shape in shapes]


def test_what_comes_over_two_passes():
    users, items, embeddings = draw(0)
    found = over_hyperedges(users, items, embeddings, 2).embeddings
    once = items @ (items.T @ embeddings)
    torch.testing.assert_close(found, (users @ (items.T @ once), items @ (items.T @ once)))


def test_the_contrast_is_info_nce_of_the_embeddings():
    parts = draw(1), draw(2)
    with torch.no_grad():
        parts[1][0][2] = 0  # a user who belongs to no hyperedge
    a, b = (over_hyperedges(*part, 1) for part in parts)
    leaves = [tensor for part in parts for tensor in part]
    for side, rows in enumerate((torch.tensor([4, 2, 2, 0]), torch.tensor([8, 3, 3]))):
        found = contrast(a, b, side, rows, 0.3)
        plain = info_nce(a.embeddings[side][rows], b.embeddings[side], 0.3, rows)
        torch.testing.assert_close(found, plain)
        for x, mine, theirs in zip(
            leaves, *(torch.autograd.grad(y, leaves, retain_graph=True, allow_unused=True) for y in (found, plain)),
            strict=True,
        ):  # fmt: skip
            if theirs is None:
                assert mine is None
                continue
            moved = torch.ones(len(x), dtype=torch.bool)
            if x is parts[1][0]:
                moved[2] = False  # its direction is not defined
            torch.testing.assert_close(mine[moved], theirs[moved])
