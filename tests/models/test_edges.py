"""Edges with computed weights: values and gradients against dense matrices."""

import copy

import pytest
import torch

from mmenc_plugin.models.blocks import learned_graph
from mmenc_plugin.models.blocks.edges import Edges

USERS, ITEMS = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([1, 2, 1, 0, 1, 2])  # user 2, item 3: nobody
N_USERS, N_ITEMS = 4, 4


@pytest.fixture(params=[2, 1 << 16], ids=["many chunks", "one chunk"])
def edges(request, monkeypatch):
    monkeypatch.setattr(learned_graph, "CHUNK", request.param)
    return Edges(USERS, ITEMS, N_USERS, N_ITEMS)


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def dense(weights):
    return torch.zeros(N_USERS, N_ITEMS, dtype=weights.dtype).index_put((USERS, ITEMS), weights)


def test_sums_are_products_with_the_dense_matrix(edges):
    weights, users, items = random(6), random(N_USERS, 3), random(N_ITEMS, 3)
    torch.testing.assert_close(edges.to_users(weights, items), dense(weights) @ items)
    torch.testing.assert_close(edges.to_items(weights, users), dense(weights).T @ users)
    assert torch.autograd.gradcheck(edges.to_users, (weights, items))
    assert torch.autograd.gradcheck(edges.to_items, (weights, users))


def test_dots_are_entries_of_the_dense_product(edges):
    users, items = random(N_USERS, 3), random(N_ITEMS, 3)
    torch.testing.assert_close(edges.dots(users, items), (users @ items.T)[USERS, ITEMS])
    assert torch.autograd.gradcheck(edges.dots, (users, items))


def test_softmax_is_over_a_users_and_over_an_items_edges(edges):
    scores = random(6)
    with torch.no_grad():
        by_row = torch.full((N_USERS, N_ITEMS), -torch.inf, dtype=torch.float64).index_put((USERS, ITEMS), scores)
        torch.testing.assert_close(edges.softmax_of_users(scores), by_row.softmax(1)[USERS, ITEMS])
        torch.testing.assert_close(edges.softmax_of_items(scores), by_row.softmax(0)[USERS, ITEMS])
    assert torch.autograd.gradcheck(edges.softmax_of_users, (scores,))
    assert torch.autograd.gradcheck(edges.softmax_of_items, (scores,))


def test_edges_are_not_saved_and_copies_share_them(edges):
    twin = copy.deepcopy(edges)
    assert not edges.state_dict()
    assert twin.items.data_ptr() == edges.items.data_ptr()


def test_no_edges_give_zeros():
    none = torch.zeros(0, dtype=torch.int64)
    edges = Edges(none, none, 2, 3)
    assert not edges.to_users(torch.zeros(0), torch.ones(3, 2)).any()
    assert edges.dots(torch.ones(2, 2), torch.ones(3, 2)).shape == (0,)
