"""score_topk: arguments that are refused, by name and before anything is computed."""

import pytest
import torch
from topk_cases import SCORERS, csr, small_tiles

from mmenc_plugin.errors import UnknownNameError
from mmenc_plugin.kernels import score_topk
from mmenc_plugin.kernels.score_topk import cpu, reference


@pytest.fixture
def nothing_starts(monkeypatch):
    """The implementations fail the test when they are called."""
    for module in (cpu, reference):
        monkeypatch.setattr(module, "score_topk", lambda *_: pytest.fail("the kernel was started"))


def call(k=1, **changed):
    """score_topk of 2 users and 4 items, with some arguments exchanged."""
    arguments = {"users": torch.ones(2, 3), "items": torch.ones(4, 3), **changed}
    return score_topk(arguments.pop("users"), arguments.pop("items"), k, **arguments)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"users": torch.ones(3)}, ValueError, r"users is \[3\], but must be \[B, D\]"),
        ({"users": torch.ones(1, 2, 3)}, ValueError, r"users is \[1, 2, 3\], but must be \[B, D\]"),
        ({"items": torch.ones(4, 5)}, ValueError, r"items is \[4, 5\], but must be \[N, D\] = \[any, 3\]"),
        ({"items": torch.ones(3)}, ValueError, r"items is \[3\]"),
        ({"k": 0}, ValueError, "k is 0, but at least 1"),
        ({"k": -1}, ValueError, "k is -1, but at least 1"),
        ({"bias": torch.ones(3)}, ValueError, r"bias is \[3\], but must be \[N\] = \[4\]"),
        ({"bias": torch.ones(())}, ValueError, r"bias is \[\]"),
        ({"bias": torch.ones(4, 1)}, ValueError, r"bias is \[4, 1\]"),
        ({"users": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "users is torch.int64, but must be float32"),
        ({"items": torch.ones(4, 3, dtype=torch.int32)}, TypeError, "items is torch.int32"),
        ({"bias": torch.ones(4, dtype=torch.int64)}, TypeError, "bias is torch.int64"),
        ({"items": torch.ones(4, 3).double()}, TypeError, "items is torch.float64 but users torch.float32"),
        ({"items": torch.ones(4, 3, device="meta")}, ValueError, "items is on meta but users on cpu"),
        ({"bias": torch.ones(4, device="meta")}, ValueError, "bias is on meta but users on cpu"),
        ({"exclude": (torch.tensor([0, 1]), torch.tensor([0]))}, ValueError, r"exclude\[0\] is \[2\].*\[3\]"),
        ({"exclude": (torch.tensor([0, 1, 1]), torch.tensor([[0]]))}, ValueError, r"exclude\[1\] is \[1, 1\]"),
        ({"exclude": (torch.tensor([0, 1, 1]), torch.tensor([0.0]))}, TypeError, r"exclude\[1\] is torch.float32"),
        ({"exclude": (torch.tensor([0, 1, 1.0]), torch.tensor([0]))}, TypeError, r"exclude\[0\] is torch.float32"),
        ({"exclude": (torch.tensor([0, 0, 0]),)}, ValueError, "exclude has 1 parts, but must be two"),
        ({"exclude": (torch.tensor([0, 1, 1]), torch.tensor([0], device="meta"))}, ValueError, r"exclude\[1\] is on m"),
        ({"targets": (torch.tensor([0, 1]), torch.tensor([0]))}, ValueError, r"targets\[0\] is \[2\]"),
        ({"candidates": torch.tensor([0.0])}, TypeError, "candidates is torch.float32"),
        ({"candidates": torch.tensor([[0]])}, ValueError, r"candidates is \[1, 1\]"),
        ({"candidates": torch.tensor([0], device="meta")}, ValueError, "candidates is on meta"),
    ],
)  # fmt: skip
def test_what_needs_no_look_at_the_values(nothing_starts, changed, error, says):
    with pytest.raises(error, match=says):
        call(**changed)


