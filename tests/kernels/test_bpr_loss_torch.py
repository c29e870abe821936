"""bpr_loss in torch's machinery: autograd, sparse gradients, autocast, compilation, checkpointing, training."""

import importlib
from dataclasses import replace

import pytest
import torch
from bpr_loss_cases import batch, close, compare, gradients, upstream
from test_bpr_loss import LOSSES, SCORERS
from torch.utils.checkpoint import checkpoint

from mmenc_plugin.kernels import bpr_loss
from mmenc_plugin.kernels.bpr_loss import operator
from mmenc_plugin.kernels.bpr_loss.reference import bpr_loss as plain

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of Triton's interpreter
NAMES = ["users", "items", "bias"]


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradients_are_the_derivatives(scorer, loss, reduction):
    """Against finite differences in double precision."""
    b = batch(5, 3, 3, loss=loss, reduction=reduction, dtype=torch.float64).leaves()

    def value(users, items, bias):
        return replace(b, users=users, items=items, bias=bias).kernel(scorer)

    assert torch.autograd.gradcheck(value, (b.users, b.items, b.bias))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("wanted", [["users"], ["items"], ["bias"], ["users", "bias"]], ids="+".join)
def test_gradients_come_only_where_they_are_wanted(scorer, wanted):
    b = batch()
    whole = dict(zip(NAMES, compare(b, scorer)[1], strict=True))
    some = replace(b, **{name: getattr(b, name).clone().requires_grad_() for name in wanted})
    value = some.kernel(scorer)
    value.backward(upstream(value))
    for name in NAMES:
        found = getattr(some, name).grad
        assert torch.equal(found, whole[name]) if name in wanted else found is None


@pytest.mark.parametrize("scorer", SCORERS)
def test_without_gradients_nothing_is_kept_and_the_value_is_the_same(scorer, monkeypatch):
    b = batch().leaves()
    value = b.kernel(scorer)
    module, asked = importlib.import_module(f"{operator.__package__}.{scorer}"), []
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *a: asked.append(a[-2:]) or forward(*a))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            again = b.kernel(scorer)
        assert torch.equal(again, value)
        assert not again.requires_grad
    assert asked == [(False, False)] * 2


def test_there_is_no_second_derivative():
    b = batch().leaves()
    (first,) = torch.autograd.grad(b.kernel("cpu"), b.users, create_graph=True)
    with pytest.raises(RuntimeError, match="grad"):
        first.sum().backward()


@pytest.mark.parametrize("scorer", SCORERS)
def test_two_calls_in_one_step_add_up(scorer):
    a, b = batch(), batch(loss="softmax", seed=0, reduction="sum")
    leaves = a.leaves()
    other = replace(b, **leaves.tables())
    (leaves.kernel(scorer) + 2 * other.kernel(scorer)).backward()
    doubles = a.leaves(torch.float64)
    other = replace(b.leaves(torch.float64), **doubles.tables())
    (doubles.reference() + 2 * other.reference()).backward()
    for name in NAMES:
        close(getattr(leaves, name).grad, getattr(doubles, name).grad, 1e-5)


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_table_may_be_both_the_users_and_the_items(scorer):
    b = batch(8, 3, 4, u=9, i=9, offsets=False)
    table, double = b.items.clone().requires_grad_(), b.items.double().requires_grad_()
    bpr_loss(table, table, *b.arguments()[2:], scorer=scorer).backward()
    plain(double, double, *b.arguments()[2:]).backward()
    close(table.grad, double.grad, 1e-5)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(scorer, reentrant):
    b = batch()
    expected = compare(b, scorer)
    leaves = b.leaves()

    def step(users, items, bias):
        return replace(leaves, users=users, items=items, bias=bias).kernel(scorer)

    value = checkpoint(step, *leaves.tables().values(), use_reentrant=reentrant)
    value.backward(upstream(value))
    assert torch.equal(value, expected[0])
    assert all(torch.equal(t.grad, e) for t, e in zip(leaves.tables().values(), expected[1], strict=True))


