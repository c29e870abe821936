"""LATTICE against its paper's equations on dense matrices."""

import pytest
import torch
from dense import (
    BATCH,
    N_ITEMS,
    N_USERS,
    adjacency,
    build,
    gradients,
    inverse_root,
    light_gcn,
    nearest,
    normalised,
    tiny,
)

from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

AUTHORS = {"graph_gradient": "first_step", "normalise": "sum", "propagation": "averaging"}
SMALL = {"knn_k": 3, "content_size": 4, "frozen_weight": 0.3}


def by_hand(model, k=3, weight=0.3, n_layers=2, n_item_layers=1, normalise="each", propagation="symmetric"):
    """Users [U, D] and items [I, D] by equations 1 to 8."""
    features, user, item = model.features, model.user_id.weight, model.item_id.weight
    graph = normalised(adjacency())
    if propagation == "averaging":
        graph = adjacency() + torch.eye(N_USERS + N_ITEMS)
        graph = graph / graph.sum(1, keepdim=True)
    shares = model.importance.softmax(0) if len(features.modalities) > 1 else torch.ones(1)
    frozen, learned = [], []
    for m in features.modalities:
        frozen.append(normalised(nearest(features.table(m), features.present(m), k)))
        learned.append(nearest(model.projections[m](features.table(m)), features.present(m), k))
    if normalise == "sum":
        latent = normalised(sum(s * a for s, a in zip(shares, learned, strict=True)))
    else:
        latent = sum(s * normalised(a) for s, a in zip(shares, learned, strict=True))
    latent = weight * sum(s * a for s, a in zip(shares, frozen, strict=True)) + (1 - weight) * latent
    hidden = torch.linalg.matrix_power(latent, n_item_layers) @ item
    length = hidden.square().sum(1, keepdim=True)
    both = light_gcn(graph, user, item, n_layers)
    return both[:N_USERS], both[N_USERS:] + hidden * inverse_root(length)


@pytest.mark.parametrize(
    ("modalities", "settings"),
    [
        (("image", "text"), {}),
        (("text",), {}),
        (("image", "text", "fused"), {"n_item_layers": 2}),
        (("image", "text"), {"normalise": "sum", "propagation": "averaging", "n_layers": 1}),
        (("image",), {"normalise": "sum", "n_layers": 0}),
    ],
)
def test_scores_and_gradients_are_those_of_the_dense_equations(modalities, settings):
    model = build("LATTICE", tiny(modalities), **SMALL, **settings)
    weights = torch.randn(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    users, items = by_hand(model, **settings)
    expected = users @ items.T
    theirs = gradients((expected * weights).sum(), model)
    for training in (True, False):
        scores = model.train(training).scores(torch.arange(N_USERS))
        torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)  # the raw graph is made in float32
        ours = gradients((scores * weights).sum(), model)
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)
    assert ours["projections." + modalities[0] + ".weight"].any()


def test_the_loss_is_bpr_and_half_the_squares_of_the_propagated_rows():
    model = build("LATTICE", **SMALL, reg_weight=0.5).train()
    users, items = by_hand(model)
    u, p, n = users[BATCH.users], items[BATCH.positives], items[BATCH.negatives]
    parts = model.loss(BATCH)
    expected = -torch.nn.functional.logsigmoid((u * (p - n)).sum(1)).mean()
    torch.testing.assert_close(parts["bpr"], expected, rtol=1e-6, atol=1e-6)
    squares = sum(r.square().sum() for r in (u, p, n)) / (2 * len(u))
    torch.testing.assert_close(parts["reg"], 0.5 * squares, rtol=1e-6, atol=1e-6)


def of_projections(model):
    """Sums of the absolute gradients of the projections and shares on the batch."""
    found = gradients(model.loss(BATCH)["bpr"], model)
    return sum(float(g.abs().sum()) for name, g in found.items() if name.startswith(("projections", "importance")))


