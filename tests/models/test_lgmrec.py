"""LGMRec's local and global embeddings against the formulas with whole matrices."""

import formulas
import pytest
import torch
from torch.nn.functional import normalize

from mmenc_plugin import models
from mmenc_plugin.testing import samples
from mmenc_plugin.testing.samples import checkerboard


def build(modalities=("image", "text"), data=None, **settings):
    torch.manual_seed(0)
    data = data or checkerboard(modalities, n=8, taken=3)
    settings = {"embedding_size": 4, "n_hyperedges": 3} | settings
    model = samples.shaken(models.build("LGMRec", settings, data.features, data.interactions)).double()
    return model, data, data.batch(torch.Generator().manual_seed(0))


def dense_parts(model, data):
    """The embeddings of users and items, and each modality's over its hyperedges."""
    o, inter = model.options, data.interactions
    matrix = formulas.adjacency(inter)
    taken = torch.zeros(inter.n_users, inter.n_items, dtype=torch.float64)
    taken[inter.users, inter.items] = 1
    ids = formulas.light_gcn(matrix, model.user_id.weight, model.item_id.weight, o.n_layers)
    local, global_ = torch.cat(ids), []
    for m in data.features.modalities:
        table = data.features.table(m).double()
        items = table @ model.projections[m].weight.T
        layer = torch.cat([taken @ items / taken.sum(1, keepdim=True).clamp(min=1), items])
        local = local + normalize(torch.linalg.matrix_power(matrix, o.n_modality_layers) @ layer, dim=1)
        logits = table @ model.hyperedges[m].weight.T
        to_items, to_users = (x.div(o.temperature).softmax(1) for x in (logits, taken @ logits))
        before = torch.linalg.matrix_power(to_items @ to_items.T, o.n_hyper_layers - 1) @ ids[1]
        global_.append(torch.cat([to_users @ to_items.T @ before, to_items @ to_items.T @ before]))
    all_ = local + o.global_weight * normalize(sum(global_), dim=1)
    sizes = [inter.n_users, inter.n_items]
    return all_.split(sizes), [g.split(sizes) for g in global_]


@pytest.mark.parametrize("layers", [(2, 2, 1), (0, 1, 3), (1, 0, 2)])
@pytest.mark.parametrize("modalities", [("text",), ("image", "text")])
def test_embeddings_are_local_and_global(modalities, layers):
    names = ("n_layers", "n_modality_layers", "n_hyper_layers")
    model, data, _ = build(modalities, **dict(zip(names, layers, strict=True)))
    found = model.eval().embed()
    (users, items), _ = dense_parts(model, data)
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items)


@pytest.mark.parametrize("penalty", ["squares", "norms"])
def test_each_part_of_the_loss_is_its_formula(penalty):
    model, data, batch = build(penalty=penalty, reg_weight=0.3, contrast_weight=0.7, temperature=0.4)
    (users, items), (by_image, by_text) = dense_parts(model, data)
    rows = users[batch.users], items[batch.positives], items[batch.negatives]
    gap = (rows[0] * (rows[1] - rows[2])).sum(1)
    expected = 0
    for a, b, ids in zip(by_image, by_text, (batch.users, batch.positives), strict=True):
        cosines = normalize(a, dim=1)[ids] @ normalize(b, dim=1).T / 0.4
        expected = expected - cosines.log_softmax(1).gather(1, ids[:, None]).mean()
    parts = model.eval().loss(batch)
    assert list(parts) == ["bpr", "contrast", "reg"]
    torch.testing.assert_close(parts["bpr"], -gap.sigmoid().log().mean())
    torch.testing.assert_close(parts["contrast"], 0.7 * expected)
    squares = sum(r.square().sum(1) for r in rows).mean() / 2
    lengths = sum(r.square().sum().sqrt() for r in rows) / len(batch.users)
    torch.testing.assert_close(parts["reg"], 0.3 * (squares if penalty == "squares" else lengths))


def test_one_modality_has_nothing_to_contrast():
    model, _, batch = build(("image",))
    assert list(model.loss(batch)) == ["bpr", "reg"]


def test_noise_and_dropout_are_of_training_alone():
    for settings, differ in (({"dropout": 0.0}, True), ({"noise": 0.0}, True), ({"dropout": 0.0, "noise": 0.0}, False)):
        model, _, _ = build(**settings)
        with torch.no_grad():
            noisy = [model.train().embed().users for _ in range(2)]
            quiet = [model.eval().embed().users for _ in range(2)]
        assert torch.equal(*quiet)
        assert torch.equal(*noisy) != differ
        if not differ:
            assert torch.equal(noisy[0], quiet[0])


def test_noise_is_gumbels():
    """So the strongest of noisy logits is drawn with the softmax's chances (the Gumbel-max trick)."""
    model, _, _ = build(dropout=0.0, temperature=0.01)
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64).expand(40000, 3)
    torch.manual_seed(0)
    chosen = model.train()._relaxed_choice(logits).argmax(1)
    shares = torch.bincount(chosen, minlength=3) / len(chosen)
    assert (shares - logits[0].softmax(0)).abs().max() < 0.01


def test_users_and_items_without_interactions_or_features_are_finite():
    """Row 0 has neither; item 1 has no picture; with one item taken by each user, others are taken by nobody."""
    model, data, batch = build(data=checkerboard(n=8, taken=1))
    loss = sum(model.train().loss(batch).values())
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    found = model.eval().embed()
    assert found.users.isfinite().all()
    other, _, _ = build(data=data.with_other("text"))
    unseen = ~data.seen.any(0)
    gap = (found.items - other.eval().embed().items)[unseen].abs().amax(1)
    assert gap.max() > 1e-4
