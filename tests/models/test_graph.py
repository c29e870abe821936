"""Graphs: the sparse product and its gradient against the dense matrix."""

import copy

import pytest
import torch

from mmenc_plugin.models.blocks.graph import (
    Graph,
    averaging,
    bipartite,
    distinct,
    inverse_root,
    light_gcn,
    mean_of_layers,
    of_users,
    sparse_product,
    symmetrically_normalised,
)
from mmenc_plugin.types import Interactions

USERS, ITEMS = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([1, 2, 1, 0, 1, 2])


def dense_bipartite():
    """D^-1/2 A D^-1/2 by hand: 4 users, 4 items; user 2 and item 3 have nobody."""
    a = torch.zeros(8, 8, dtype=torch.float64)
    a[USERS, ITEMS + 4] = 1
    a = a + a.T
    degree = a.sum(1)
    root = degree.clamp(min=1).rsqrt() * (degree > 0)
    return root[:, None] * a * root[None, :]


def test_repeated_pairs_are_summed_and_the_product_is_the_dense_one():
    rows, columns = torch.tensor([2, 0, 0, 2]), torch.tensor([1, 3, 3, 0])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    dense = torch.zeros(3, 4, dtype=torch.float64).index_put_((rows, columns), values, accumulate=True)
    graph, x = Graph(rows, columns, values, (3, 4)), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(graph(x), dense @ x)
    assert torch.autograd.gradcheck(graph, (x,))
    torch.testing.assert_close(graph.matrix(transposed=True).to_dense(), dense.T)


def test_the_bipartite_graph_is_symmetrically_normalised():
    graph = bipartite(USERS, ITEMS, 4, 4).double()
    torch.testing.assert_close(graph.matrix().to_dense(), dense_bipartite(), rtol=1e-6, atol=1e-7)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(graph, (x,))  # by the matrix itself, which equals its transpose


def test_the_averaging_graph_gives_means_of_neighbours():
    graph, x = averaging(USERS, ITEMS, 4, 4).double(), torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    means = graph(x)
    torch.testing.assert_close(means[3], x[[4, 5, 6]].mean(0), rtol=1e-6, atol=1e-7)  # user 3 took items 0, 1, 2
    torch.testing.assert_close(means[5], x[[0, 1, 3]].mean(0), rtol=1e-6, atol=1e-7)  # item 1 went to users 0, 1, 3
    assert not means[[2, 7]].any()  # user 2 and item 3 have nobody
    assert torch.autograd.gradcheck(graph, (x,))


def test_pairs_are_taken_once():
    inter = Interactions(torch.tensor([1, 0, 1, 1]), torch.tensor([2, 1, 2, 0]), 2, 3)
    users, items = distinct(inter)
    assert (users.tolist(), items.tolist()) == ([0, 1, 1], [1, 0, 2])


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_light_gcn_is_the_mean_of_the_powers(n_layers):
    users, items = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    x, matrix = torch.cat([users, items]), dense_bipartite()
    expected = sum(torch.linalg.matrix_power(matrix, layer) @ x for layer in range(n_layers + 1)) / (n_layers + 1)
    found = light_gcn(bipartite(USERS, ITEMS, 4, 4).double(), users, items, n_layers)
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-6, atol=1e-7)


def test_normalising_leaves_empty_rows_empty():
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 0])
    values = symmetrically_normalised(rows, columns, torch.tensor([3.0, 1.0, 4.0]), 3)
    torch.testing.assert_close(values, torch.tensor([3.0 / 4, 1.0 / 4, 1.0]))
    assert not symmetrically_normalised(rows, columns, torch.zeros(3), 3).any()


def test_averaging_is_the_mean_of_neighbours_and_itself():
    a = dense_bipartite() > 0
    matrix = a.double() + torch.eye(8)
    expected = matrix / matrix.sum(1, keepdim=True)
    found = averaging(USERS, ITEMS, 4, 4, itself=True).double()
    torch.testing.assert_close(found.matrix().to_dense(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.matrix(transposed=True).to_dense(), expected.T, rtol=1e-6, atol=1e-7)


def test_the_part_of_the_users_is_that_of_the_bipartite_graph():
    found = of_users(USERS, ITEMS, 4, 4).matrix().to_dense().double()
    torch.testing.assert_close(found, dense_bipartite()[:4, 4:], rtol=1e-6, atol=1e-7)


def test_the_inverse_root_has_a_gradient_of_zero_where_there_is_nothing():
    sums = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
    root = inverse_root(sums)
    root.sum().backward()
    assert root.tolist() == [0.5, 0.0, 0.0]
    assert sums.grad.tolist() == [-0.0625, 0.0, 0.0]


def test_a_graph_is_not_saved_and_copies_share_it():
    graph = bipartite(USERS, ITEMS, 4, 4)
    twin = copy.deepcopy(graph)
    assert not graph.state_dict()
    assert twin.forth_values.data_ptr() == graph.forth_values.data_ptr()
    twin.double()
    assert graph.forth_values.dtype == torch.float32


def test_some_rows_are_those_of_the_matrix():
    rows, columns = torch.tensor([2, 0, 0, 2, 3]), torch.tensor([1, 3, 3, 0, 2])
    graph = Graph(rows, columns, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), (4, 4))
    wanted = torch.tensor([2, 1, 0, 2])
    found = graph.rows(wanted)
    assert torch.equal(found.to_dense(), graph.matrix().to_dense()[wanted])
    assert torch.equal(
        found.indices(),
        torch.sparse_coo_tensor(found.indices(), found.values(), check_invariants=True).coalesce().indices(),
    )
    assert graph.rows(wanted[:0]).shape == (0, 4)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_the_mean_of_layers_and_its_gradient_where_the_graph_is_not_symmetric(n_layers):
    graph = averaging(USERS, ITEMS, 4, 4).double()
    dense = graph.matrix().to_dense()
    users, items = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x = torch.cat([users, items])
    expected = sum(torch.linalg.matrix_power(dense, layer) @ x for layer in range(n_layers + 1)) / (n_layers + 1)
    torch.testing.assert_close(mean_of_layers(graph, (users, items), n_layers), expected)
    assert torch.autograd.gradcheck(lambda *parts: mean_of_layers(graph, parts, n_layers), (users, items))


def test_a_product_does_not_read_what_its_memory_held_before(monkeypatch):
    graph, nothing = bipartite(USERS, ITEMS, 4, 4), bipartite(USERS[:0], ITEMS[:0], 4, 4)
    x = torch.randn(8, 3)
    expected = graph.matrix().to_dense() @ x
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape: self.new_full(shape, torch.nan))
    torch.testing.assert_close(sparse_product(graph.matrix(), x), expected)
    torch.testing.assert_close(sparse_product(graph.matrix(), x, onto=x), expected + x)
    assert not sparse_product(nothing.matrix(), x).any()
