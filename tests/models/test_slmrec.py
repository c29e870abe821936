"""SLMRec's parts against the formulas with whole matrices."""

import formulas
import pytest
import torch

from mmenc_plugin import models
from mmenc_plugin.testing import samples
from mmenc_plugin.testing.samples import checkerboard
from mmenc_plugin.types import TripletBatch


def build(task="FAC", modalities=("image", "text"), data=None, **settings):
    torch.manual_seed(0)
    data = data or checkerboard(modalities, n=8, taken=2)
    model = models.build("SLMRec", {"embedding_size": 4, "task": task} | settings, data.features, data.interactions)
    return samples.shaken(model).double(), data


def dense_branches(model, data, zeroed=None):
    matrix = formulas.adjacency(data.interactions)
    nothing = (None, torch.zeros_like(model.branches.item_id.weight))
    entering = {} if zeroed is None else {zeroed: nothing}
    return formulas.branches(model, data.features, [matrix] * model.branches.n_branches, entering)


def test_embeddings_are_the_fused_branches():
    model, data = build()
    users, items = formulas.fused(model, dense_branches(model, data))
    found = model.embed()
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items)


@pytest.mark.parametrize("modalities", [("image",), ("image", "text")])
def test_fac_meets_each_modality_in_its_own_space(modalities):
    model, data = build(modalities=modalities, contrast_weight=0.7, contrast_temperature=0.4, temperature=0.3)
    batch = data.batch(torch.Generator().manual_seed(0))
    branches = dense_branches(model, data)
    met, expected = branches[0][1][batch.positives], 0
    for (_, items), space in zip(branches[1:], model.spaces, strict=True):
        met = space["so_far"](met)
        expected = expected + formulas.cross_entropy(met, space["modality"](items[batch.positives]), 0.4)
    users, items = formulas.fused(model, branches)
    parts = model.loss(batch)
    torch.testing.assert_close(parts["FAC"], 0.7 * expected)
    torch.testing.assert_close(parts["softmax"], formulas.contrast(users[batch.users], items[batch.positives], 0.3))
    assert [space["modality"].out_features for space in model.spaces] == ([4] if len(modalities) == 1 else [4, 2])


@pytest.mark.parametrize("task", ["FM", "FD+FM"])
def test_fm_leaves_another_branch_out_of_each_view(task):
    """Without dropout, which evaluation has not, both tasks are the same."""
    model, data = build(task, contrast_temperature=0.4)
    model.eval()
    batch = data.batch(torch.Generator().manual_seed(0))
    for seed in range(4):
        torch.manual_seed(seed)
        found = model.loss(batch)[task]
        torch.manual_seed(seed)
        first, second = torch.randperm(3)[:2].tolist()
        assert first != second
        (u1, i1), (u2, i2) = (formulas.fused(model, dense_branches(model, data, zeroed)) for zeroed in (first, second))
        expected = formulas.contrast(u1[batch.users], u2[batch.users], 0.4)
        expected = expected + formulas.contrast(i1[batch.positives], i2[batch.positives], 0.4)
        torch.testing.assert_close(found, 0.1 * expected)


@pytest.mark.parametrize(("task", "dropout", "differ"), [("FD", 0.5, True), ("FD", 0.0, False), ("FAC", 0.5, False)])
def test_fd_drops_features_in_training_alone(task, dropout, differ):
    model, data = build(task, dropout=dropout)
    batch = data.batch(torch.Generator().manual_seed(0))
    losses = [sum(model.train(training).loss(batch).values()) for training in (True, True, False, False)]
    assert torch.equal(losses[2], losses[3])
    assert torch.equal(losses[0], losses[1]) != differ


@pytest.mark.parametrize("task", ["FD", "FM", "FD+FM"])
def test_tasks_with_views_learn(task):
    data = checkerboard(("image",))
    torch.manual_seed(0)
    model = models.build("SLMRec", {"embedding_size": 8, "task": task}, data.features, data.interactions)
    assert not len(model.spaces)
    samples.train(model, data, 100, 0.02)
    with torch.no_grad():
        best = model.topk(torch.arange(1, 25), 1, exclude=None).ids[:, 0]
    assert (best % 2 == torch.arange(1, 25) % 2).double().mean() >= 0.9


def test_the_penalty_is_of_the_batch():
    model, _ = build(reg_weight=0.5)
    batch = TripletBatch(torch.tensor([1, 2]), torch.tensor([3, 3]), torch.tensor([4, 4]))
    rows = torch.cat([model.branches.user_id.weight[[1, 2]], model.branches.item_id.weight[[3, 3]]])
    torch.testing.assert_close(model.loss(batch)["reg"], 0.5 * rows.square().sum() / 4)
    assert "reg" not in build()[0].loss(batch)


def test_an_item_nobody_took_is_scored_by_its_content():
    model, data = build()
    other, _ = build(data=data.with_other("text"))
    unseen = ~data.seen.any(0)
    assert unseen.any()
    with torch.no_grad():
        gap = (model.scores(torch.arange(1, 9)) - other.scores(torch.arange(1, 9)))[:, unseen].abs()
    assert gap.max() > 1e-4


def test_sizes_of_one_are_enough():
    data = checkerboard(("image", "text"), n=2, taken=1)
    model = models.build("SLMRec", {"embedding_size": 1, "n_layers": 0}, data.features, data.interactions)
    losses = model.loss(TripletBatch(*(torch.tensor([1]),) * 3))
    assert all(part.isfinite() for part in losses.values())
    assert model.embed().items.isfinite().all()
