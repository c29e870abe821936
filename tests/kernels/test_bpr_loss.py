"""bpr_loss: values and gradients are those of the plain mathematics, whatever the sizes, types and options."""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch
from bpr_loss_cases import IDS, TOLERANCE, batch, close, compare, gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenc_plugin.kernels import KERNELS, bpr_loss
from mmenc_plugin.kernels.bpr_loss import cpu, reference
from mmenc_plugin.kernels.bpr_loss.parts import Problem

TRITON = pytest.param(
    "triton", marks=pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
)
SCORERS = ["cpu", "reference", TRITON]
LOSSES = ["bpr", "softmax"]
SIZES = [(1, 1, 1), (2, 1, 3), (7, 3, 5), (15, 4, 16), (16, 2, 33), (17, 5, 7), (3, 130, 4), (5, 17, 65), (3, 2, 1024)]


pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of Triton's interpreter


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks that end within the smallest batches."""
    monkeypatch.setattr(cpu, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(cpu, "SUM_BYTES", 200)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("b", "k", "d"), SIZES)
def test_values_and_gradients_at_every_size(scorer, loss, b, k, d):
    compare(batch(b, k, d, loss=loss), scorer)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 1000])
def test_values_and_gradients_at_every_edge_of_a_block(monkeypatch, loss, rows):
    """Batches of one row less and more than one and than two blocks."""
    d, k = 5, 3
    monkeypatch.setattr(cpu, "BLOCK_BYTES", rows * (1 + k) * d * 4)
    for b in {max(1, n * rows + step) for n in (1, 2) for step in (-1, 0, 1)} if rows < 1000 else {7}:
        compare(batch(b, k, d, loss=loss), "cpu")


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_type(scorer, dtype, loss):
    compare(batch(17, 6, 19, u=5, i=40, dtype=dtype, loss=loss), scorer)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_reduction_with_and_without_bias_and_weights(scorer, reduction, offsets, loss):
    value, _ = compare(batch(reduction=reduction, offsets=offsets, loss=loss), scorer)
    assert value.shape == ((7,) if reduction == "none" else ())


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_hand_computed(scorer, loss):
    """Scores 1 for the positive, 0 and 3 for the negatives."""
    users, items = torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0], [3.0]])
    value = bpr_loss(users, items, *(torch.tensor(x) for x in ([0], [0], [[1, 2]])), loss=loss, scorer=scorer)
    by_hand = {
        "bpr": (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2,
        "softmax": math.log(math.exp(1) + math.exp(0) + math.exp(3)) - 1,
    }
    assert value.item() == pytest.approx(by_hand[loss], rel=1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_one_user_and_one_item_in_every_pair(scorer, loss):
    """Positive and negatives are the same item: ln 2, or ln (1 + K), and no gradient of the user."""
    value, (d_users, *_) = compare(batch(11, 4, 3, u=1, i=1, loss=loss), scorer)
    assert value.item() == pytest.approx(math.log(2 if loss == "bpr" else 5), rel=1e-6)
    assert d_users.abs().max() < 1e-7


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_all_scores_are_equal(scorer, loss):
    equal = batch(8, 5, 3, offsets=False, loss=loss)
    value, _ = compare(replace(equal, items=torch.ones_like(equal.items)), scorer)
    assert value.item() == pytest.approx(math.log(2 if loss == "bpr" else 6), rel=1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_scores_of_many_millions_keep_a_finite_loss_and_gradients(scorer, loss):
    """Whole numbers, whose products are exact, times 10 000."""
    large = batch(9, 5, 4, offsets=False, loss=loss)
    tables = {name: (2 * table).round() * 1e4 for name, table in large.tables().items()}
    value, found = compare(replace(large, **tables), scorer)
    assert value > 1e7
    assert all(g.isfinite().all() and g.any() for g in found)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("margin", [5.0, 12.0, 30.0])
def test_a_loss_near_zero_keeps_its_digits(scorer, loss, margin):
    """A confident row: e^-margin for each negative, and a gradient of that size, not one rounded off beside 1."""
    users, items = torch.ones(1, 1), torch.tensor([[margin], [0.0]])
    row = [torch.tensor(ids) for ids in ([0], [0], [[1]])]
    user = users.requires_grad_()
    value = bpr_loss(user, items, *row, loss=loss, scorer=scorer)
    value.backward()
    if scorer == "reference" and loss == "softmax":
        return  # it takes the logarithm of a sum near 1, as plain code does
    assert value.item() == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-5)
    assert user.grad.item() == pytest.approx(-margin * math.exp(-margin) / (1 + math.exp(-margin)), rel=1e-5)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("barred", [[1], [1, 2, 3]], ids=str)
def test_a_negative_with_a_bias_of_minus_infinity_has_no_part(scorer, loss, barred):
    """With all of them barred, nothing is lost and nothing learned."""
    b = batch(1, 3, 4, i=4, offsets=False, loss=loss, bias=torch.zeros(4))
    b = replace(b, positive_ids=torch.tensor([0]), negative_ids=torch.tensor([[1, 2, 3]]))
    b.bias[barred] = -torch.inf
    value, (_, d_items, d_bias) = compare(b, scorer)
    assert not d_items[barred].any()
    assert not d_bias[barred].any()
    if len(barred) == 3:
        assert value == 0
        assert not d_items.any()


@pytest.mark.parametrize("scorer", SCORERS)
def test_log_q_takes_the_sampling_out(scorer):
    """A negative listed twice is one of doubled chance: log_q of ln 2 makes up for it."""
    b = batch(5, 1, 4, i=2, offsets=False, loss="softmax")
    b = replace(b, positive_ids=torch.zeros(5, dtype=torch.int64), negative_ids=torch.ones(5, 1, dtype=torch.int64))
    twice = replace(b, negative_ids=b.negative_ids.repeat(1, 2), log_q=torch.tensor([0.0, math.log(2)]))
    assert twice.kernel(scorer).item() == pytest.approx(b.kernel(scorer).item(), rel=1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_of_weight_zero_is_a_row_left_out(scorer, loss):
    b = batch(6, 3, 4, loss=loss, weights=torch.tensor([1.0, 0, 2, 1, 0, 3]))
    kept = b.weights > 0
    rest = replace(b, weights=b.weights[kept], **{name: getattr(b, name)[kept] for name in IDS})
    for reduction in ("mean", "sum"):
        whole, part = (replace(x, reduction=reduction).leaves() for x in (b, rest))
        values = whole.kernel(scorer), part.kernel(scorer)
        close(values[0], values[1].double(), 1e-6)
        for a, c in zip(gradients(values[0], whole), gradients(values[1], part), strict=True):
            close(a, c.double(), 1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
def test_one_negative_a_row_may_be_given_without_its_dimension(scorer):
    b = batch(9, 1, 4)
    flat = replace(b, negative_ids=b.negative_ids[:, 0])
    assert torch.equal(flat.kernel(scorer), b.kernel(scorer))


@pytest.mark.parametrize("scorer", SCORERS)
def test_with_one_negative_both_losses_are_one(scorer):
    b = batch(9, 1, 4, weights=None)
    close(b.kernel(scorer), replace(b, loss="softmax").kernel(scorer).double(), 1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
def test_without_rows_the_sum_is_zero_and_so_are_the_gradients(scorer):
    for reduction, shape in (("sum", ()), ("none", (0,))):
        value, found = compare(batch(0, 3, 4, reduction=reduction), scorer)
        assert value.shape == shape
        assert not any(g.any() for g in found)


@pytest.mark.parametrize("scorer", SCORERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_ids(scorer, data):
    """Repeated, all the same, first and last rows, positives among the negatives."""
    u, i, b, k = (data.draw(st.integers(1, n)) for n in (4, 6, 5, 4))
    rows = {
        name: st.lists(st.integers(0, n - 1), min_size=b, max_size=b) for name, n in zip(IDS[:2], (u, i), strict=True)
    }
    rows["negative_ids"] = st.lists(st.lists(st.integers(0, i - 1), min_size=k, max_size=k), min_size=b, max_size=b)
    drawn = {name: torch.tensor(data.draw(rows[name])) for name in IDS}
    b = batch(b, k, 3, u, i, loss=data.draw(st.sampled_from(LOSSES)), seed=data.draw(st.integers(0, 99)))
    compare(replace(b, **drawn), scorer)


@pytest.mark.parametrize("scorer", SCORERS)
def test_ids_may_be_int32_and_tensors_need_not_be_contiguous(scorer):
    b = batch(9, 4, 6)
    expected = compare(b, scorer)
    strided = replace(
        b,
        users=b.users.T.contiguous().T,
        items=b.items.repeat_interleave(2, 1)[:, ::2],
        bias=b.bias.repeat_interleave(3)[::3],
        weights=b.weights.flip(0).flip(0),
        negative_ids=b.negative_ids.T.contiguous().T.int(),
        user_ids=b.user_ids.repeat_interleave(2)[::2],
    )
    found = compare(strided, scorer)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(a, e) for a, e in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_bits_on_every_run_and_inputs_left_as_they_are(scorer, loss):
    b = batch(24, 9, 9, u=10, i=30, loss=loss)
    before = [t.clone() for t in (*b.arguments(), b.bias, b.weights)]
    first, grads = compare(b, scorer)
    for _ in range(2):
        again, found = compare(b, scorer)
        assert torch.equal(again, first)
        assert all(torch.equal(a, c) for a, c in zip(found, grads, strict=True))
    assert all(torch.equal(a, c) for a, c in zip(before, (*b.arguments(), b.bias, b.weights), strict=True))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(("b", "k"), [(21, 2), (16, 3), (13, 4), (32, 3), (43, 2), (50, 3)])
@pytest.mark.parametrize("items", [1, 3])
def test_items_with_more_pairs_than_a_block(scorer, b, k, items):
    """63, 64, 65, 128, 129 and 200 pairs of one item, or of three whose pairs end within blocks of 64."""
    compare(batch(b, k, 3, u=2, i=items, loss="softmax"), scorer)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sparse_grad", [True, False])
def test_no_result_keeps_what_its_memory_held(scorer, loss, sparse_grad):
    """torch fills new memory with NaN here: no value may be left, nor read before it is written."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        for b in (batch(9, 3, 5, u=4, i=30, loss=loss), batch(40, 4, 3, u=2, i=3, loss=loss, reduction="none")):
            leaves = b.leaves()
            value = b.kernel(scorer)
            found = gradients(leaves.kernel(scorer, sparse_grad=sparse_grad), leaves)
            assert value.isfinite().all()
            assert all(g.to_dense().isfinite().all() for g in found)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_written_out_derivatives_of_the_reference_are_those_of_autograd():
    for loss in LOSSES:
        b = batch(5, 4, 3, loss=loss, dtype=torch.float64, weights=None, reduction="none").leaves()
        found = reference.forward(Problem(*b.arguments(), b.bias, b.log_q, loss), True, True)
        torch.testing.assert_close(found.losses, b.reference())
        per_user = torch.stack([torch.autograd.grad(v, b.users, retain_graph=True)[0].sum(0) for v in b.reference()])
        torch.testing.assert_close(found.user_rows, per_user)


def test_it_is_listed_with_its_implementations():
    what, implementations = KERNELS["bpr_loss"]
    assert what
    assert implementations == ("triton", "cpu", "reference")
