"""Bytes are those that can be counted by hand, and a line through two sizes gives them at others."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmenc_plugin.training.measure import Cost, cost, peak

CPU = torch.device("cpu")
ROW = 256 * 4  # bytes of a row of floats


def test_a_peak_is_what_lives_at_once():
    x = torch.zeros(10, 256)
    with peak(CPU, [x]) as found:
        y = x + 1  # 10 rows
        y = y * 2  # 10 more, then the first are let go
        del y
        z = torch.cat([x, x])  # 20 rows
    assert found.bytes == 20 * ROW
    assert len(z) == 20


def test_views_of_what_is_there_cost_nothing():
    x = torch.zeros(10, 256)
    with peak(CPU, [x]) as found:
        x[2:5].t().add_(1)
    assert found.bytes == 0


def test_what_is_saved_for_the_backward_pass_lives_until_then():
    x = torch.zeros(10, 256, requires_grad=True)
    with peak(CPU, [x]) as found:
        x.exp().exp().sum().backward()
    # The two results that exp saves; on the way back the gradient of one, beside it that of the next.
    assert 3 * 10 * ROW <= found.bytes <= 4 * 10 * ROW + 64


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_line_through_two_sizes_gives_the_bytes_of_a_third(recomputed):
    net = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(256, 256), nn.ReLU())))
    x = torch.randn(64, 256)

    def step(n):
        hidden = x[:n].clone().requires_grad_()
        for block in range(0, 8, 2):
            part = net[block : block + 2]
            hidden = checkpoint(part, hidden, use_reentrant=False) if recomputed else part(hidden)
        hidden.sum().backward()

    there = [*net.parameters(), x]
    line = cost(step, CPU, 8, there, repeats=1)
    with peak(CPU, [t for p in there for t in (p, p.grad) if t is not None]) as found:
        step(64)
    assert line.bytes(64) == pytest.approx(found.bytes, rel=0.01)
    assert line.bytes_an_item >= 5 * ROW  # of the input and each block's output, at least


def test_a_cost_is_a_line():
    line = Cost(100, 10, 1.0, 0.5)
    assert line.bytes(7) == 170
    assert line.seconds(4) == 3.0