def test_each_step_trains_the_graph_or_the_first_of_an_epoch_does():
    model = build("LATTICE", **SMALL).train()
    assert [of_projections(model) > 0 for _ in range(3)] == [True, True, True]
    model = build("LATTICE", **SMALL, **AUTHORS).train()
    assert [of_projections(model) > 0 for _ in range(3)] == [True, False, False]
    model.begin_epoch()
    assert [of_projections(model) > 0 for _ in range(2)] == [True, False]


def test_the_authors_graph_stays_that_of_the_first_step():
    model = build("LATTICE", **SMALL, **AUTHORS).train()
    before = model.embed().items.detach()
    for projection in model.projections.values():
        projection.weight.data.neg_().add_(1.0)
    model.importance.data.add_(torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(model.embed().items.detach(), before)
    items = by_hand(model, normalise="sum", propagation="averaging")[1]  # an evaluation sees the graph as it is now
    torch.testing.assert_close(model.eval().embed().items, items, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.train().embed().items.detach(), before)
    model.begin_epoch()
    assert not torch.allclose(model.embed().items.detach(), before, atol=1e-3)


def test_neighbours_are_chosen_once_an_epoch_and_anew_for_an_evaluation():
    model = build("LATTICE", **SMALL).train()

    def chosen():
        model.embed()
        return [list(zip(p.rows.tolist(), p.columns.tolist(), strict=True)) for p in model.patterns.values()]

    first = chosen()
    for projection in model.projections.values():
        projection.weight.data = torch.randn(projection.weight.shape, dtype=torch.float64)
        projection.bias.data.zero_()
    users, items = by_hand(model)
    model.eval()
    torch.testing.assert_close(model.scores(torch.arange(N_USERS)), users @ items.T, rtol=1e-6, atol=1e-6)
    model.train()
    assert chosen() == first
    model.begin_epoch()
    second = chosen()
    assert second != first
    torch.testing.assert_close(model.embed().items, items, rtol=1e-6, atol=1e-6)


def test_a_loaded_model_scores_as_the_saved_one():
    model, rows = build("LATTICE", **SMALL).train(), torch.arange(N_USERS)
    model.loss(BATCH)
    for projection in model.projections.values():  # so that the epoch's neighbours are no longer the nearest
        projection.weight.data = torch.randn(projection.weight.shape, dtype=torch.float64)
    other = build("LATTICE", **SMALL)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval().scores(rows), model.eval().scores(rows))


def test_an_item_without_features_is_scored_by_its_interactions_alone():
    model = build("LATTICE", **SMALL)
    expected = light_gcn(normalised(adjacency()), model.user_id.weight, model.item_id.weight, 2)
    torch.testing.assert_close(model.embed().items[5], expected[N_USERS + 5], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(model.embed().items[4], expected[N_USERS + 4], atol=1e-3)  # nobody took it either


def test_a_neighbour_on_the_other_side_counts_for_nothing():
    """Of two items with opposite features, asked for two neighbours, each has itself alone."""
    features = FrozenFeatures({"image": AlignedFeatures(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(2) > 0)})
    data = features, Interactions(torch.tensor([0]), torch.tensor([0]), 1, 2)
    model = build("LATTICE", data, knn_k=2, frozen_weight=1.0, n_layers=0)
    item = model.item_id.weight
    torch.testing.assert_close(model.embed().items, item + item / item.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("graph", [{}, AUTHORS])
@pytest.mark.parametrize("values", [torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(4, 3)])
def test_odd_data_give_finite_scores_and_gradients(values, graph):
    """One item, one user, zero features, more neighbours than items."""
    n = len(values)
    features = FrozenFeatures({"text": AlignedFeatures(values, torch.ones(n) > 0)})
    model = build("LATTICE", (features, Interactions(torch.tensor([0]), torch.tensor([0]), 1, n)), **graph).train()
    model.projections["text"].bias.data.zero_()
    zero = torch.tensor([0])
    loss = torch.stack(list(model.loss(TripletBatch(zero, zero, zero)).values())).sum()
    assert all(g.isfinite().all() for g in gradients(loss, model).values())
    assert model.eval().scores(zero).isfinite().all()
