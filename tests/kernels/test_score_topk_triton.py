"""score_topk's Triton kernels, in Triton's interpreter or on a GPU: where their tiles, parts and blocks meet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from topk_cases import assert_same, by_hand, csr, found, normal, random_csr, whole_numbers

pytest.importorskip("triton")

from mmenc_plugin.kernels import score_topk
from mmenc_plugin.kernels.dispatch import choose
from mmenc_plugin.kernels.score_loss._triton_events import Split
from mmenc_plugin.kernels.score_topk import _triton_config, triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_device(value):
    if isinstance(value, tuple):
        return tuple(part.to(DEVICE) for part in value)
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value


def ranked(users, items, k, **extra):
    """By Triton; everything comes back to the CPU."""
    assert choose("score_topk", "triton", on_device(users), on_device(items)) == "triton"
    extra = {name: on_device(value) for name, value in extra.items()}
    top = score_topk(on_device(users), on_device(items), k, **extra, scorer="triton")
    ranks = top.ranks and type(top.ranks)(*(getattr(top.ranks, n).cpu() for n in ("above", "tied", "tied_before")))
    return type(top)(top.ids.cpu(), top.scores.cpu(), ranks)


def everything(n_users, n_items):
    return {
        "bias": whole_numbers(n_items, seed=2),
        "exclude": random_csr(n_users, n_items),
        "targets": random_csr(n_users, n_items, most=2, seed=1),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("users", [1, 127, 129])
@pytest.mark.parametrize("items", [1, 31, 128, 257])
def test_sizes_around_those_of_the_tiles(dtype, users, items):
    queries, table = whole_numbers(users, 5, dtype=dtype), whole_numbers(items, 5, seed=1, dtype=dtype)
    k = 2 if users > 1 else 40
    extra = everything(users, items)
    assert_same(ranked(queries, table, k, **extra), score_topk(queries, table, k, **extra, scorer="reference"))


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_columns_in_parts_of_their_own(monkeypatch, parts):
    """Each part begins with the first event that lies in it, and its counts are added up."""
    monkeypatch.setattr(Split, "of", lambda n_x, n_y, block_x, block_y, device: Split.into(parts, n_y, block_y))
    users, items = whole_numbers(3, 4), whole_numbers(333, 4, seed=1)
    exclude = csr([[0, 63, 64, 127, 128, 332], range(100, 300), []])
    extra = {"exclude": exclude, "targets": csr([[64, 5], [332], range(0, 333, 50)])}
    assert found(ranked(users, items, 9, **extra)) == by_hand(users, items, 9, **extra)


def test_users_and_targets_in_blocks(monkeypatch):
    monkeypatch.setattr(triton, "MAXIMA", 1)
    monkeypatch.setattr(triton, "TARGETS", 50)
    users, items, extra = whole_numbers(260, 3), whole_numbers(70, 3, seed=1), everything(260, 70)
    assert_same(ranked(users, items, 2, **extra), score_topk(users, items, 2, **extra, scorer="reference"))


@pytest.mark.parametrize("size", [32, 64])
def test_groups_of_every_size(monkeypatch, size):
    monkeypatch.setattr(_triton_config, "GROUPS", {_triton_config.WIDE: size})
    users, items, extra = whole_numbers(4, 3), whole_numbers(200, 3, seed=1), everything(4, 200)
    for k in (1, 3, 150):
        assert found(ranked(users, items, k, **extra)) == by_hand(users, items, k, **extra)


def test_nothing_is_read_beyond_the_ends(monkeypatch):
    """What stands there is NaN, and so is memory that nobody has written to."""
    users, items = torch.full((40, 3), torch.nan), torch.full((500, 3), torch.nan)
    bias = torch.full((500,), torch.nan)
    users[:5], items[:131], bias[:131] = whole_numbers(5, 3), whole_numbers(131, 3, seed=1), whole_numbers(131, seed=2)
    extra = {"exclude": random_csr(5, 131), "targets": random_csr(5, 131, most=3, seed=1), "bias": bias[:131]}
    torch.use_deterministic_algorithms(True)
    try:
        top = ranked(users[:5], items[:131], 7, **extra)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found(top) == by_hand(users[:5], items[:131], 7, **extra)


def test_equal_scores_in_equal_groups():
    """More groups have the largest maximum than are looked at; those of the smallest rows are."""
    top = ranked(torch.ones(2, 1), torch.ones(400, 1), 3, exclude=csr([range(32), range(40)]), targets=csr([[399], []]))
    assert top.ids.tolist() == [[32, 33, 34], [40, 41, 42]]
    assert found(top)[1] == [(0, 367, 367)]


def test_targets_that_are_no_candidates():
    users, items = whole_numbers(5, 3), whole_numbers(150, 3, seed=1)
    extra = {**everything(5, 150), "candidates": torch.arange(0, 150, 3)}
    for bias in (extra["bias"], None):
        expected = by_hand(users, items, 6, **{**extra, "bias": bias})
        assert found(ranked(users, items, 6, **{**extra, "bias": bias})) == expected


def test_any_numbers_against_float64():
    users, items = normal(6, 33), normal(300, 33, seed=1)
    top = ranked(users, items, 20, targets=csr([[0, 100]] * 6))
    exact = score_topk(users.double(), items.double(), 20, targets=csr([[0, 100]] * 6), scorer="reference")
    assert torch.equal(top.ids, exact.ids)
    torch.testing.assert_close(top.scores.double(), exact.scores, rtol=1e-5, atol=1e-5)
    assert torch.equal(top.ranks.above, exact.ranks.above)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_masks_and_targets(data):
    n_users, n_items = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 140))
    rows = st.lists(st.lists(st.integers(0, n_items - 1), max_size=60), min_size=n_users, max_size=n_users)
    users, items = whole_numbers(n_users, 2, largest=1), whole_numbers(n_items, 2, seed=1, largest=1)
    extra = {"exclude": csr(data.draw(rows)), "targets": csr(data.draw(rows))}
    k = data.draw(st.integers(1, 12))
    assert found(ranked(users, items, k, **extra)) == by_hand(users, items, k, **extra)
