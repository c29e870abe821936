"""VBPR against its paper's equations, written out by hand."""

import math

import pytest
import torch

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

USERS, ITEMS = 4, 5
WIDTHS = {"image": 3, "text": 2}


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return FrozenFeatures(
        {
            m: AlignedFeatures(torch.randn(ITEMS, d, generator=generator), torch.ones(ITEMS, dtype=torch.bool))
            for m, d in WIDTHS.items()
        }
    )


def build(features, **settings):
    interactions = Interactions(torch.tensor([0, 1]), torch.tensor([1, 2]), USERS, ITEMS)
    model = models.build("VBPR", {"embedding_size": 3, "content_size": 2, **settings}, features, interactions).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model.eval()


def by_hand(model, u, i):
    """b_i + gamma_u . gamma_i + theta_u . E f_i + beta' . f_i, with f_i the concatenated features."""
    f = torch.cat([model.features.table(m)[i] for m in WIDTHS])
    e = torch.cat([model.projection.matrices[m].weight for m in WIDTHS], dim=1)
    beta = torch.cat([model.content_bias.matrices[m].weight[0] for m in WIDTHS])
    return (
        model.item_bias.weight[i, 0]
        + model.user_id.weight[u] @ model.item_id.weight[i]
        + model.user_content.weight[u] @ (e @ f)
        + beta @ f
    ).item()


def test_scores_are_equation_4(features):
    model = build(features)
    scores = model.scores(torch.arange(USERS))
    for u in range(USERS):
        for i in range(ITEMS):
            assert scores[u, i].item() == pytest.approx(by_hand(model, u, i), rel=1e-12)


def test_pair_scores_and_the_score_in_the_loss_are_the_same(features):
    model = build(features, reg_weight=0)
    batch = TripletBatch(torch.tensor([0, 3]), torch.tensor([1, 4]), torch.tensor([2, 0]))
    differences = [by_hand(model, u, i) - by_hand(model, u, j) for u, i, j in ((0, 1, 2), (3, 4, 0))]
    expected = sum(-math.log(1 / (1 + math.exp(-d))) for d in differences) / 2
    assert model.loss(batch)["bpr"].item() == pytest.approx(expected, rel=1e-12)
    pairs = model.pair_scores(batch.users, batch.positives)
    assert pairs.tolist() == pytest.approx([by_hand(model, 0, 1), by_hand(model, 3, 4)], rel=1e-12)


def test_penalty_is_half_the_squares_of_the_batchs_rows_and_spares_the_projection(features):
    model = build(features, reg_weight=0.5)
    batch = TripletBatch(torch.tensor([2]), torch.tensor([1]), torch.tensor([3]))
    rows = [model.user_id.weight[2], model.user_content.weight[2], model.item_id.weight[1], model.item_id.weight[3]]
    rows += [model.item_bias.weight[1], model.item_bias.weight[3]]
    expected = 0.5 * sum((row**2).sum().item() for row in rows) / 2
    assert model.loss(batch)["reg"].item() == pytest.approx(expected, rel=1e-12)


def test_projection_reg_adds_the_squares_of_projection_and_content_bias(features):
    batch = TripletBatch(torch.tensor([2]), torch.tensor([1]), torch.tensor([3]))
    model = build(features, reg_weight=0, projection_reg=0.3)
    weights = [*model.projection.parameters(), *model.content_bias.parameters()]
    expected = 0.3 * sum((w**2).sum().item() for w in weights) / 2
    assert model.loss(batch)["reg"].item() == pytest.approx(expected, rel=1e-12)


def test_an_item_that_nobody_took_is_ranked_by_its_content(features):
    """With a zero item embedding and bias, what is left of the score is the content's."""
    model = build(features)
    model.item_id.weight.data[4] = 0
    model.item_bias.weight.data[4] = 0
    content = model.user_content.weight[1] @ model.projection(features)[4] + model.content_bias(features)[4, 0]
    assert model.scores(torch.tensor([1]))[0, 4].item() == pytest.approx(content.item())
