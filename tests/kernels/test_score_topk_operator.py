"""score_topk as a torch operator: opcheck, compilation, autocast, modes without gradients."""

import pytest
import torch
from topk_cases import SCORERS, assert_same, csr, normal, random_csr, whole_numbers

from mmenc_plugin.kernels import score_topk
from mmenc_plugin.kernels.score_topk.operator import score_topk_op
from mmenc_plugin.types import TopK


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("full", [False, True])
def test_the_operator_keeps_the_rules_of_operators(scorer, dtype, full):
    users, items = whole_numbers(4, 3, dtype=dtype), whole_numbers(30, 3, dtype=dtype, seed=1)
    offsets, ids = random_csr(4, 30)
    extra = (whole_numbers(30, dtype=dtype), offsets, ids, torch.arange(3, 20), offsets, ids)
    torch.library.opcheck(score_topk_op, (users, items, 5, *(extra if full else (None,) * 6), scorer))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_as_one_graph(scorer, dynamic):
    def ranked(users, items, bias, exclude, targets):
        top = score_topk(users * 2, items, 5, bias, exclude, targets=targets, scorer=scorer)
        return TopK(top.ids, top.scores + 1, top.ranks)

    torch._dynamo.reset()  # of the other cases' compilations, whose number is limited
    compiled = torch.compile(ranked, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n_users, n_items in [(4, 30), (6, 41), (3, 7)]:
        arguments = (
            whole_numbers(n_users, 3),
            whole_numbers(n_items, 3, seed=1),
            whole_numbers(n_items, seed=2),
            random_csr(n_users, n_items),
            random_csr(n_users, n_items, seed=1),
        )
        assert_same(compiled(*arguments), ranked(*arguments))


def test_on_the_meta_device_there_are_shapes():
    users, items = torch.empty(5, 3, device="meta", dtype=torch.float16), torch.empty(9, 3, device="meta").half()
    top = score_topk(users, items, 4)
    assert (top.ids.shape, top.scores.shape) == ((5, 4), (5, 4))
    assert (top.ids.dtype, top.scores.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_no_gradient_in_any_mode(mode):
    users, items = normal(4, 3).requires_grad_(), normal(9, 3, seed=1).requires_grad_()
    bias = torch.zeros(9, requires_grad=True)
    with mode():
        top = score_topk(users, items, 3, bias)
    assert not top.scores.requires_grad
    assert torch.equal(top.ids, (users @ items.T).topk(3).indices)


def test_twice_in_one_step():
    users, items = whole_numbers(4, 3), whole_numbers(30, 3, seed=1)
    first, second = score_topk(users, items, 5), score_topk(users, items, 5)
    assert_same(first, second)
    assert first.ids.data_ptr() != second.ids.data_ptr()


def test_autocast_rounds_users_and_items_as_it_does_for_a_product():
    users, items, bias = normal(4, 8), normal(50, 8, seed=1), normal(50, seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        top = score_topk(users, items, 6, bias)
        double = score_topk(users.double(), items.double(), 6)
    expected = score_topk(users.bfloat16(), items.bfloat16(), 6, bias)
    assert_same(top, expected)
    assert_same(double, score_topk(users.double(), items.double(), 6))
    assert torch.equal(score_topk(users, items, 6, bias.double()).ids, score_topk(users, items, 6, bias).ids)


def test_row_numbers_may_be_int32():
    users, items, exclude, targets = (
        whole_numbers(4, 3),
        whole_numbers(30, 3, seed=1),
        random_csr(4, 30),
        csr([[1]] * 4),
    )
    candidates = torch.arange(25)
    expected = score_topk(users, items, 5, None, exclude, candidates=candidates, targets=targets)
    narrow = [tuple(part.int() for part in pair) for pair in (exclude, targets)]
    assert_same(score_topk(users, items, 5, None, narrow[0], candidates=candidates.int(), targets=narrow[1]), expected)