@pytest.mark.parametrize("scorer", SCORERS)
def test_autocast_rounds_the_tables_and_nothing_else(scorer):
    """As with tables of bfloat16, summed in float32; gradients are float32, the bias's unrounded."""
    b = batch(loss="softmax")
    leaves, rounded = b.leaves(), replace(b, users=b.users.bfloat16(), items=b.items.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = leaves.kernel(scorer)
    expected, truth = compare(rounded, scorer)
    assert torch.equal(value, expected)
    found = gradients(value, leaves)
    assert [g.dtype for g in found] == [torch.float32] * 3
    assert all(torch.equal(g, t.float()) for g, t in zip(found, truth, strict=True))


def test_autocast_brings_two_types_together_and_leaves_doubles_alone():
    b = batch()
    mixed = replace(b, users=b.users.half())
    with pytest.raises(TypeError, match="float32"):
        mixed.kernel()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mixed.kernel().dtype == torch.float32
        assert replace(b, users=b.users.double(), items=b.items.double()).kernel().dtype == torch.float64


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sparse_gradients_are_the_dense_ones_a_row_for_each_distinct_id(scorer, loss, dtype):
    b = batch(9, 3, 4, u=20, i=50, loss=loss, dtype=dtype)
    _, dense = compare(b, scorer)
    leaves = b.leaves()
    found = gradients(leaves.kernel(scorer, sparse_grad=True), leaves)
    items = torch.cat([b.positive_ids[:, None], b.negative_ids], 1).unique()
    for gradient, expected, rows in zip(found, dense, (b.user_ids.unique(), items, items), strict=True):
        assert gradient.is_coalesced()
        assert torch.equal(gradient.indices()[0], rows)
        assert gradient.dtype == dtype
        assert torch.equal(gradient.to_dense(), expected)


@pytest.mark.parametrize("scorer", SCORERS)
def test_sparse_gradients_move_the_weights_under_sparse_adam_like_dense_ones_under_adam(scorer):
    """From fresh moments, Adam's first step is the same for the rows that have a gradient, and none for the rest."""
    b = batch(9, 3, 4, u=20, i=50)
    dense, sparse = b.leaves(), b.leaves()
    for leaves, optimizer in ((dense, torch.optim.Adam), (sparse, torch.optim.SparseAdam)):
        step = optimizer(list(leaves.tables().values()), lr=0.1, eps=1e-20)
        for _ in range(2):  # of the same batch, so that no moment of an absent row counts
            step.zero_grad()
            leaves.kernel(scorer, sparse_grad=leaves is sparse).backward()
            step.step()
    for name in NAMES:
        torch.testing.assert_close(getattr(sparse, name), getattr(dense, name), rtol=1e-5, atol=1e-6)
        assert not torch.equal(getattr(sparse, name), getattr(b, name))


def test_sparse_gradients_of_an_empty_batch_and_of_two_calls():
    b = batch(0, 3, 4, reduction="sum").leaves()
    b.kernel(sparse_grad=True).backward()
    assert [getattr(b, name).grad._nnz() for name in NAMES] == [0, 0, 0]
    b = batch().leaves()
    (b.kernel(sparse_grad=True) + b.kernel(sparse_grad=True)).backward()
    for name, once in zip(NAMES, gradients(b.kernel(), b), strict=True):
        scale = upstream(b.kernel()).item()
        torch.testing.assert_close(getattr(b, name).grad.to_dense(), 2 * once / scale)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_operator_keeps_torchs_rules(scorer, loss, reduction):
    """Schema, registration of the gradient, shapes without data, and tracing with any sizes."""
    b = batch(loss=loss, reduction=reduction).leaves()
    tail = (b.bias, b.log_q, b.weights, loss, reduction)
    torch.library.opcheck(operator.bpr_loss_op, (*b.arguments(), *tail, True, True, False, scorer))
    frozen = batch(offsets=False, loss=loss)
    torch.library.opcheck(
        operator.bpr_loss_op, (*frozen.arguments(), None, None, None, loss, reduction, False, False, False, scorer)
    )
    value, coefficients, rows = operator.bpr_loss_op(*b.arguments(), *tail, True, True, False, scorer)
    constants = [t.detach() for t in (b.users, b.items, *b.arguments()[2:], b.bias, b.weights, coefficients, rows)]
    for needs in ([True, True, True], [False, True, False]):
        arguments = (upstream(value.detach()), *constants, reduction, needs, scorer)
        torch.library.opcheck(operator.bpr_loss_backward_op, arguments)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_torch_compile_takes_it_whole(scorer, dynamic, loss):
    """No break in the graph; with dynamic sizes, one graph for all of them."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda b: 2 * b.kernel(scorer), backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in (7, 8, 12) if dynamic else (7,):
        b = batch(size, 3, 5, loss=loss)
        leaves, plain_ones = b.leaves(), b.leaves()
        value, expected = compiled(leaves), 2 * plain_ones.kernel(scorer)
        assert torch.equal(value, expected)
        for found, truth in zip(gradients(value, leaves), gradients(expected, plain_ones), strict=True):
            assert torch.equal(found, truth)
    torch._dynamo.reset()


def test_torch_compile_says_that_sparse_gradients_are_not_for_it():
    torch._dynamo.reset()
    b = batch().leaves()
    compiled = torch.compile(lambda: b.kernel(sparse_grad=True), backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="sparse_grad=True is for eager mode"):
        compiled()
    torch._dynamo.reset()


def train(function, steps, **options):
    """Losses of a matrix factorisation of a block pattern: even users take even items, odd users odd ones."""
    g = torch.Generator().manual_seed(0)
    tables = [(0.1 * torch.randn(16, 4, generator=g)).requires_grad_() for _ in range(2)]
    tables.append(torch.zeros(16, requires_grad=True))
    optimizer, losses = torch.optim.Adam(tables, lr=0.03), []
    for _ in range(steps):
        user = torch.randint(16, (16,), generator=g)
        positive = 2 * torch.randint(8, (16,), generator=g) + user % 2
        negative = 2 * torch.randint(8, (16, 2), generator=g) + 1 - user[:, None] % 2
        value = function(*tables[:2], user, positive, negative, bias=tables[2], **options)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_two_hundred_steps_end_where_plain_code_ends(scorer, loss):
    """The same loss as with the plain one at every step, and far below the start (fewer steps interpreted)."""
    steps = 30 if scorer == "triton" and not torch.cuda.is_available() else 200
    found = train(bpr_loss, steps, loss=loss, scorer=scorer)
    assert found == pytest.approx(train(plain, steps, loss=loss), rel=1e-3)
    assert found[-1] < (0.8 if steps < 200 else 0.1) * found[0]
