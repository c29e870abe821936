"""SMORE against its paper's equations, on dense matrices and with the Fourier transform as a sum."""

import math

import pytest
import torch
from dense import BATCH, N_ITEMS, N_USERS, adjacency, build, gradients, light_gcn, nearest, normalised, tiny

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

SMALL = {"knn_k": 3}


def affine(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def transform(x):
    """Spectrum [I, D // 2 + 1] of x [I, D], of unit energy."""
    d = x.shape[1]
    turns = torch.arange(d, dtype=torch.float64)[:, None] * torch.arange(d // 2 + 1)[None, :]
    return x.to(torch.complex128) @ torch.exp(-2j * math.pi / d * turns) / math.sqrt(d)


def back(spectrum, d):
    """The real x [I, D] of a spectrum whose other half is the conjugate of this one."""
    turns = torch.arange(d // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(d)[None, :]
    twice = torch.full((d // 2 + 1, 1), 2.0, dtype=torch.float64)
    twice[0] = 1
    if d % 2 == 0:
        twice[-1] = 1
    return (spectrum @ (twice * torch.exp(2j * math.pi / d * turns))).real / math.sqrt(d)


def by_hand(model, ks=(3, 3), n_layers=3, n_item_layers=1):
    """Behaviour and side information [U + I, D], one view after the other."""
    features, user, item = model.features, model.user_id.weight, model.item_id.weight
    graph, d = normalised(adjacency()), item.shape[1]
    behaviour = light_gcn(graph, user, item, n_layers)
    spectra = [transform(affine(model.projections[m], features.table(m))) for m in features.modalities]
    fused = spectra[0]
    for other in spectra[1:]:
        fused = fused * other
    views = [back(s * (w[:, 0] + 1j * w[:, 1]), d) for s, w in zip([*spectra, fused], model.filters, strict=True)]
    alike = [
        normalised(nearest(features.table(m), features.present(m), k))
        for m, k in zip(features.modalities, ks, strict=False)
    ]
    alike.append(torch.stack(alike).amax(0))
    for i, matrix in enumerate(alike):
        items = torch.linalg.matrix_power(matrix, n_item_layers) @ (item * sigmoid(affine(model.gates[i], views[i])))
        views[i] = torch.cat([graph[:N_USERS, N_USERS:] @ items, items])
    side = sigmoid(affine(model.preferences[-1], behaviour)) * views[-1]
    for i, m in enumerate(features.modalities):
        first, _, last = model.attentions[m]
        odds = torch.exp(affine(last, torch.tanh(affine(first, views[-1]))))
        attended = odds / odds.sum(1, keepdim=True) * views[i]
        side = side + sigmoid(affine(model.preferences[i], behaviour)) * attended
    return behaviour, side / len(views)


@pytest.mark.parametrize(
    ("modalities", "settings"),
    [
        (("image", "text"), {}),
        (("text",), {"n_layers": 0, "embedding_size": 5}),
        (("image", "text", "fused"), {"n_item_layers": 2, "n_layers": 1}),
        (("image", "text"), {"modality_knn_k": {"text": 2}, "embedding_size": 1}),
    ],
)
def test_scores_and_gradients_are_those_of_the_equations(modalities, settings):
    model = build("SMORE", tiny(modalities), **SMALL, **settings).train()
    plain = {key: value for key, value in settings.items() if key.startswith("n_")}
    behaviour, side = by_hand(model, (3, 2, 3) if "modality_knn_k" in settings else (3, 3, 3), **plain)
    users, items = (behaviour + side).split([N_USERS, N_ITEMS])
    expected, scores = users @ items.T, model.scores(torch.arange(N_USERS))
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)  # the graphs are made in float32
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours, theirs = (gradients((s * weights).sum(), model) for s in (scores, expected))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_loss_is_bpr_the_penalty_and_two_contrasts():
    model = build("SMORE", **SMALL, reg_weight=0.5, contrast_weight=0.3, temperature=0.7).train()
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


def test_a_filter_of_ones_leaves_the_features_as_they_are():
    model = build("SMORE", **SMALL)
    for weight in model.filters:
        weight.data = torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(weight).clone()
    views = model._spectral()
    for view, m in zip(views, ("image", "text"), strict=False):
        torch.testing.assert_close(view, model.projections[m](model.features.table(m)))


def test_gates_are_dropped_in_training_alone():
    model, users = build("SMORE", **SMALL, gate_dropout=0.5), torch.arange(N_USERS)
    behaviour, side = by_hand(model)
    expected = (behaviour + side)[:N_USERS] @ (behaviour + side)[N_USERS:].T
    torch.testing.assert_close(model.eval().scores(users), expected, rtol=1e-6, atol=1e-6)
    model.train()
    assert not torch.equal(model.scores(users), model.scores(users))


def test_an_item_without_features_has_no_side_information():
    side = build("SMORE", **SMALL)._views()[1]
    assert not side[2].any()  # a user who took nothing
    assert not side[N_USERS + 5].any()
    assert side[N_USERS + 4].any()  # nobody took it, but it has a picture and a text


@pytest.mark.parametrize(("key", "k"), [("audio", 3), ("image", 0), ("text", "many")])
def test_neighbours_of_a_single_modality_are_checked(key, k):
    with pytest.raises(SettingsError, match=f"modality_knn_k.{key}"):
        build("SMORE", modality_knn_k={key: k})


@pytest.mark.parametrize("values", [torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(4, 3)])
def test_odd_data_give_finite_scores_and_gradients(values):
    """One item, one user, zero features, more neighbours than items."""
    n = len(values)
    features = FrozenFeatures({m: AlignedFeatures(values, torch.ones(n) > 0) for m in ("image", "text")})
    model = build("SMORE", (features, Interactions(torch.tensor([0]), torch.tensor([0]), 1, n))).train()
    zero = torch.tensor([0])
    loss = torch.stack(list(model.loss(TripletBatch(zero, zero, zero)).values())).sum()
    assert all(g.isfinite().all() for g in gradients(loss, model).values())
    assert model.eval().scores(zero).isfinite().all()
