"""MMGCL's views and losses against the formulas with whole matrices."""

import formulas
import pytest
import torch

from mmenc_plugin import models
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.models.blocks.graph import distinct
from mmenc_plugin.testing import samples
from mmenc_plugin.testing.samples import checkerboard

USERS = torch.arange(1, 9)


def build(modalities=("image", "text"), data=None, **settings):
    torch.manual_seed(0)
    data = data or checkerboard(modalities, n=8, taken=3)
    settings = {"embedding_size": 4, "contrast_weight": 0.7, "temperature": 0.5} | settings
    model = samples.shaken(models.build("MMGCL", settings, data.features, data.interactions)).double().train()
    return model, data, data.batch(torch.Generator().manual_seed(0))


def whole_branches(model, data, matrix=None):
    matrix = formulas.adjacency(data.interactions) if matrix is None else matrix
    return formulas.branches(model, data.features, [matrix] * model.branches.n_branches)


def kept_edges(graph, n_users):
    """The users and items that a bipartite graph joins, as a set."""
    rows, columns = graph.matrix().to_dense().nonzero().T
    return {(int(u), int(i) - n_users) for u, i in zip(rows, columns, strict=True) if u < n_users <= i}


def test_bpr_is_of_the_fused_branches():
    model, data, batch = build()
    users, items = formulas.fused(model, whole_branches(model, data))
    torch.testing.assert_close(model.embed().items, items)
    gap = (users[batch.users] * (items[batch.positives] - items[batch.negatives])).sum(1)
    torch.testing.assert_close(model.loss(batch)["bpr"], -gap.sigmoid().log().mean())


def drawn(model, n_negatives_from):
    """What the model draws for a batch after torch.manual_seed(0): masked branch, its noise, and the swapped branch."""
    torch.manual_seed(0)
    masked = 1 + int(torch.multinomial(model.chances, 1))
    tables = model.branches.user_id.weight, model.branches.item_id.weight
    noise = [torch.nn.init.xavier_uniform_(torch.empty_like(t)) for t in tables]
    return masked, noise, 1 + int(torch.randint(n_negatives_from, ()))


@pytest.mark.parametrize("challenging", [True, False])
@pytest.mark.parametrize("modalities", [("text",), ("image", "text")])
def test_users_meet_items_and_items_users_of_the_other_view(modalities, challenging):
    model, data, batch = build(modalities, challenging=challenging, edge_dropout=0.3)
    model.begin_epoch()
    kept = kept_edges(model.fewer_edges, data.interactions.n_users)
    pairs = zip(data.interactions.users.tolist(), data.interactions.items.tolist(), strict=True)
    keep = torch.tensor([pair in kept for pair in pairs])
    users_1, items_1 = formulas.fused(model, whole_branches(model, data, formulas.adjacency(data.interactions, keep)))
    masked, noise, swapped = drawn(model, len(modalities))
    matrix = formulas.adjacency(data.interactions)
    second = formulas.branches(model, data.features, [matrix] * (1 + len(modalities)), {masked: noise})
    users_2, items_2 = formulas.fused(model, second)
    positive, negative = ([part[1][ids] for part in second] for ids in (batch.positives, batch.negatives))
    positive[swapped] = negative[swapped]
    nearly = model.branches.item_fusion(torch.cat(positive, dim=1))
    candidates = torch.cat([items_2[batch.positives], nearly]) if challenging else items_2[batch.positives]
    expected = formulas.contrast(users_1[batch.users], candidates, 0.5)
    expected = expected + formulas.contrast(items_1[batch.positives], users_2[batch.users], 0.5)
    torch.manual_seed(0)
    torch.testing.assert_close(model.loss(batch)["contrast"], 0.7 * expected)


