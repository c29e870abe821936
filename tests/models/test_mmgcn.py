"""MMGCN against its paper's equations, written out for every node by hand."""

import pytest
import torch
import torch.nn.functional as F

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

TAKEN = {0: [1, 2], 1: [1], 2: [], 3: [0, 1, 2]}  # user 2 took nothing, and nobody took item 3
USERS, ITEMS = 4, 4
WIDTHS = {"image": 6, "text": 3}


def build(**settings):
    generator = torch.Generator().manual_seed(0)
    tables = {
        m: AlignedFeatures(torch.randn(ITEMS, d, generator=generator), torch.ones(ITEMS, dtype=torch.bool))
        for m, d in WIDTHS.items()
    }
    users, items = zip(*((u, i) for u, taken in TAKEN.items() for i in taken), strict=True)
    interactions = Interactions(torch.tensor(users), torch.tensor(items), USERS, ITEMS)
    torch.manual_seed(1)
    settings = {"embedding_size": 2, "content_size": 4, **settings}
    return models.build("MMGCN", settings, FrozenFeatures(tables), interactions).double().eval()


def neighbours(node):
    """Nodes 0..3 are users, 4..7 items."""
    if node < USERS:
        return [i + USERS for i in TAKEN[node]]
    return [u for u, taken in TAKEN.items() if node - USERS in taken]


def by_hand(model, modality, combination, n_layers):
    """u_m^(L) and i_m^(L): equations 2, 5, 6 or 7, node by node."""
    part, features = model.of_modality[modality], model.features.table(modality)
    identity = [*model.user_id.weight, *model.item_id.weight]
    start = [*part.preference.weight, *part.projection(features)]
    nodes = [row / row.norm() for row in start]
    for layer in part.layers[:n_layers]:
        after = []
        for n, (node, id_) in enumerate(zip(nodes, identity, strict=True)):
            messages = [layer.neighbour.weight @ nodes[j] for j in neighbours(n)]
            around = F.leaky_relu(sum(messages) / len(messages)) if messages else torch.zeros_like(node)
            own = F.leaky_relu(layer.node.weight @ node + layer.node.bias) + id_
            if combination == "concat":
                after.append(F.leaky_relu(layer.both.weight @ torch.cat([around, own]) + layer.both.bias))
            else:
                after.append(F.leaky_relu(layer.both.weight @ around + layer.both.bias + own))
        nodes = after
    return torch.stack(nodes)


@pytest.mark.parametrize("combination", ["concat", "sum"])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("fusion", ["sum", "mean"])
def test_embeddings_are_the_papers_equations(combination, n_layers, fusion):
    model = build(combination=combination, n_layers=n_layers, fusion=fusion)
    ends = sum(by_hand(model, m, combination, n_layers) for m in WIDTHS) / (2 if fusion == "mean" else 1)
    out = model.embed()
    torch.testing.assert_close(torch.cat([out.users, out.items]), ends, rtol=1e-7, atol=1e-9)


def test_only_features_wider_than_content_size_are_projected():
    model = build(content_size=4)
    assert model.of_modality["image"].preference.weight.shape == (USERS, 4)
    assert model.of_modality["image"].projection.weight.shape == (4, 6)
    assert model.of_modality["text"].preference.weight.shape == (USERS, 3)
    assert not list(model.of_modality["text"].projection.parameters())


def test_the_published_code_trains_no_embedding():
    batch = TripletBatch(torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tensor([0, 3]))
    learned = {}
    for train_embeddings in (True, False):
        model = build(train_embeddings=train_embeddings).train()
        sum(model.loss(batch).values()).backward()
        learned[train_embeddings] = {name for name, p in model.named_parameters() if p.grad is not None}
    tables = {"user_id.weight", "item_id.weight"} | {f"of_modality.{m}.preference.weight" for m in WIDTHS}
    assert learned[True] - learned[False] == tables


def test_the_penalty_is_half_the_squares_of_the_batchs_embeddings_and_preferences():
    model = build(reg_weight=0.5)
    batch = TripletBatch(torch.tensor([2, 0]), torch.tensor([1, 1]), torch.tensor([3, 0]))
    rows = [model.user_id.weight[[2, 0]], model.item_id.weight[[1, 1]], model.item_id.weight[[3, 0]]]
    rows += [model.of_modality[m].preference.weight[[2, 0]] for m in WIDTHS]
    expected = 0.5 * sum(r.square().sum().item() for r in rows) / 2 / 2
    assert model.loss(batch)["reg"].item() == pytest.approx(expected, rel=1e-12)


def test_an_item_that_nobody_took_is_told_by_its_content():
    model = build()
    before = model.embed().items[3].detach()
    model.features.table("text")[3] += 1
    assert not torch.allclose(model.embed().items[3], before)
