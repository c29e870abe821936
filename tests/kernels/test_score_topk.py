"""score_topk: in blocks as with the whole matrix."""

import pytest
import torch

from mmenc_plugin.kernels import KERNELS, score_topk
from mmenc_plugin.kernels.score_topk import cpu, reference

SHAPES = [(1, 1, 1), (63, 500, 20), (257, 20_000, 50)]
DTYPES = [torch.float32, torch.float64]


def whole_numbers(*shape, dtype=torch.float32, seed=0):
    """Small whole numbers: their products are exact in any order, and tie often."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).to(dtype)


def random_exclusion(users, items, seed=0):
    """CSR of up to ten items a user, some users with none."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, min(10, items) + 1, (users,), generator=generator)
    rows = [torch.randperm(items, generator=generator)[:count] for count in counts]
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), torch.cat(rows)


def ranked_by_hand(users, items, k, bias, exclude):
    """Python's own sort, by falling score and rising row."""
    out = []
    for user, vector in enumerate(users.tolist()):
        out_of = set() if exclude is None else set(exclude[1][exclude[0][user] : exclude[0][user + 1]].tolist())
        scored = [
            (-sum(a * b for a, b in zip(vector, item, strict=True)) - (0 if bias is None else bias[row].item()), row)
            for row, item in enumerate(items.tolist())
            if row not in out_of
        ]
        best = [(row, -score) for score, row in sorted(scored)[:k]]
        out.append(best + [(-1, float("-inf"))] * (min(k, len(items)) - len(best)))
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("with_bias", "with_exclusion"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("block", [1, 7, 50, 8192])
def test_the_ranking_is_that_of_a_plain_sort(monkeypatch, dtype, with_bias, with_exclusion, block):
    monkeypatch.setattr(cpu, "BLOCK", block)
    users, items = whole_numbers(9, 3, dtype=dtype), whole_numbers(50, 3, dtype=dtype, seed=1)
    bias = whole_numbers(50, dtype=dtype, seed=2) if with_bias else None
    exclude = random_exclusion(9, 50) if with_exclusion else None
    for k in (1, 5, 50):
        expected = ranked_by_hand(users, items, k, bias, exclude)
        for top in (score_topk(users, items, k, bias, exclude), reference.score_topk(users, items, k, bias, exclude)):
            found = [list(zip(*row, strict=True)) for row in zip(top.ids.tolist(), top.scores.tolist(), strict=True)]
            assert found == expected
            assert (top.ids.dtype, top.scores.dtype) == (torch.int64, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("users", "items", "k"), SHAPES)
def test_blocks_give_the_same_as_the_whole_matrix(users, items, k, dtype):
    """Ties cross the block boundaries at 8192 and 16384, and are excluded on both sides of them."""
    queries, table = whole_numbers(users, 8, dtype=dtype), whole_numbers(items, 8, dtype=dtype, seed=1)
    bias, exclude = whole_numbers(items, dtype=dtype, seed=2), random_exclusion(users, items)
    for arguments in [(None, None), (bias, exclude)]:
        top, expected = score_topk(queries, table, k, *arguments), reference.score_topk(queries, table, k, *arguments)
        assert torch.equal(top.ids, expected.ids)
        assert torch.equal(top.scores, expected.scores)


@pytest.mark.parametrize(("users", "items", "k"), SHAPES)
def test_blocks_of_any_numbers_give_the_same_scores(users, items, k):
    generator = torch.Generator().manual_seed(0)
    queries, table = (torch.randn(n, 64, generator=generator, dtype=torch.float64) for n in (users, items))
    exclude = random_exclusion(users, items)
    expected = reference.score_topk(queries, table, k, None, exclude)
    top = score_topk(queries, table, k, exclude=exclude)
    assert torch.equal(top.ids, expected.ids)
    torch.testing.assert_close(top.scores, expected.scores)
    single = score_topk(queries.float(), table.float(), k, exclude=exclude)
    torch.testing.assert_close(single.scores.double(), expected.scores, rtol=1e-4, atol=1e-4)
    again = (queries @ table.T).gather(1, single.ids.clamp(min=0))
    torch.testing.assert_close(
        single.scores.double(), again.masked_fill(single.ids < 0, -torch.inf), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("items", [5, 8191, 8192, 8193, 16_385])
def test_equal_scores_go_to_the_smaller_row_in_every_block(items):
    top = score_topk(torch.ones(2, 1), torch.ones(items, 1), 5)
    assert top.ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    late = torch.ones(items, 1)
    late[-1] = 2
    assert score_topk(torch.ones(1, 1), late, 2).ids.tolist() == [[items - 1, 0]]


def test_at_most_all_items_come_back():
    top = score_topk(torch.ones(2, 1), torch.tensor([[1.0], [3.0], [2.0]]), 10)
    assert top.ids.tolist() == [[1, 2, 0]] * 2
    assert top.scores.tolist() == [[3.0, 2.0, 1.0]] * 2


def test_a_user_with_too_few_items_left_gets_minus_one():
    exclude = torch.tensor([0, 3, 5]), torch.tensor([2, 0, 1, 1, 0])
    top = score_topk(torch.ones(2, 1), torch.ones(3, 1), 2, exclude=exclude)
    assert top.ids.tolist() == [[-1, -1], [2, -1]]
    assert top.scores.tolist() == [[-torch.inf] * 2, [1.0, -torch.inf]]


def test_a_user_may_have_all_items_excluded_in_one_block_and_not_in_the_next():
    seen = torch.arange(cpu.BLOCK)
    top = score_topk(torch.ones(1, 1), torch.ones(cpu.BLOCK + 2, 1), 3, exclude=(torch.tensor([0, len(seen)]), seen))
    assert top.ids.tolist() == [[cpu.BLOCK, cpu.BLOCK + 1, -1]]


def test_no_users_get_no_rows():
    top = score_topk(torch.ones(0, 4), torch.ones(7, 4), 3)
    assert (top.ids.shape, top.scores.shape) == ((0, 3), (0, 3))


def test_without_items_there_is_nothing_to_rank():
    top = score_topk(torch.ones(2, 4), torch.ones(0, 4), 3)
    assert (top.ids.shape, top.scores.shape) == ((2, 0), (2, 0))


def test_the_inputs_are_left_as_they_are():
    users, items, bias, exclude = whole_numbers(5, 3), whole_numbers(20, 3), whole_numbers(20), random_exclusion(5, 20)
    before = [tensor.clone() for tensor in (users, items, bias, *exclude)]
    score_topk(users, items, 4, bias, exclude)
    assert all(torch.equal(a, b) for a, b in zip(before, (users, items, bias, *exclude), strict=True))


@pytest.mark.parametrize("name", ["users", "items", "bias"])
def test_nan_has_no_order(name):
    tensors = {"users": torch.ones(2, 3), "items": torch.ones(4, 3), "bias": torch.ones(4)}
    tensors[name].view(-1)[-1] = torch.nan
    with pytest.raises(ValueError, match=f"{name} holds NaN"):
        score_topk(tensors["users"], tensors["items"], 2, tensors["bias"])


@pytest.mark.parametrize("endless", [([torch.inf], [0.0]), ([torch.inf, -torch.inf], [1.0, 1.0])])
def test_scores_that_become_nan_have_no_order(endless):
    user, item = (torch.tensor([row]) for row in endless)
    with pytest.raises(ValueError, match=r"NaN|not a number|finite"):
        score_topk(user, item.repeat(3, 1), 2)


@pytest.mark.parametrize(
    ("users", "items"),
    [((2, 3), (4, 5)), ((3,), (4, 3)), ((2, 3), (3,)), ((2, 3), (4, 3, 1)), ((1, 2, 3), (4, 3))],
    ids=str,
)
def test_shapes_that_do_not_go_together_are_named(users, items):
    with pytest.raises(ValueError, match=r"must be \[B, D\] and \[N, D\]") as caught:
        score_topk(torch.ones(users), torch.ones(items), 1)
    assert str(users) in str(caught.value)
    assert str(items) in str(caught.value)


@pytest.mark.parametrize("k", [0, -1])
def test_at_least_one_item_is_asked_for(k):
    with pytest.raises(ValueError, match=f"k is {k}, but at least 1"):
        score_topk(torch.ones(2, 3), torch.ones(4, 3), k)


@pytest.mark.parametrize("shape", [(1,), (3,), (5,), (9,), (2, 4), (2, 1), ()], ids=str)
def test_a_bias_of_another_length_is_refused(shape):
    with pytest.raises(ValueError, match="bias"):
        score_topk(torch.ones(2, 3), torch.ones(4, 3), 1, torch.zeros(shape))


@pytest.mark.parametrize(
    ("offsets", "seen"),
    [([0, 1], [0]), ([0, 1, 2, 3], [0, 1, 2]), ([0, 1, 2], [0]), ([0, 1, 2], [0, 1, 2]), ([0, 2, 1], [0]), ([], [])],
    ids=str,
)
def test_an_exclusion_that_does_not_fit_the_users_is_refused(offsets, seen):
    exclude = torch.tensor(offsets, dtype=torch.int64), torch.tensor(seen, dtype=torch.int64)
    with pytest.raises(ValueError, match="exclude"):
        score_topk(torch.ones(2, 3), torch.ones(4, 3), 1, exclude=exclude)


@pytest.mark.parametrize("row", [-1, 4])
def test_an_excluded_row_that_is_no_item_is_refused(row):
    with pytest.raises(ValueError, match="exclude"):
        score_topk(torch.ones(1, 3), torch.ones(4, 3), 1, exclude=(torch.tensor([0, 1]), torch.tensor([row])))


def test_every_kernel_is_described():
    what, implementations = KERNELS["score_topk"]
    assert what
    assert {"cpu", "reference"} <= set(implementations)
