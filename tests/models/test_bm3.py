"""BM3's losses against the formulas with whole matrices, and what it does not read."""

import formulas
import pytest
import torch

from mmenc_plugin import models
from mmenc_plugin.testing import samples
from mmenc_plugin.testing.samples import checkerboard
from mmenc_plugin.types import TripletBatch


def build(modalities=("image", "text"), **settings):
    torch.manual_seed(0)
    data = checkerboard(modalities, n=8, taken=2)
    settings = {"embedding_size": 4, "dropout": 0.0} | settings
    return samples.shaken(models.build("BM3", settings, data.features, data.interactions)).double(), data


def dense_propagated(model, data):
    tables = model.user_id.weight, model.item_id.weight
    users, items = formulas.light_gcn(formulas.adjacency(data.interactions), *tables, model.options.n_layers)
    return users, items + model.item_id.weight


def apart(model, online, target):
    online = online @ model.predictor.weight.T + model.predictor.bias
    return 1 - ((online * target).sum(1) / online.norm(dim=1) / target.norm(dim=1)).mean()


@pytest.mark.parametrize("n_layers", [0, 2])
@pytest.mark.parametrize("modalities", [("fused",), ("image", "text")])
def test_each_part_of_the_loss_is_its_formula(modalities, n_layers):
    model, data = build(modalities, n_layers=n_layers, reg_weight=0.3, modality_weight=0.7)
    batch = data.batch(torch.Generator().manual_seed(0))
    users, items = dense_propagated(model, data)
    users, items = users[batch.users], items[batch.positives]
    parts = model.loss(batch)
    assert list(parts) == ["pairs", *modalities, "reg"]
    torch.testing.assert_close(parts["pairs"], apart(model, users, items) + apart(model, items, users))
    for m in modalities:
        linear = model.projections[m]
        content = data.features.table(m)[batch.positives].double() @ linear.weight.T + linear.bias
        torch.testing.assert_close(parts[m], 0.7 * (apart(model, content, items) + apart(model, content, content)))
    penalty = 0.15 * (users.square().sum(1) + items.square().sum(1)).mean()
    torch.testing.assert_close(parts["reg"], penalty)


def test_norms_are_of_the_whole_tables():
    model, data = build(penalty="norms", reg_weight=0.3)
    users, items = dense_propagated(model, data)
    expected = 0.3 * (users.square().sum().sqrt() + items.square().sum().sqrt()) / len(items)
    torch.testing.assert_close(model.loss(data.batch(torch.Generator().manual_seed(0)))["reg"], expected)


def test_scores_are_products_after_the_predictor():
    model, data = build()
    users, items = (h @ model.predictor.weight.T + model.predictor.bias for h in dense_propagated(model, data))
    torch.testing.assert_close(model.scores(torch.arange(9)), users @ items.T)


def test_targets_have_no_gradient():
    """Features learn from their own half alone: what is predicted stands still."""
    model, data = build(("image",), reg_weight=0.0, n_layers=0)
    batch = data.batch(torch.Generator().manual_seed(0))
    model.loss(batch)["image"].backward()
    assert model.projections["image"].weight.grad.abs().max() > 0
    assert model.item_id.weight.grad is None


def test_negatives_are_not_read():
    model, data = build()
    batch = data.batch(torch.Generator().manual_seed(0))
    other = TripletBatch(batch.users, batch.positives, torch.full_like(batch.negatives, -1))
    assert all(torch.equal(model.loss(batch)[name], part) for name, part in model.loss(other).items())


def test_dropout_is_of_the_targets_in_training_alone():
    model, data = build(dropout=0.5)
    batch = data.batch(torch.Generator().manual_seed(0))
    losses = [sum(model.train(training).loss(batch).values()) for training in (True, True, False, False)]
    assert not torch.equal(losses[0], losses[1])
    assert torch.equal(losses[2], losses[3])
    with torch.no_grad():
        assert torch.equal(model.train().embed().users, model.eval().embed().users)


def test_a_padding_pair_and_zero_features_give_finite_losses_and_gradients():
    """Item 1 has no picture; row 0 of users and items has no interactions."""
    model, _ = build()
    loss = sum(model.loss(TripletBatch(*(torch.tensor([0, 1]),) * 3)).values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
