"""score_topk: the answers of a plain sort, in tiles as with the whole matrix."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from topk_cases import (
    SCORERS,
    assert_same,
    by_hand,
    csr,
    found,
    normal,
    random_csr,
    small_tiles,
    whole_numbers,
)
from torch.utils._python_dispatch import TorchDispatchMode

from mmenc_plugin.kernels import KERNELS, score_topk
from mmenc_plugin.kernels.score_topk import cpu, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TILES = [(1, 1, 1), (2, 4, 2), (4, 12, 4), (3, 32, 32), (512, 2048, 32)]  # users, items, items of a group


@pytest.fixture(params=SCORERS)
def scorer(request):
    return request.param


@pytest.mark.parametrize("tiles", TILES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 5, 50])
def test_the_ranking_is_that_of_a_plain_sort(monkeypatch, tiles, dtype, k):
    small_tiles(monkeypatch, *tiles)
    users, items = whole_numbers(9, 3, dtype=dtype), whole_numbers(50, 3, dtype=dtype, seed=1)
    bias, exclude, targets = whole_numbers(50, seed=2), random_csr(9, 50), random_csr(9, 50, most=4, seed=1)
    candidates = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:31]
    for extra in [
        {},
        {"exclude": exclude},
        {"bias": bias, "targets": targets},
        {"bias": bias, "exclude": exclude, "candidates": candidates, "targets": targets},
    ]:
        expected = by_hand(users, items, k, **extra)
        for scorer in SCORERS if tiles == TILES[-1] and k == 5 else ["cpu"]:
            top = score_topk(users, items, k, **extra, scorer=scorer)
            assert found(top) == expected, (scorer, *extra)
            assert top.ids.dtype == torch.int64
            assert top.scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("users", [1, 2, 511, 512, 513])
@pytest.mark.parametrize("items", [1, 31, 33, 2047, 2048, 2049, 4097])
def test_sizes_around_those_of_the_tiles(users, items):
    queries, table = whole_numbers(users, 5), whole_numbers(items, 5, seed=1)
    extra = {
        "bias": whole_numbers(items, seed=2),
        "exclude": random_csr(users, items),
        "targets": random_csr(users, items, most=2, seed=1),
    }
    expected = score_topk(queries, table, 20, **extra, scorer="reference")
    assert_same(score_topk(queries, table, 20, **extra, scorer="cpu"), expected)


@pytest.mark.parametrize("dimension", [1, 2, 3, 15, 16, 17, 64, 100, 257, 1024])
def test_widths(scorer, dimension):
    users, items = whole_numbers(3, dimension), whole_numbers(70, dimension, seed=1)
    expected = score_topk(users.double(), items.double(), 7, scorer="reference")
    for dtype in DTYPES:
        top = score_topk(users.to(dtype), items.to(dtype), 7, scorer=scorer)
        assert torch.equal(top.ids, expected.ids)
        assert torch.equal(top.scores.double(), expected.scores)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 50, 600])
def test_of_any_numbers_none_is_passed_over(scorer, dtype, k):
    """The scores are right to their precision, the order is theirs, and what is left out is no better."""
    n_users, n_items = (5, 700) if scorer == "triton" else (40, 5000)
    users, items = normal(n_users, 64, dtype=dtype), normal(n_items, 64, seed=1, dtype=dtype)
    exclude = random_csr(n_users, n_items)
    top = score_topk(users, items, k, exclude=exclude, scorer=scorer)
    exact = users.double() @ items.double().T
    for user, row in enumerate(exact):
        row[exclude[1][exclude[0][user] : exclude[0][user + 1]]] = -torch.inf
    torch.testing.assert_close(top.scores.double(), exact.gather(1, top.ids), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(top.scores.double(), exact.topk(k).values, rtol=1e-5, atol=1e-4)
    falling = top.scores.diff(dim=1)
    assert (falling <= 0).all()
    assert ((falling < 0) | (top.ids.diff(dim=1) > 0)).all()
    if dtype == torch.float64:
        assert torch.equal(top.ids, exact.topk(k).indices)


@pytest.mark.parametrize("order", ["rising", "falling", "equal", "peaks"])
@pytest.mark.parametrize("k", [1, 63, 64, 65, 900])
def test_no_order_of_the_scores_is_too_hard(scorer, order, k):
    """Rising scores make every tile better than all before, and one user's do so among others' falling ones."""
    if scorer == "triton" and k in (63, 64):
        pytest.skip("the same as 65")
    rising = torch.arange(300.0 if scorer == "triton" else 5000.0)
    items = {
        "rising": torch.stack([rising, rising.flip(0)], 1),
        "falling": torch.stack([-rising, rising.flip(0)], 1),
        "equal": torch.zeros(len(rising), 2),
        "peaks": torch.stack([rising % 32, rising % 61], 1),
    }[order]
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    top = score_topk(users, items, k, scorer=scorer)
    expected = torch.sort(users @ items.T, dim=1, descending=True, stable=True)
    assert torch.equal(top.ids, expected.indices[:, :k])
    assert torch.equal(top.scores, expected.values[:, :k])


def test_equal_items_tie_wherever_they_stand():
    """Also those of the last, smaller tile, though a product of its shape would be rounded otherwise."""
    for dimension in (3, 64, 100, 384):
        users, item = normal(7, dimension), normal(1, dimension, seed=1)
        items = item.repeat(66_001, 1)
        top = score_topk(users, items, 3, targets=csr([[66_000]] * 7), scorer="cpu")
        assert top.ids.tolist() == [[0, 1, 2]] * 7
        assert (top.ranks.above.tolist(), top.ranks.tied_before.tolist()) == ([0] * 7, [66_000] * 7)


def test_the_same_bits_every_time(scorer):
    n_users, n_items = (9, 500) if scorer == "triton" else (700, 5000)
    users, items = normal(n_users, 48), normal(n_items, 48, seed=1)
    exclude, targets = random_csr(n_users, n_items), random_csr(n_users, n_items, most=3, seed=1)
    first, second = (score_topk(users, items, 30, None, exclude, targets=targets, scorer=scorer) for _ in range(2))
    assert_same(first, second)


def test_views_are_as_good_as_copies(scorer):
    users, items, bias = whole_numbers(6, 9).T, whole_numbers(6, 200, seed=1).T, whole_numbers(400, seed=2)[::2]
    expected = by_hand(users, items, 8, bias)
    assert found(score_topk(users, items, 8, bias, scorer=scorer)) == expected


def test_candidates_are_as_a_table_of_their_own(scorer):
    users, items, candidates = whole_numbers(9, 4), whole_numbers(300, 4, seed=1), torch.randperm(300)[:70]
    top = score_topk(users, items, 12, candidates=candidates, scorer=scorer)
    rows = candidates.sort().values
    alone = score_topk(users, items[rows], 12, scorer=scorer)
    assert torch.equal(top.ids, rows[alone.ids])
    assert torch.equal(top.scores, alone.scores)


def test_at_most_all_items_or_candidates_come_back(scorer):
    items = torch.tensor([[1.0], [3.0], [2.0]])
    top = score_topk(torch.ones(2, 1), items, 10, scorer=scorer)
    assert found(top)[0] == [[(1, 3.0), (2, 2.0), (0, 1.0)]] * 2
    top = score_topk(torch.ones(2, 1), items, 10, candidates=torch.tensor([2, 0]), scorer=scorer)
    assert found(top)[0] == [[(2, 2.0), (0, 1.0)]] * 2


def test_a_user_with_too_few_items_left_gets_minus_one(scorer):
    exclude = csr([[2, 0, 1, 1], [1, 0]])
    top = score_topk(torch.ones(2, 1), torch.ones(3, 1), 2, exclude=exclude, scorer=scorer)
    assert top.ids.tolist() == [[-1, -1], [2, -1]]
    assert top.scores.tolist() == [[-torch.inf] * 2, [1.0, -torch.inf]]


def test_an_item_with_bias_minus_infinity_is_never_returned(scorer):
    bias = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    top = score_topk(torch.ones(1, 2), torch.ones(4, 2), 4, bias, scorer=scorer)
    assert found(top)[0] == [[(0, 2.0), (2, 2.0), (-1, -torch.inf), (-1, -torch.inf)]]


def test_a_user_may_have_whole_tiles_excluded(monkeypatch, scorer):
    small_tiles(monkeypatch, 2, 8, 4)
    exclude = csr([range(16), [*range(8), *range(16, 24)]])
    top = score_topk(torch.ones(2, 1), torch.ones(26, 1), 11, exclude=exclude, scorer=scorer)
    assert top.ids.tolist() == [[*range(16, 26), -1], [*range(8, 16), 24, 25, -1]]


def test_long_histories_make_blocks_of_fewer_users(monkeypatch):
    monkeypatch.setattr(cpu, "ENTRIES", 20)
    users, items, exclude = whole_numbers(40, 3), whole_numbers(90, 3, seed=1), random_csr(40, 90, most=45)
    sizes = [block.stop - block.start for block in cpu._blocks(exclude[0])]
    assert sum(sizes) == 40
    assert len(set(sizes)) > 1
    assert found(score_topk(users, items, 9, exclude=exclude, scorer="cpu")) == by_hand(users, items, 9, None, exclude)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 3e36])
def test_scales_far_from_one(scorer, scale):
    users, items = whole_numbers(5, 4) * scale**0.5, whole_numbers(100, 4, seed=1) * scale**0.5
    top = score_topk(users, items, 9, scorer=scorer)
    exact = (users.double() @ items.double().T).topk(9)
    torch.testing.assert_close(top.scores.double(), exact.values, rtol=1e-6, atol=0.0)


def test_half_types_do_not_overflow_where_their_scores_would(scorer):
    users, items = torch.full((1, 64), 300.0), torch.stack([torch.full((64,), 300.0), torch.full((64,), 299.0)])
    top = score_topk(users.half(), items.half(), 2, scorer=scorer)
    assert found(top)[0] == [[(0, 64 * 90_000.0), (1, 64 * 89_700.0)]]


def test_infinite_scores_are_ranked_where_they_have_a_value(scorer):
    items = torch.tensor([[1.0], [torch.inf], [-torch.inf], [2.0]])
    top = score_topk(torch.ones(1, 1), items, 4, scorer=scorer)
    assert found(top)[0] == [[(1, torch.inf), (3, 2.0), (0, 1.0), (-1, -torch.inf)]]


@pytest.mark.parametrize("shape", [(0, 7, 4), (2, 0, 4), (0, 0, 4), (2, 3, 0)], ids=str)
def test_nothing_to_rank(scorer, shape):
    users, items, dimension = shape
    top = score_topk(torch.ones(users, dimension), torch.ones(items, dimension), 3, scorer=scorer)
    assert found(top)[0] == [[(i, 0.0) for i in range(items)]] * users
    assert top.ids.shape == top.scores.shape == (users, min(items, 3))


def test_no_candidates_and_targets_for_no_one(scorer):
    none = torch.zeros(0, dtype=torch.int64)
    top = score_topk(torch.ones(2, 1), torch.ones(3, 1), 3, None, csr([[1], []]), candidates=none, scorer=scorer)
    assert top.ids.shape == (2, 0)
    assert top.ranks is None
    top = score_topk(torch.ones(2, 1), torch.ones(3, 1), 3, targets=csr([[], []]), scorer=scorer)
    assert found(top)[1] == []
    assert top.ranks.above.dtype == torch.int64


def test_the_inputs_are_left_as_they_are(scorer):
    tensors = [whole_numbers(5, 3), whole_numbers(20, 3), whole_numbers(20), *random_csr(5, 20), *random_csr(5, 20)]
    candidates = torch.randperm(20)[:9]
    before = [tensor.clone() for tensor in (*tensors, candidates)]
    users, items, bias, *csrs = tensors
    score_topk(users, items, 4, bias, csrs[:2], candidates=candidates, targets=csrs[2:], scorer=scorer)
    assert all(torch.equal(a, b) for a, b in zip(before, (*tensors, candidates), strict=True))


def test_no_tensor_is_as_large_as_the_score_matrix():
    """Not even one of flags: the largest made is a tile, or the answer."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    users, items = normal(600, 2), normal(70_000, 2, seed=1)
    targets = random_csr(600, 70_000, most=3)
    with Largest() as largest:
        cpu.score_topk(users, items, 20, None, random_csr(600, 70_000), None, targets)
    assert largest.size <= cpu.FIRST * cpu.AREA < 600 * 70_000 / 9


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_masks_candidates_and_targets(monkeypatch, data):
    small_tiles(monkeypatch, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5)))
    n_users, n_items = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 24))
    rows = st.lists(st.integers(0, n_items - 1), max_size=2 * n_items)
    users, items = whole_numbers(n_users, 2, largest=1), whole_numbers(n_items, 2, seed=1, largest=1)
    bias = data.draw(st.lists(st.sampled_from([0.0, 1.0, -torch.inf]), min_size=n_items, max_size=n_items))
    candidates = data.draw(st.none() | st.lists(st.integers(0, n_items - 1), unique=True))
    extra = {
        "bias": torch.tensor(bias),
        "exclude": csr(data.draw(st.lists(rows, min_size=n_users, max_size=n_users))),
        "candidates": None if candidates is None else torch.tensor(candidates, dtype=torch.int64),
        "targets": csr(data.draw(st.lists(rows, min_size=n_users, max_size=n_users))),
    }
    k = data.draw(st.integers(1, n_items + 2))
    expected = by_hand(users, items, k, **extra)
    for name in ("cpu", "reference"):
        assert found(score_topk(users, items, k, **extra, scorer=name)) == expected, name


def test_the_reference_differs_from_the_tiles_in_nothing():
    users, items, exclude = normal(60, 16), normal(3000, 16, seed=1), random_csr(60, 3000)
    expected = reference.score_topk(users.double(), items.double(), 25, None, exclude)
    assert_same(cpu.score_topk(users.double(), items.double(), 25, None, exclude), expected)


def test_every_kernel_is_described():
    what, implementations = KERNELS["score_topk"]
    assert what
    assert {"cpu", "reference"} <= set(implementations)
