"""Rows of unit length: torch's own function, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from mmenc_plugin.models.blocks.unit import unit_rows


def test_value_and_gradient():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_rows(x), F.normalize(x))
    assert torch.autograd.gradcheck(unit_rows, (x,))


@pytest.mark.parametrize("length", [0.0, 1e-20, 1e-11])
def test_rows_that_are_all_but_zero(length):
    x = (torch.tensor([[3.0, 4.0], [0.6, 0.8]], dtype=torch.float64) * torch.tensor([[1.0], [length]])).requires_grad_()
    found, plain = unit_rows(x), F.normalize(x)
    torch.testing.assert_close(found, plain)
    above = torch.tensor([[1.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
    mine, theirs = (torch.autograd.grad(y, x, above)[0] for y in (found, plain))
    assert mine.isfinite().all()
    torch.testing.assert_close(mine[0], theirs[0])
    if length > 1e-12:
        torch.testing.assert_close(mine[1], theirs[1])
