"""MGCN against its paper's equations on dense matrices."""

import pytest
import torch
from dense import BATCH, N_USERS, adjacency, build, gradients, light_gcn, nearest, normalised, tiny

from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

SMALL = {"knn_k": 3}


def affine(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def by_hand(model, n_layers=2, n_item_layers=1, scale_shared=False):
    """Behaviour and side information [U + I, D], one modality after the other."""
    features, user, item = model.features, model.user_id.weight, model.item_id.weight
    graph = normalised(adjacency())
    behaviour, views = light_gcn(graph, user, item, n_layers), []
    for m in features.modalities:
        gate = 1 / (1 + torch.exp(-affine(model.gates[m], affine(model.projections[m], features.table(m)))))
        alike = normalised(nearest(features.table(m), features.present(m), 3))
        items = torch.linalg.matrix_power(alike, n_item_layers) @ (item * gate)
        views.append(torch.cat([graph[:N_USERS, N_USERS:] @ items, items]))
    if len(views) == 1:
        return behaviour, views[0] / 2 if scale_shared else views[0]
    first, _, last = model.attention
    odds = [torch.exp(affine(last, torch.tanh(affine(first, view)))) for view in views]
    shared = sum(o * view for o, view in zip(odds, views, strict=True)) / sum(odds)
    own = sum(
        (view - shared) / (1 + torch.exp(-affine(model.preferences[m], behaviour)))
        for m, view in zip(features.modalities, views, strict=True)
    )
    return behaviour, (shared + own) / (len(views) + 1) if scale_shared else shared + own / len(views)


@pytest.mark.parametrize(
    ("modalities", "settings"),
    [
        (("image", "text"), {}),
        (("text",), {"n_layers": 0}),
        (("image", "text", "fused"), {"n_item_layers": 2, "n_layers": 1}),
        (("image", "text"), {"scale_shared": True, "n_item_layers": 0}),
        (("image",), {"scale_shared": True}),
    ],
)
def test_scores_and_gradients_are_those_of_the_dense_equations(modalities, settings):
    model = build("MGCN", tiny(modalities), **SMALL, **settings).train()
    behaviour, side = by_hand(model, **settings)
    users, items = (behaviour + side).split([N_USERS, len(model.item_id.weight)])
    expected, scores = users @ items.T, model.scores(torch.arange(N_USERS))
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)  # the graphs are made in float32
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours, theirs = (gradients((s * weights).sum(), model) for s in (scores, expected))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_loss_is_bpr_the_penalty_and_two_contrasts():
    model = build("MGCN", **SMALL, reg_weight=0.5, contrast_weight=0.3, temperature=0.7).train()
    behaviour, side = by_hand(model)
    final = behaviour + side
    u, p, n = (final[rows] for rows in (BATCH.users, N_USERS + BATCH.positives, N_USERS + BATCH.negatives))
    parts = model.loss(BATCH)
    bpr = torch.log(1 + torch.exp((u * (n - p)).sum(1))).mean()
    torch.testing.assert_close(parts["bpr"], bpr, rtol=1e-6, atol=1e-6)
    squares = sum(r.square().sum() for r in (u, p, n)) / (2 * len(u))
    torch.testing.assert_close(parts["reg"], 0.5 * squares, rtol=1e-6, atol=1e-6)
    contrast = 0
    for rows in (BATCH.users, N_USERS + BATCH.positives):
        s, c = (x[rows] / x[rows].norm(dim=1, keepdim=True) for x in (side, behaviour))
        exps = torch.exp(s @ c.T / 0.7)
        contrast = contrast - torch.log(exps.diagonal() / exps.sum(1)).mean()
    torch.testing.assert_close(parts["contrast"], 0.3 * contrast, rtol=1e-6, atol=1e-6)


def test_a_user_who_took_nothing_and_an_item_without_features_have_no_side_information():
    model = build("MGCN", **SMALL)
    behaviour, side = (x.detach() for x in model._views())
    assert not side[2].any()
    assert not side[N_USERS + 5].any()
    assert side[N_USERS + 4].any()  # nobody took it, but it has a picture and a text
    expected = torch.cat([model.user_id.weight[2:3], model.item_id.weight[4:6]]) / 3  # the mean over the layers
    torch.testing.assert_close(behaviour[[2, N_USERS + 4, N_USERS + 5]], expected.detach())


@pytest.mark.parametrize("values", [torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(4, 3)])
def test_odd_data_give_finite_scores_and_gradients(values):
    """One item, one user, zero features, more neighbours than items."""
    n = len(values)
    features = FrozenFeatures({m: AlignedFeatures(values, torch.ones(n) > 0) for m in ("image", "text")})
    model = build("MGCN", (features, Interactions(torch.tensor([0]), torch.tensor([0]), 1, n))).train()
    zero = torch.tensor([0])
    loss = torch.stack(list(model.loss(TripletBatch(zero, zero, zero)).values())).sum()
    assert all(g.isfinite().all() for g in gradients(loss, model).values())
    assert model.eval().scores(zero).isfinite().all()
