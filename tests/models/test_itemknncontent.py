"""ItemKNNContent against the sum over the user's items, written out in loops."""

import pytest
import torch
import torch.nn.functional as F

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.models import itemknncontent
from mmenc_plugin.types import Interactions

USERS, ITEMS = 5, 9  # user and item 0 are padding; item 2 has no picture
WIDTHS = {"image": 4, "text": 3}
PAIRS = [(1, 1), (1, 4), (2, 3), (3, 1), (3, 2), (3, 8), (3, 8)]  # user 4 took nothing; one pair is given twice


def data(modalities=("image", "text")):
    generator = torch.Generator().manual_seed(0)
    tables = {}
    for m in modalities:
        present = torch.arange(ITEMS) > 0
        present[2] = m != "image"
        values = torch.randn(ITEMS, WIDTHS[m], generator=generator, dtype=torch.float64)
        values[2] += 5  # a filler, where the picture is missing
        tables[m] = AlignedFeatures(values, present)
    return FrozenFeatures(tables)


def build(features=None, pairs=PAIRS, **settings):
    users, items = torch.tensor(pairs).T if pairs else torch.zeros(2, 0, dtype=torch.int64)
    features = features or data()
    n_items = len(features.table(features.modalities[0]))
    interactions = Interactions(users, items, USERS, n_items)
    return models.build("ItemKNNContent", settings, features, interactions).double().eval()


def likeness(features, shares):
    """[I, I] of sum_m w_m cos, none for items that have nothing."""
    out = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    for m, share in shares.items():
        for i in range(ITEMS):
            for j in range(ITEMS):
                if features.present(m)[i] and features.present(m)[j]:
                    out[i, j] += share * F.cosine_similarity(features.table(m)[i], features.table(m)[j], dim=0)
    return out


def by_hand(like, k):
    """Scores of all users and items."""
    scores = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    for i in range(ITEMS):
        others = sorted((j for j in range(ITEMS) if j != i and i and j), key=lambda j: -like[i, j].item())
        for u, j in set(PAIRS):
            if k == 0 or j in others[:k]:
                scores[u, i] += like[i, j]
    return scores


@pytest.mark.parametrize("k", [0, 1, 3, 6])
@pytest.mark.parametrize(
    ("settings", "shares"),
    [({}, {"image": 0.5, "text": 0.5}), ({"image_weight": 0.2}, {"image": 0.2, "text": 0.8})],
)
def test_scores_are_sums_of_cosines(k, settings, shares):
    model = build(knn_k=k, **settings)
    expected = by_hand(likeness(model.features, shares), k)
    scores = model.scores(torch.arange(USERS))
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-7)
    users, items = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).unbind(1)
    torch.testing.assert_close(model.pair_scores(users, items), expected.flatten(), rtol=1e-6, atol=1e-7)
    some = torch.tensor([3, 1, 3])
    torch.testing.assert_close(model.scores(some), expected[some], rtol=1e-6, atol=1e-7)


def test_more_neighbours_than_items_are_all_of_them():
    """The two forms differ in the user's own items alone, which rankings leave out."""
    nearest, all_ = (build(knn_k=k).scores(torch.arange(USERS)) for k in (1000, 0))
    taken = torch.zeros(USERS, ITEMS, dtype=torch.bool)
    taken[torch.tensor(PAIRS)[:, 0], torch.tensor(PAIRS)[:, 1]] = True
    torch.testing.assert_close(nearest[~taken], all_[~taken], rtol=1e-6, atol=1e-7)
    assert (all_[taken] > nearest[taken]).all()


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("cells", [1, 20, 16_000_000])
def test_topk_is_the_sorted_scores_without_the_excluded(k, cells, monkeypatch):
    monkeypatch.setattr(itemknncontent, "_CELLS", cells)
    model, users = build(knn_k=k), torch.tensor([3, 1, 4, 2])
    exclude = torch.tensor([0, 3, 3, 4, 12]), torch.tensor([1, 2, 8, 5, *range(1, 9)])
    scores = model.scores(users)
    for row, (start, stop) in enumerate(zip(exclude[0], exclude[0][1:], strict=False)):
        scores[row, exclude[1][start:stop]] = -torch.inf
    order = scores.sort(dim=1, descending=True, stable=True)
    top = model.topk(users, 5, exclude)
    torch.testing.assert_close(top.scores, order.values[:, :5])
    assert torch.equal(top.ids, order.indices[:, :5].masked_fill(order.values[:, :5] == -torch.inf, -1))
    assert model.topk(users, 100).ids.shape == (4, ITEMS)
    assert model.topk(users[:0], 5).ids.shape == (0, 5)


def test_only_the_form_of_all_neighbours_is_a_product():
    assert build(knn_k=0).is_product
    nearest = build(knn_k=3)
    assert not nearest.is_product
    with pytest.raises(NotImplementedError, match="knn_k"):
        nearest.embed()


@pytest.mark.parametrize("k", [0, 3])
def test_one_item_no_features_and_no_interactions_give_zeros(k):
    one = FrozenFeatures({"text": AlignedFeatures(torch.ones(1, 2), torch.zeros(1, dtype=torch.bool))})
    assert not build(one, [(1, 0)], knn_k=k).scores(torch.arange(USERS)).any()
    nothing = FrozenFeatures({"text": AlignedFeatures(torch.zeros(ITEMS, 2), torch.ones(ITEMS, dtype=torch.bool))})
    assert not build(nothing, knn_k=k).scores(torch.arange(USERS)).any()
    assert not build(pairs=[], knn_k=k).scores(torch.arange(USERS)).any()
    assert build(pairs=[], knn_k=k).pair_scores(torch.tensor([1]), torch.tensor([2])).tolist() == [0]