@pytest.mark.parametrize("name", ["exclude", "targets"])
@pytest.mark.parametrize(
    ("offsets", "ids", "says"),
    [
        ([0, 1, 2], [0], "rise from 0 to the number of ids, 1; found 0 to 2"),
        ([0, 1, 1], [0, 1], "rise from 0 to the number of ids, 2; found 0 to 1"),
        ([1, 1, 1], [0], "found 1 to 1"),
        ([0, 2, 1], [0], "falling in between"),
        ([0, 1, 2], [0, 4], "holds 4, but must lie in 0..3"),
        ([0, 1, 2], [-1, 2], "holds -1, but must lie in 0..3"),
    ],
)
def test_a_csr_that_is_none(nothing_starts, name, offsets, ids, says):
    with pytest.raises(ValueError, match=rf"{name}\[[01]\].*{says}"):
        call(**{name: (torch.tensor(offsets), torch.tensor(ids))})


@pytest.mark.parametrize(
    ("rows", "says"),
    [([0, 4], "candidates holds 4, but must lie in 0..3"), ([-1], "candidates holds -1"), ([2, 1, 2], "row 2 twice")],
)
def test_candidates_that_are_no_rows(nothing_starts, rows, says):
    with pytest.raises(ValueError, match=says):
        call(candidates=torch.tensor(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["users", "bias"])
def test_nan_has_no_order(nothing_starts, name, dtype):
    nan_is_named(name, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scorer", SCORERS)
def test_nan_of_an_item_is_found_in_its_scores(scorer, dtype):
    nan_is_named("items", dtype, scorer=scorer)
    items = torch.ones(4, 3, dtype=dtype)
    items[3] = torch.nan
    top = call(4, users=torch.ones(2, 3, dtype=dtype), items=items, candidates=torch.tensor([2, 0]), scorer=scorer)
    assert top.ids.tolist() == [[0, 2]] * 2


def nan_is_named(name, dtype, **options):
    """One NaN in the last row of one of the tensors."""
    tensors = {"users": torch.ones(2, 3), "items": torch.ones(4, 3), "bias": torch.ones(4)}
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    tensors[name].view(-1)[-1] = torch.nan
    with pytest.raises(ValueError, match=rf"{name} holds NaN \(first in row {len(tensors[name]) - 1}\)"):
        call(**tensors, **options)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    ("user", "item", "bias"),
    [([torch.inf], [0.0], 0.0), ([torch.inf, -torch.inf], [1.0, 1.0], 0.0), ([torch.inf], [1.0], -torch.inf)],
)
@pytest.mark.parametrize("at", [0, 39, 77])
def test_scores_that_become_nan_have_no_order(monkeypatch, scorer, user, item, bias, at):
    """Wherever the one item stands; where it may not be returned, it does no harm, unless as a target."""
    small_tiles(monkeypatch, 1, 8, 4)
    items, biases = torch.ones(78, len(user)), torch.zeros(78)
    items[at], biases[at] = torch.tensor(item), bias
    users = torch.tensor([[1.0] * len(user), user])
    good = [row for row in range(78) if row != at]
    if len(user) == 1:
        top = score_topk(users, items, 2, biases, csr([[], [at]]), scorer=scorer)
        assert top.ids[1].tolist() == good[:2]
        score_topk(users, items, 2, biases, candidates=torch.tensor(good), scorer=scorer)
        with pytest.raises(ValueError, match="score of a target is not a number"):
            score_topk(users, items, 2, biases, csr([[], [at]]), targets=csr([[], [at]]), scorer=scorer)
    with pytest.raises(ValueError, match="a score is not a number"):
        score_topk(users, items, 2, biases, scorer=scorer)


def test_an_implementation_that_is_none():
    with pytest.raises(UnknownNameError, match="no scorer named 'numpy'"):
        call(scorer="numpy")
