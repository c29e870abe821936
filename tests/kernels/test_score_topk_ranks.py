"""score_topk: ranks of target items, against plain counts."""

import pytest
import torch
from topk_cases import SCORERS, by_hand, csr, found, normal, random_csr, rows_of, small_tiles, whole_numbers

from mmenc_plugin.kernels import score_topk


@pytest.fixture(params=SCORERS)
def scorer(request):
    return request.param


def ranks(*arguments, **keywords):
    return found(score_topk(*arguments, **keywords))[1]


def test_a_rank_is_the_place_in_the_list(scorer):
    users, items, exclude = normal(30, 16), normal(400, 16, seed=1), random_csr(30, 400)
    full = score_topk(users, items, 400, exclude=exclude, scorer=scorer)
    targets = csr([[row[0], row[7], row[100], row[380]] for row in full.ids.tolist()])
    top = score_topk(users, items, 5, exclude=exclude, targets=targets, scorer=scorer)
    assert (top.ranks.above + top.ranks.tied_before).tolist() == [0, 7, 100, 380] * 30
    assert top.ranks.tied.tolist() == [0] * 120


def test_ties_are_counted_apart(scorer):
    items = torch.tensor([[1.0], [2.0], [1.0], [1.0], [0.0], [1.0]])
    targets = csr([[3, 1, 4, 0, 5]])
    assert ranks(torch.ones(1, 1), items, 2, targets=targets, scorer=scorer) == [
        (1, 3, 2),
        (0, 0, 0),
        (5, 0, 0),
        (1, 3, 0),
        (1, 3, 3),
    ]


def test_a_target_that_may_not_be_returned_is_ranked_as_if_it_might(scorer):
    items = torch.tensor([[5.0], [4.0], [3.0], [2.0], [3.0]])
    arguments = {"k": 2, "targets": csr([[2, 0]]), "scorer": scorer}
    assert ranks(torch.ones(1, 1), items, exclude=csr([[2, 1]]), **arguments) == [(1, 1, 0), (0, 0, 0)]
    assert ranks(torch.ones(1, 1), items, candidates=torch.tensor([4, 1]), **arguments) == [(1, 1, 0), (0, 0, 0)]
    both = {"exclude": csr([[2, 4]]), "candidates": torch.tensor([4, 1])}
    assert ranks(torch.ones(1, 1), items, **both, **arguments) == [(1, 0, 0), (0, 0, 0)]


def test_items_at_minus_infinity_are_no_rivals(scorer):
    """Also for a target that is there itself."""
    bias = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0])
    found_ = ranks(torch.ones(1, 1), torch.ones(4, 1), 4, bias, targets=csr([[1, 0]]), scorer=scorer)
    assert found_ == [(0, 1, 0), (2, 0, 0)]


def test_a_target_may_stand_twice(scorer):
    items = torch.tensor([[1.0], [1.0], [2.0]])
    assert ranks(torch.ones(1, 1), items, 1, targets=csr([[1, 1]]), scorer=scorer) == [(1, 1, 1)] * 2


@pytest.mark.parametrize("tiles", [(1, 4, 2), (3, 16, 4), (512, 2048, 32)], ids=str)
def test_users_with_none_few_and_many_targets(monkeypatch, scorer, tiles):
    small_tiles(monkeypatch, *tiles)
    users, items = whole_numbers(7, 3), whole_numbers(60, 3, seed=1)
    targets = csr([[], [3], list(range(60)), [], [1, 59], [0], []])
    expected = by_hand(users, items, 3, None, random_csr(7, 60), targets=targets)
    top = score_topk(users, items, 3, None, random_csr(7, 60), targets=targets, scorer=scorer)
    assert found(top) == expected


def test_the_area_under_the_curve_is_that_of_all_pairs(scorer):
    """Of each user, the share of (target, other) pairs in which the target scores higher, ties counting half."""
    users, items = whole_numbers(12, 2), whole_numbers(150, 2, seed=1)
    targets = csr([torch.randperm(150, generator=torch.Generator().manual_seed(u))[:5].tolist() for u in range(12)])
    top = score_topk(users, items, 1, targets=targets, scorer=scorer)
    average = (top.ranks.above + top.ranks.tied / 2).view(12, 5)
    area = 1 - (average.sum(1) - 5 * 4 / 2) / (5 * 145)
    for user, wanted in enumerate(rows_of(targets)):
        scores = items @ users[user]
        rest = [row for row in range(150) if row not in wanted]
        wins = torch.sign(scores[wanted][:, None] - scores[rest]) / 2 + 0.5
        assert area[user].item() == pytest.approx(wins.mean().item(), abs=1e-6)


def test_ranks_do_not_depend_on_the_list(scorer):
    users, items, targets = normal(9, 8), normal(300, 8, seed=1), random_csr(9, 300, most=5)
    first = score_topk(users, items, 1, targets=targets, scorer=scorer)
    second = score_topk(users, items, 300, targets=targets, scorer=scorer)
    assert found(first)[1] == found(second)[1]
