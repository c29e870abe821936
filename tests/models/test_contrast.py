"""InfoNCE against the formula with the whole matrix, and on rows whose loss is known."""

import math

import pytest
import torch

from mmenc_plugin.models.blocks.contrast import info_nce


def dense(a, b, temperature):
    cosines = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    return -(cosines / temperature).log_softmax(dim=1).diag().mean()


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("n", [1, 7, 300])
def test_it_is_the_formula_in_value_and_gradient(n, temperature):
    torch.manual_seed(n)
    a, b = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found, expected = info_nce(a, b, temperature), dense(a, b, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for got, want in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_positives_may_be_any_rows_and_further_rows_are_negatives():
    torch.manual_seed(0)
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    cosines = torch.cosine_similarity(a[:, None], b[None], dim=2) / 0.2
    for positives, rows in ((torch.tensor([8, 1, 8]), [8, 1, 8]), (None, [0, 1, 2])):
        expected = (cosines.logsumexp(1) - cosines[range(3), rows]).mean()
        torch.testing.assert_close(info_nce(a, b, 0.2, positives), expected, rtol=1e-10, atol=1e-10)


def test_orthogonal_rows_have_a_known_loss():
    rows = torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    expected = math.log1p(3 * math.exp(-1 / 0.5))
    assert info_nce(rows, rows, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_it_is_not_symmetric():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert abs(info_nce(a, b, 0.2) - info_nce(b, a, 0.2)) > 0.1


def test_rows_of_zeros_are_equally_like_all_others():
    a = torch.zeros(3, 2, requires_grad=True)
    loss = info_nce(a, torch.eye(3, 2), 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)
    assert a.grad.isfinite().all()
