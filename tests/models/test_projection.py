"""Features of a batch's items through a linear map: value and gradient as of the plain product of gathered rows."""

import pytest
import torch
import torch.nn.functional as F

from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.models.blocks import projection
from mmenc_plugin.models.blocks.projection import ModalityProjection, project_rows

N_ITEMS, WIDTH = 9, 5
ITEMS = torch.tensor([3, 0, 3, 8, 8, 3])  # some several times, most not at all


class Live:
    """Features that are trained: a table with a gradient, which is asked for by rows."""

    modalities, frozen = ("image",), False

    def __init__(self, values):
        self.values = values

    def rows(self, modality, items):
        assert modality == "image"
        assert len(items) == len(items.unique())  # an item is asked for once
        return self.values[items]


def frozen(values):
    return FrozenFeatures({"image": AlignedFeatures(values, torch.ones(len(values), dtype=torch.bool))})


@pytest.fixture(params=[1, 2 * WIDTH, 1 << 20])
def chunk(request, monkeypatch):
    """One item at a time, two, all."""
    monkeypatch.setattr(projection, "CHUNK", request.param)


def inputs():
    g = torch.Generator().manual_seed(0)
    table = torch.randn(N_ITEMS, WIDTH, dtype=torch.float64, generator=g)
    weight = torch.randn(4, WIDTH, dtype=torch.float64, generator=g, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, generator=g, requires_grad=True)
    return table, weight, bias


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("with_bias", [True, False])
def test_frozen_features(with_bias):
    table, weight, bias = inputs()
    bias = bias if with_bias else None
    learned = [weight] if bias is None else [weight, bias]
    found, plain = project_rows(frozen(table), "image", ITEMS, weight, bias), F.linear(table[ITEMS], weight, bias)
    above = torch.randn(plain.shape, dtype=torch.float64)
    torch.testing.assert_close(found, plain)
    for mine, theirs in zip(*(torch.autograd.grad(y, learned, above) for y in (found, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_features_that_are_trained_get_their_gradient():
    table, weight, bias = inputs()
    table.requires_grad_()
    found, plain = project_rows(Live(table), "image", ITEMS, weight, bias), F.linear(table[ITEMS], weight, bias)
    for mine, theirs in zip(
        *(torch.autograd.grad(y.square().sum(), (table, weight, bias)) for y in (found, plain)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
        assert theirs.any()


def test_no_items():
    table, weight, _ = inputs()
    found = project_rows(frozen(table), "image", ITEMS[:0], weight)
    assert found.shape == (0, 4)
    assert not torch.autograd.grad(found.sum(), weight)[0].any()


def test_half_weights_get_half_gradients():
    table, weight, _ = inputs()
    half = weight.detach().bfloat16().requires_grad_()
    found = project_rows(frozen(table.float()), "image", ITEMS, half)
    torch.testing.assert_close(found, table.float()[ITEMS] @ half.detach().float().T)  # not rounded on the way
    found.sum().backward()
    assert half.grad.dtype == torch.bfloat16


def test_a_projection_of_rows_is_that_of_all_items():
    features = frozen(torch.randn(N_ITEMS, WIDTH))
    matrices = ModalityProjection(features, 3)
    torch.testing.assert_close(matrices(features, ITEMS), matrices(features)[ITEMS])
