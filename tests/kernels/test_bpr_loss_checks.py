"""bpr_loss says which argument is wrong, what was found and what was expected, before anything is computed."""

from dataclasses import replace

import pytest
import torch
from bpr_loss_cases import batch, gradients
from test_bpr_loss import SCORERS

from mmenc_plugin.errors import UnknownNameError
from mmenc_plugin.kernels.bpr_loss import cpu

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of Triton's interpreter
B, K, D, U, N = 7, 3, 5, 6, 9  # the defaults of `batch`; N items


def ids(*shape, dtype=torch.int64):
    return torch.zeros(shape, dtype=dtype)


@pytest.fixture
def nothing_computed(monkeypatch):
    def computed(*_):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(cpu, "forward", computed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": torch.ones(U)}, r"users is \[6\], but must be \[U, D\]"),
        ({"items": torch.ones(N, D + 1)}, r"items is \[9, 6\], but must be \[I, D\] = \[any, 5\]"),
        ({"items": torch.ones(N, D, 1)}, r"items is \[9, 5, 1\]"),
        ({"user_ids": ids(B, 1)}, r"user_ids is \[7, 1\], but must be \[B\]"),
        ({"user_ids": ids(B + 1)}, r"positive_ids is \[7\], but must be \[B\] = \[8\]"),
        ({"positive_ids": ids(B - 1)}, r"positive_ids is \[6\]"),
        ({"negative_ids": ids(B + 1, K)}, r"negative_ids is \[8, 3\], but must be \[B\] or \[B, K\] = \[7, any\]"),
        ({"negative_ids": ids(B + 1)}, r"negative_ids is \[8, 1\]"),
        ({"negative_ids": ids(B, K, 1)}, r"negative_ids is \[7, 3, 1\]"),
        ({"negative_ids": ids(B, 0)}, "at least one negative"),
        ({"bias": torch.ones(N, 1)}, r"bias is \[9, 1\], but must be \[I\] = \[9\]"),
        ({"log_q": torch.ones(N - 1), "loss": "softmax"}, r"log_q is \[8\]"),
        ({"log_q": torch.ones(N)}, "log_q corrects the sampled softmax"),
        ({"weights": torch.ones(B, 1)}, r"weights is \[7, 1\], but must be \[B\] = \[7\]"),
    ],
    ids=str,
)
def test_shapes(nothing_computed, changed, message):
    with pytest.raises(ValueError, match=message):
        replace(batch(), **changed).kernel("cpu")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": torch.ones(U, D, dtype=torch.int64)}, "users is torch.int64"),
        ({"items": torch.ones(N, D, dtype=torch.int32)}, "items is torch.int32"),
        ({"items": torch.ones(N, D, dtype=torch.float64)}, "items is torch.float64 but users torch.float32"),
        ({"bias": torch.ones(N, dtype=torch.bool)}, "bias is torch.bool"),
        ({"weights": torch.ones(B, dtype=torch.int64)}, "weights is torch.int64"),
        ({"user_ids": torch.ones(B)}, "user_ids is torch.float32"),
        ({"negative_ids": ids(B, K, dtype=torch.bool)}, "negative_ids is torch.bool"),
    ],
    ids=str,
)
def test_types(nothing_computed, changed, message):
    with pytest.raises(TypeError, match=message):
        replace(batch(), **changed).kernel("cpu")


@pytest.mark.parametrize("name", ["items", "user_ids", "positive_ids", "negative_ids", "bias", "log_q", "weights"])
def test_devices(nothing_computed, name):
    b = batch(loss="softmax")
    with pytest.raises(ValueError, match=f"{name} is on meta but users on cpu"):
        replace(b, **{name: getattr(b, name).to("meta")}).kernel("cpu")


@pytest.mark.parametrize(("name", "rows"), [("user_ids", U), ("positive_ids", N), ("negative_ids", N)])
@pytest.mark.parametrize("wrong", ["below", "above"])
def test_ids_that_are_no_rows(nothing_computed, name, rows, wrong):
    b = batch()
    bad = getattr(b, name).clone()
    bad.view(-1)[-1] = -1 if wrong == "below" else rows
    with pytest.raises(ValueError, match=f"{name} holds {bad.view(-1)[-1]}, but must lie in 0..{rows - 1}"):
        replace(b, **{name: bad}).kernel("cpu")


def test_no_row_of_an_empty_table_can_be_named(nothing_computed):
    with pytest.raises(ValueError, match="positive_ids holds"):
        replace(batch(offsets=False), items=torch.ones(0, D)).kernel("cpu")


@pytest.mark.parametrize("value", [-0.5, torch.nan, torch.inf])
def test_weights_that_are_none(nothing_computed, value):
    b = batch()
    b.weights[4] = value
    with pytest.raises(ValueError, match=r"weights holds .* \(row 4\), but must be finite and not negative"):
        b.kernel("cpu")


def test_weights_that_are_all_zero_have_no_mean_but_a_sum(nothing_computed):
    with pytest.raises(ValueError, match="weights are all zero"):
        batch(weights=torch.zeros(B)).kernel("cpu")


@pytest.mark.parametrize("scorer", SCORERS)
def test_weights_of_zero_have_a_sum(scorer):
    assert batch(weights=torch.zeros(B), reduction="sum").kernel(scorer) == 0


def test_no_rows_have_no_mean(nothing_computed):
    with pytest.raises(ValueError, match="the batch is empty"):
        batch(0).kernel("cpu")


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"loss": "bpl"}, "no loss named 'bpl'"), ({"reduction": "average"}, "no reduction named 'average'")],
    ids=str,
)
def test_names(nothing_computed, changed, message):
    with pytest.raises(UnknownNameError, match=message):
        replace(batch(), **changed).kernel("cpu")
    with pytest.raises(UnknownNameError, match="no scorer named 'gpu'"):
        batch().kernel("gpu")


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["users", "items", "bias", "log_q"])
@pytest.mark.parametrize("role", ["positive", "negative"])
def test_a_loss_that_is_no_number_names_the_table_at_fault(scorer, loss, value, name, role):
    """Row 3 of the table is in batch row 2 only; what no row of the batch takes from a table may hold anything."""
    if name == "log_q" and loss == "bpr":
        return
    b = batch(4, 2, D, loss=loss)
    row = ids(4) + 1, ids(4) + 1, ids(4, 2) + 2
    {"positive": row[1], "negative": row[2][:, 0]}[role][2] = 3
    row[0][2] = 3
    b = replace(b, user_ids=row[0], positive_ids=row[1], negative_ids=row[2])
    table = getattr(b, name)
    table.view(len(table), -1)[3, -1] = value
    table.view(len(table), -1)[0, -1] = torch.nan  # untouched by the batch
    possible = role == "negative" and (name, value) in (("bias", -torch.inf), ("log_q", torch.inf))
    b = b.leaves()
    if possible:
        value = b.kernel(scorer)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in gradients(value, b))
        return
    with pytest.raises(ValueError, match=rf"{name} holds NaN or infinity \(row 3\), so batch row 2 has no finite loss"):
        b.kernel(scorer)


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_beyond_the_type_are_an_error_and_not_a_loss(scorer):
    b = batch(offsets=False)
    with pytest.raises(ValueError, match=r"the scores of batch row \d+ are beyond torch.float32"):
        replace(b, users=b.users.abs() * 1e30, items=b.items * 1e30).kernel(scorer)
