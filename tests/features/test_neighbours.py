"""Features from the items that the same users took, against a count in loops."""

import pytest
import torch

from mmenc_plugin.features import AlignedFeatures
from mmenc_plugin.features.neighbours import fill_from_neighbours

ITEMS, USERS = 12, 9


@pytest.fixture
def shop():
    """A padding row, three items without the modality, a repeated pair."""
    generator = torch.Generator().manual_seed(0)
    present = torch.ones(ITEMS, dtype=torch.bool)
    present[[0, 2, 5, 7]] = False
    values = torch.randn(ITEMS, 3, generator=generator)
    taken = torch.rand(USERS, ITEMS, generator=generator) < 0.4
    taken[:, [0, 7]] = False  # nobody took item 7
    users, items = taken.nonzero().T
    return AlignedFeatures(values, present), torch.cat([users, users[:1]]), torch.cat([items, items[:1]])


def by_hand(table, users, items, n):
    pairs = set(zip(users.tolist(), items.tolist(), strict=True))
    takers = {i: {u for u, j in pairs if i == j} for i in range(ITEMS)}
    out = table.values.clone()
    for i in range(ITEMS):
        if not table.present[i]:
            shared = {j: len(takers[i] & takers[j]) for j in range(ITEMS) if table.present[j]}
            best = sorted((j for j in shared if shared[j]), key=lambda j: (-shared[j], j))[:n]
            if best:
                out[i] = table.values[best].mean(0)
    return out


@pytest.mark.parametrize("n", [1, 2, 4, 100])
def test_it_is_the_mean_of_those_that_share_most_users(shop, n):
    table, users, items = shop
    filled = fill_from_neighbours(table, users, items, n)
    torch.testing.assert_close(filled.values, by_hand(table, users, items, n))
    assert torch.equal(filled.present, table.present)
    assert not torch.equal(filled.values[2], table.values[2])


def test_items_that_share_nobody_and_the_padding_keep_what_they_had(shop):
    table, users, items = shop
    assert torch.equal(fill_from_neighbours(table, users, items).values[[0, 7]], table.values[[0, 7]])


def test_nothing_to_fill_or_to_fill_from(shop):
    table, users, items = shop
    for marks in (torch.ones_like(table.present), torch.zeros_like(table.present)):
        same = AlignedFeatures(table.values, marks)
        assert torch.equal(fill_from_neighbours(same, users, items).values, table.values)
    assert torch.equal(fill_from_neighbours(table, users[:0], items[:0]).values, table.values)
