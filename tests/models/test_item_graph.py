"""Graphs of like items against dense cosines."""

import pytest
import torch
from dense import nearest, normalised, tiny

from mmenc_plugin.models.blocks.graph import Graph
from mmenc_plugin.models.blocks.item_graph import cosine_graph, nearest_items, nearest_rows, strongest


@pytest.mark.parametrize("k", [1, 3, 6, 50])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_cosine_graph_is_the_normalised_dense_one(modality, k):
    features = tiny()[0].double()
    found = cosine_graph(nearest_items(features, modality, k), 6).matrix().to_dense()
    expected = normalised(nearest(features.table(modality), features.present(modality), k))
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-6, atol=1e-6)
    assert (expected == 0).sum() < 36 or k == 1  # there is something to compare


def test_rows_of_zeros_have_no_neighbours_and_are_nobodys():
    edges = nearest_rows(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), 3)
    assert sorted(zip(edges.rows.tolist(), edges.columns.tolist(), strict=True)) == [(0, 0), (0, 2), (2, 0), (2, 2)]


def test_the_strongest_edges_of_several_graphs():
    one = torch.tensor([[0.0, 2.0, -3.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.5]])
    other = torch.tensor([[0.0, 1.0, 0.0], [0.0, 4.0, 0.0], [3.0, 0.0, 0.0]])
    graphs = [Graph(*m.nonzero().unbind(1), m[m != 0], (3, 3)) for m in (one, other)]
    expected = torch.tensor([[0.0, 2.0, -3.0], [0.0, 4.0, 0.0], [3.0, 0.0, 0.5]])
    assert torch.equal(strongest(graphs).matrix().to_dense(), expected)
    assert torch.equal(strongest(graphs[:1]).matrix().to_dense(), one)


def test_edges_are_those_that_the_graph_was_made_of():
    rows, columns, values = torch.tensor([2, 0, 2]), torch.tensor([1, 2, 0]), torch.tensor([1.0, 2.0, 3.0])
    found = Graph(rows, columns, values, (4, 3)).edges()
    assert [part.tolist() for part in found] == [[0, 2, 2], [2, 0, 1], [2.0, 3.0, 1.0]]
