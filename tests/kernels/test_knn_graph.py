"""knn_graph against all cosines sorted, in float64."""

import sys

import pytest
import torch

from mmenc_plugin.kernels import knn_graph
from mmenc_plugin.kernels.knn_graph import BLOCK


def table(n=60, d=7, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similarities(tables, weights):
    """[I, I] the definition, a pair at a time."""
    total = sum(weights)
    n = len(tables[0])
    out = torch.zeros(n, n, dtype=torch.float64)
    for features, weight in zip(tables, weights, strict=True):
        for i in range(n):
            for j in range(n):
                norms = features[i].norm() * features[j].norm()
                out[i, j] += weight / total * (features[i] @ features[j] / norms if norms > 0 else 0)
    return out


def sorted_by_hand(matrix, k, include_self, zero=()):
    matrix = matrix.clone()
    if not include_self:
        matrix.fill_diagonal_(-torch.inf)
    for row in zero:
        matrix[row], matrix[:, row] = -torch.inf, -torch.inf
    order = matrix.sort(dim=1, descending=True, stable=True)
    ids = order.indices[:, :k].masked_fill(order.values[:, :k] == -torch.inf, -1)
    return ids, order.values[:, :k].masked_fill(ids < 0, 0)


@pytest.fixture(params=[7, BLOCK])
def block(request, monkeypatch):
    monkeypatch.setattr(sys.modules["mmenc_plugin.kernels.knn_graph"], "BLOCK", request.param)


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("k", [1, 5, 59])
@pytest.mark.usefixtures("block")
def test_the_neighbours_of_one_modality(include_self, k):
    found = knn_graph(table(), k, include_self=include_self)
    ids, values = sorted_by_hand(similarities([table()], [1]), k, include_self)
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.weights, values)


@pytest.mark.parametrize("weights", [None, [1, 1], [0.1, 0.9], [3, 0]])
@pytest.mark.usefixtures("block")
def test_several_modalities_are_weighted(weights):
    tables = [table(), table(d=3, seed=1)]
    found = knn_graph(tables, 6, weights=weights)
    ids, values = sorted_by_hand(similarities(tables, weights or [1, 1]), 6, include_self=False)
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.weights, values)


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.usefixtures("block")
def test_items_of_zero_norm_have_no_neighbours_and_are_nobodys(include_self):
    features, zero = table(n=12), [0, 5, 11]
    features[zero] = 0
    found = knn_graph(features, 11, include_self=include_self)
    ids, values = sorted_by_hand(similarities([features], [1]), 11, include_self, zero)
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.weights, values)
    assert not torch.isin(found.ids, torch.tensor(zero)).any()
    half = knn_graph([features, table(n=12, seed=2)], 11, include_self=include_self)
    assert (half.ids >= 0).all()  # zero in one modality alone
    assert (knn_graph(torch.zeros(4, 2), 3).ids == -1).all()


def test_equal_items_come_by_their_row():
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    found = knn_graph(features, 2)
    assert found.ids.tolist() == [[2, 3], [0, 2], [0, 3], [0, 2]]
    assert found.weights.tolist() == [[1, 1], [0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_a_row_does_not_matter(size):
    expected = knn_graph(table().float(), 5)
    found = knn_graph(table().float() * size, 5)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.weights, expected.weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_types_are_compared_in_float32(dtype):
    features = table().to(dtype)
    found = knn_graph(features, 5)
    assert found.weights.dtype == torch.float32
    torch.testing.assert_close(found.weights, knn_graph(features.double(), 5).weights.float(), rtol=1e-5, atol=1e-6)


def test_no_gradient_is_kept():
    assert not knn_graph(table().requires_grad_(), 3).weights.requires_grad


CASES = {
    "k too large": ((table(), 60), ValueError, "k is 60, but an item has 1 to 59 others"),
    "k zero": ((table(), 0), ValueError, "k is 0"),
    "one item": ((table(n=1), 1), ValueError, "an item has 1 to 0 others"),
    "rows differ": (([table(), table(n=9)], 3), ValueError, r"features\[1\] is \[9, 7\], but must be"),
    "integers": ((torch.ones(4, 2, dtype=torch.int64), 1), TypeError, "features is torch.int64"),
    "none": (([], 1), ValueError, "features is empty"),
    "devices": (([table(), table().to("meta")], 1), ValueError, r"features\[1\] is on meta"),
    "NaN": ((torch.full((4, 2), torch.nan), 1), ValueError, "features holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named(case):
    arguments, error, message = CASES[case]
    with pytest.raises(error, match=message):
        knn_graph(*arguments)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [float("nan"), 1], [float("inf"), 1]])
def test_bad_weights_are_named(weights):
    with pytest.raises(ValueError, match="weights"):
        knn_graph([table(), table()], 3, weights=weights)
