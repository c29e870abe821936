"""GRCN against the mathematics of its paper, edge by edge."""

import pytest
import torch
import torch.nn.functional as F

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

TAKEN = {0: [1, 2], 1: [1], 2: [], 3: [0, 1, 2]}  # user 2 took nothing, and nobody took item 3
TAKERS = {i: [u for u, taken in TAKEN.items() if i in taken] for i in range(4)}
USERS, ITEMS = 4, 4
WIDTHS = {"image": 4, "text": 3}


def build(modalities=("image", "text"), **settings):
    generator = torch.Generator().manual_seed(0)
    tables = {
        m: AlignedFeatures(torch.randn(ITEMS, WIDTHS[m], generator=generator), torch.ones(ITEMS, dtype=torch.bool))
        for m in modalities
    }
    users, items = zip(*((u, i) for u, taken in TAKEN.items() for i in taken), strict=True)
    interactions = Interactions(torch.tensor(users), torch.tensor(items), USERS, ITEMS)
    torch.manual_seed(1)
    settings = {"embedding_size": 3, "content_size": 2, **settings}
    return models.build("GRCN", settings, FrozenFeatures(tables), interactions).double().eval()


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def attention(receiver, senders):
    return torch.stack([receiver @ s for s in senders]).softmax(0) if senders else []


def content(model, modality):
    """Prototypes after routing, and the projected items."""
    part = model.of_modality[modality]
    items = unit(F.leaky_relu(model.features.table(modality) @ part.projection.weight.T + part.projection.bias))
    users = unit(part.preference.weight)
    for _ in range(model.options.n_routings):
        moved = []
        for u, taken in TAKEN.items():
            shares = attention(users[u], [items[i] for i in taken])
            moved.append(unit(users[u] + sum(a * items[i] for a, i in zip(shares, taken, strict=True))))
        users = torch.stack(moved)
    return users, items


def by_hand(model):
    """The embeddings of all users and items."""
    to_users, to_items = torch.zeros(USERS, ITEMS, 0), torch.zeros(ITEMS, USERS, 0)
    ends_u, ends_i = [], []
    for m in model.features.modalities:
        users, items = content(model, m)
        a, b = torch.zeros(USERS, ITEMS, dtype=torch.float64), torch.zeros(ITEMS, USERS, dtype=torch.float64)
        for u, taken in TAKEN.items():
            for share, i in zip(attention(users[u], [items[i] for i in taken]), taken, strict=True):
                a[u, i] = share
        for i, takers in TAKERS.items():
            for share, u in zip(attention(items[i], [users[u] for u in takers]), takers, strict=True):
                b[i, u] = share
        ends_u.append(users + a @ items)
        ends_i.append(items + b @ users)
        to_users, to_items = torch.cat([to_users, a[..., None]], 2), torch.cat([to_items, b[..., None]], 2)
    a = (to_users * model.item_confidence.weight[None]).amax(2)  # the sender is the item
    b = (to_items * model.user_confidence.weight[None]).amax(2)
    if model.options.pruning == "hard":
        a, b = a.relu(), b.relu()
    layer_u, layer_i = unit(model.user_id.weight), unit(model.item_id.weight)
    sum_u, sum_i = layer_u, layer_i
    for _ in range(model.options.n_layers):
        layer_u, layer_i = a @ layer_i, b @ layer_u
        sum_u, sum_i = sum_u + layer_u, sum_i + layer_i
    return torch.cat([sum_u, *ends_u], 1), torch.cat([sum_i, *ends_i], 1)


@pytest.mark.parametrize("modalities", [("image",), ("image", "text")], ids="+".join)
@pytest.mark.parametrize("settings", [{}, {"n_routings": 0, "pruning": "hard"}, {"n_layers": 1, "n_routings": 1}])
def test_embeddings_are_the_refined_graphs(modalities, settings):
    model = build(modalities, **settings)
    with torch.no_grad():
        model.user_confidence.weight.normal_()
        model.item_confidence.weight.normal_()
        out, (users, items) = model.embed(), by_hand(model)
    torch.testing.assert_close(out.users, users, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(out.items, items, rtol=1e-7, atol=1e-9)


def test_routing_moves_users_towards_their_items_and_the_published_code_does_not_move_them():
    routed, still = build(), build(n_routings=0)
    with torch.no_grad():
        for m in WIDTHS:
            before, items = content(still, m)
            after, _ = content(routed, m)
            torch.testing.assert_close(before, unit(still.of_modality[m].preference.weight))
            torch.testing.assert_close(after[2], before[2])  # took nothing
            assert after[1] @ items[1] > before[1] @ items[1]
        assert not torch.allclose(routed.embed().users[1], still.embed().users[1])


def test_hard_pruning_cuts_edges_that_no_modality_trusts():
    model = build(pruning="hard")
    with torch.no_grad():
        model.user_confidence.weight.fill_(-1)
        model.item_confidence.weight.fill_(-1)
        out = model.embed()
    torch.testing.assert_close(out.users[:, :3], unit(model.user_id.weight).detach())
    torch.testing.assert_close(out.items[:, :3], unit(model.item_id.weight).detach())


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
    after = model.embed().items[3].detach()
    assert torch.equal(after[:5], before[:5])
    assert not torch.allclose(after[5:], before[5:])
