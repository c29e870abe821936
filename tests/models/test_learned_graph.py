"""The sparse matrix with learned values: products and gradients against the dense matrix."""

import pytest
import torch

from mmenc_plugin.models.blocks import learned_graph
from mmenc_plugin.models.blocks.learned_graph import Pattern

SHAPE = (4, 5)
# In no order; row 2 and column 3 are empty, and (1, 4) stands twice.
ROWS, COLUMNS = torch.tensor([3, 0, 1, 0, 1, 3, 1]), torch.tensor([1, 2, 4, 0, 0, 1 + 1, 4])


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture(params=[2**20, 3])
def pattern(request, monkeypatch):
    monkeypatch.setattr(learned_graph, "CHUNK", request.param)
    return Pattern(ROWS, COLUMNS, SHAPE)


def dense(pattern, values):
    places = pattern.rows, pattern.columns
    return torch.zeros(SHAPE, dtype=torch.float64).index_put(places, values, accumulate=True)


def test_places_are_kept_by_row_then_column(pattern):
    assert pattern.rows.tolist() == [0, 0, 1, 1, 1, 3, 3]
    assert pattern.columns.tolist() == [0, 2, 0, 4, 4, 1, 2]


@pytest.mark.parametrize("transposed", [False, True])
def test_multiply_is_the_dense_product_with_its_gradients(pattern, transposed):
    values, x = normal(7), normal(SHAPE[0] if transposed else SHAPE[1], 3, seed=1)
    matrix = dense(pattern, values).T if transposed else dense(pattern, values)
    found, expected = pattern.multiply(values, x, transposed), matrix @ x
    torch.testing.assert_close(found, expected)
    upper = normal(*expected.shape, seed=2).detach()
    for ours, theirs in zip(*(torch.autograd.grad(y, (values, x), upper) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(lambda v, y: pattern.multiply(v, y, transposed), (values, x))
    assert torch.autograd.gradgradcheck(lambda v, y: pattern.multiply(v, y, transposed), (values, x))


def test_products_are_the_dense_ones_in_the_places(pattern):
    a, b = normal(SHAPE[0], 3), normal(SHAPE[1], 3, seed=1)
    torch.testing.assert_close(pattern.products(a, b), (a @ b.T)[pattern.rows, pattern.columns])
    assert torch.autograd.gradcheck(pattern.products, (a, b))
    assert torch.autograd.gradgradcheck(pattern.products, (a, b))


def test_products_of_one_tensor_with_itself_get_both_gradients():
    pattern, a = Pattern(ROWS, COLUMNS, (5, 5)), normal(5, 3)
    assert torch.autograd.gradcheck(lambda x: pattern.products(x, x), (a,))


def test_row_sums_and_scaling(pattern):
    values, of_rows, of_columns = normal(7), normal(SHAPE[0], seed=1), normal(SHAPE[1], seed=2)
    matrix = dense(pattern, values)
    torch.testing.assert_close(pattern.row_sums(values), matrix.sum(1))
    scaled = dense(pattern, pattern.scaled(values, of_rows, of_columns))
    torch.testing.assert_close(scaled, of_rows[:, None] * matrix * of_columns)
    assert torch.autograd.gradcheck(pattern.row_sums, (values,))
    assert torch.autograd.gradcheck(pattern.scaled, (values, of_rows, of_columns))


def test_no_places_at_all():
    nothing = torch.empty(0, dtype=torch.int64)
    pattern, values, x = Pattern(nothing, nothing, SHAPE), normal(0), normal(SHAPE[1], 3)
    out = pattern.multiply(values, x)
    assert torch.equal(out, torch.zeros(SHAPE[0], 3, dtype=torch.float64))
    out.sum().backward()
    assert not x.grad.any()
    assert pattern.products(normal(SHAPE[0], 2), normal(SHAPE[1], 2)).shape == (0,)


def test_nothing_of_the_size_of_the_dense_matrix_is_made():
    """400,000 x 400,000 numbers would need 640 GB."""
    n, rows = 400_000, torch.tensor([0, 399_999])
    pattern, values, x = Pattern(rows, rows.flip(0), (n, n)), normal(2), normal(n, 2)
    pattern.multiply(values, x).square().sum().backward()
    expected = 2 * values.detach() * x.detach()[rows.flip(0)].square().sum(1)
    torch.testing.assert_close(values.grad, expected)


def test_a_pattern_is_not_saved_and_moves_with_its_module(pattern):
    assert not pattern.state_dict()
    assert pattern.double().rows.dtype == torch.int64