def test_the_first_view_alone_is_the_published_loss():
    model, data, batch = build(views="first", edge_dropout=0.0)
    model.begin_epoch()
    users, items = formulas.fused(model, whole_branches(model, data))
    expected = 0.7 * 2 * formulas.contrast(users[batch.users], items[batch.positives], 0.5)
    torch.testing.assert_close(model.loss(batch)["contrast"], expected)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_nodes_are_left_out_for_the_masked_modality(modality):
    chances = {"image": 0.0, "text": 0.0} | {modality: 2.0}
    model, data, batch = build(masking="nodes", edge_dropout=0.3, mask_chances=chances, challenging=False)
    model.begin_epoch()
    whole, left = distinct(data.interactions), kept_edges(model.fewer_nodes, 9)
    assert 0 < len(left) < len(whole[0])
    fewer = model.fewer_nodes.matrix().to_dense().double()
    matrices = [formulas.adjacency(data.interactions)] * 3
    matrices[1 + ["image", "text"].index(modality)] = fewer
    users_1, items_1 = formulas.fused(model, whole_branches(model, data, model.fewer_edges.matrix().to_dense()))
    users_2, items_2 = formulas.fused(model, formulas.branches(model, data.features, matrices))
    expected = formulas.contrast(users_1[batch.users], items_2[batch.positives], 0.5)
    expected = expected + formulas.contrast(items_1[batch.positives], users_2[batch.users], 0.5)
    torch.testing.assert_close(model.loss(batch)["contrast"], 0.7 * expected)


def test_an_epoch_leaves_out_the_share_of_edges_and_of_nodes():
    data = checkerboard(n=24, taken=10)
    model, _, _ = build(data=data, masking="nodes", edge_dropout=0.25)
    edges = set(zip(data.interactions.users.tolist(), data.interactions.items.tolist(), strict=True))
    draws = []
    for _ in range(2):
        model.begin_epoch()
        fewer, thinner = (kept_edges(g, 25) for g in (model.fewer_edges, model.fewer_nodes))
        assert fewer < edges
        assert len(fewer) == int(0.75 * len(edges))
        lost_users, lost_items = (24 - len({pair[side] for pair in thinner}) for side in (0, 1))
        assert max(lost_users, lost_items) <= 6  # of 25 nodes, row 0 among them
        assert min(lost_users, lost_items) >= 5
        gone = [{pair[side] for pair in edges} - {pair[side] for pair in thinner} for side in (0, 1)]
        assert thinner == {(u, i) for u, i in edges if u not in gone[0] and i not in gone[1]}
        draws.append((fewer, thinner))
    assert draws[0][0] != draws[1][0]
    assert draws[0][1] != draws[1][1]
    with torch.no_grad():
        assert torch.equal(model.train().embed().users, model.eval().embed().users)


@pytest.mark.parametrize("chances", [{"image": 0.0, "text": 0.0}, {"text": 0, "image": 0, "fused": 1}])
def test_chances_that_mask_nothing_are_refused(chances):
    with pytest.raises(SettingsError, match="masks none of image, text: give one of them a chance above 0"):
        build(mask_chances=chances)


def test_negative_chances_and_unknown_modalities_are_refused():
    for chances in ({"image": -1.0}, {"sound": 1.0}):
        with pytest.raises(SettingsError, match="mask_chances"):
            build(mask_chances=chances)


def test_the_penalty_is_of_the_batch():
    model, _, batch = build(reg_weight=0.5)
    b = model.branches
    rows = b.user_id.weight[batch.users], b.item_id.weight[batch.positives], b.item_id.weight[batch.negatives]
    expected = 0.25 * sum(r.square().sum(1) for r in rows).mean()
    torch.testing.assert_close(model.loss(batch)["reg"], expected)


def test_an_item_nobody_took_is_scored_by_its_content():
    model, data, _ = build(data=checkerboard(n=8, taken=1))
    other, _, _ = build(data=data.with_other("text"))
    unseen = ~data.seen.any(0)
    assert unseen.sum() > 1
    with torch.no_grad():
        gap = (model.scores(USERS) - other.scores(USERS))[:, unseen].abs()
    assert gap.max() > 1e-4
