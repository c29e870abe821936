"""What was bought together: counts, order and loss on cases with known answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmenc_plugin.errors import DataError
from mmenc_plugin.training.bought import HEAVIEST, MOST, Bought, bought_loss
from mmenc_plugin.training.contrast import matches
from mmenc_plugin.training.pairs import read_pairs


@pytest.fixture
def pairs(make_items, tmp_path):
    return read_pairs(make_items(8), tmp_path)


def test_users_that_are_shared_are_counted(pairs):
    took = {"a": [0, 1, 2], "b": [0, 1, 1], "c": [1], "d": [5, 0]}
    users, taken = zip(*((user, f"i{item}") for user, items in took.items() for item in items), strict=True)
    counts = Bought(pairs, users, [*taken[:-1], "no such item"]).counts.toarray()
    expected = np.zeros((8, 8), dtype=int)
    for i, j, n in ((0, 1, 2), (0, 2, 1), (1, 2, 1)):
        expected[i, j] = expected[j, i] = n
    assert np.array_equal(counts, expected)


def test_rows_are_bounded_and_best_sellers_too(make_items, tmp_path, monkeypatch):
    pairs = read_pairs(make_items(60), tmp_path)
    users = [user for user in range(50) for _ in range(60)]
    monkeypatch.setattr("mmenc_plugin.training.bought._BLOCK", 7)
    counts = Bought(pairs, users, [f"i{item}" for _ in range(50) for item in range(60)]).counts
    assert counts.data.max() == HEAVIEST
    assert counts.nnz <= 2 * MOST * 60
    assert counts.diagonal().sum() == 0


def test_an_order_puts_partners_side_by_side(pairs):
    bought = Bought(pairs, [1, 1, 2, 2, 3, 3], ["i0", "i5", "i2", "i7", "i1", "i6"])
    for epoch in range(5):
        order = bought.order(np.array([0, 1, 2, 3, 4, 5, 7]), 0, epoch).tolist()
        assert sorted(order) == [0, 1, 2, 3, 4, 5, 7]  # 6 is held out, and stays out
        for one, other in ((0, 5), (2, 7)):
            assert abs(order.index(one) - order.index(other)) == 1
    assert bought.order(np.arange(8), 0, 0).tolist() != bought.order(np.arange(8), 0, 1).tolist()


def test_the_loss_is_that_of_the_weighted_targets(pairs):
    bought = Bought(pairs, [1, 1, 2, 2, 3, 3, 4, 4], ["i0", "i1", "i0", "i1", "i0", "i2", "i5", "i6"])
    batch = np.array([2, 0, 4, 1])
    images, texts = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    true = matches(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0]))  # 2 and 1 have one text
    loss = bought_loss(images, texts, torch.tensor(4.0, dtype=torch.float64), bought.targets(batch), true)
    scores = 4 * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.eye(4, dtype=torch.bool)
    own[0, 3] = own[3, 0] = True
    weights = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 2], [0, 0, 0, 0], [0, 2, 0, 0]], dtype=torch.float64)

    def one_way(scores):
        logs = scores.masked_fill(own, -torch.inf).log_softmax(1).masked_fill(own, 0)
        return -(weights * logs).sum(1)[[0, 1, 3]] / weights.sum(1)[[0, 1, 3]]

    torch.testing.assert_close(loss, (one_way(scores) + one_way(scores.T)).mean() / 2, rtol=1e-12, atol=0)


def test_a_batch_without_partners_has_no_loss(pairs):
    bought = Bought(pairs, [1, 1], ["i0", "i1"])
    images = torch.randn(2, 3, requires_grad=True)
    true = matches(torch.arange(2), torch.arange(2))
    loss = bought_loss(images, torch.randn(2, 3), torch.tensor(2.0), bought.targets(np.array([0, 4])), true)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, images)[0].abs().max() == 0


def test_no_items_together_is_refused(pairs):
    with pytest.raises(DataError, match="no user of the 2 interactions of the training part took two different"):
        Bought(pairs, [1, 2], ["i0", "i1"])
