"""score_loss: value and every gradient against a plain loop in float64, and everything torch asks of an operator."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mmenc_plugin.kernels import score_loss
from mmenc_plugin.kernels.score_loss import cpu, operator

F32, F64 = torch.float32, torch.float64
SIZES = [(1, 1, 1), (3, 5, 2), (7, 8, 16), (8, 7, 1), (9, 33, 24), (17, 16, 1024), (33, 65, 5)]
TILES = [1, 40, 64 * 13, 1 << 24]


def ragged(n_rows, n, most, generator):
    """CSR of up to `most` ids a row, some rows empty, ids in any order and possibly twice."""
    counts = torch.randint(0, most + 1, (n_rows,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return offsets, torch.randint(0, n, (int(offsets[-1]),), generator=generator)


def make(b, n, d, *, seed=0, dtype=F64, several=False, masked=False, table=None, biased=True, weighted=False):
    """Arguments of score_loss, by name."""
    g = torch.Generator().manual_seed(seed)
    rows = table or n
    arguments = {
        "queries": torch.randn(b, d, generator=g, dtype=F64).to(dtype),
        "items": torch.randn(rows, d, generator=g, dtype=F64).to(dtype),
        "targets": ragged(b, n, 3, g) if several else torch.randint(0, n, (b,), generator=g),
        "scale": torch.tensor(1.3, dtype=F64 if dtype == F64 else F32),
    }
    if biased:
        arguments["bias"] = torch.randn(n, generator=g, dtype=F64).to(arguments["scale"].dtype)
        arguments["log_q"] = -torch.rand(n, generator=g, dtype=F64).to(arguments["scale"].dtype)
    if masked:
        arguments["exclude"] = ragged(b, rows, 6, g)
    if table:
        arguments["item_ids"] = torch.randint(0, table, (n,), generator=g)
    if weighted:
        arguments["weights"] = torch.rand(b, generator=g, dtype=F64).to(arguments["scale"].dtype) + 0.1
    return arguments


def as_float64(arguments):
    return {k: v.to(F64) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in arguments.items()}


def by_hand(queries, items, targets, *, scale=1.0, bias=None, log_q=None, exclude=None, item_ids=None, weights=None,
            symmetric=False, reduction="mean"):  # fmt: skip
    """The docstring's formula, a query at a time."""
    b = len(queries)
    ids = torch.arange(len(items)) if item_ids is None else item_ids
    if isinstance(targets, torch.Tensor):
        targets = torch.arange(b + 1), targets
    positives = [targets[1][targets[0][i] : targets[0][i + 1]].tolist() for i in range(b)]
    scores = scale * (queries @ items[ids].T)
    scores = scores if bias is None else scores + bias
    scores = scores if log_q is None else scores - log_q
    allowed = torch.ones(b, len(ids), dtype=torch.bool)
    for i in range(b):
        out = set() if exclude is None else set(exclude[1][exclude[0][i] : exclude[0][i + 1]].tolist())
        for j, item in enumerate(ids.tolist()):
            allowed[i, j] = item not in out or j in positives[i]
    losses = [one_loss(scores[i][allowed[i]], scores[i], positives[i]) for i in range(b)]
    counted = torch.tensor([len(p) > 0 for p in positives])
    if symmetric:
        matches = [[i for i in range(b) for p in positives[i] if p == j] for j in range(b)]
        columns = [one_loss(scores[:, j][allowed[:, j]], scores[:, j], matches[j]) for j in range(b)]
        losses = [(row + column) / 2 for row, column in zip(losses, columns, strict=True)]
    weights = torch.ones(b, dtype=F64) if weights is None else weights
    losses = torch.stack(losses) * weights
    if reduction == "none":
        return losses
    losses = losses[counted]
    return losses.sum() / weights[counted].sum().clamp(min=1e-300) if reduction == "mean" else losses.sum()


def one_loss(allowed, scores, positives):
    if not positives:
        return scores.sum() * 0 if scores.isfinite().all() else scores.new_zeros(())
    return allowed.logsumexp(0) - scores[positives].mean()


def with_gradients(loss_of, arguments, upstream=1.7, **more):
    """The loss, and its gradients by queries, items, scale and bias."""
    leaves = {k: arguments[k].clone().requires_grad_() for k in ("queries", "items", "scale", "bias") if k in arguments}
    loss = loss_of(**{**arguments, **leaves}, **more)
    factor = torch.linspace(-0.5, upstream, loss.numel(), dtype=F64).reshape(loss.shape) if loss.ndim else upstream
    gradients = torch.autograd.grad((loss * factor).sum(), list(leaves.values()))
    return [loss.detach(), *gradients]


def assert_same(found, expected, rtol=1e-9, atol=1e-11):
    for name, a, b in zip(("loss", "queries", "items", "scale", "bias"), found, expected, strict=False):
        assert a.isfinite().all(), name
        torch.testing.assert_close(a.to(F64), b, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    assert len(found) == len(expected)


@pytest.fixture(params=TILES)
def tile(request, monkeypatch):
    monkeypatch.setattr(cpu, "TILE", request.param)
    monkeypatch.setattr(cpu, "FEWEST_ROWS", 2)


@pytest.fixture
def poisoned():
    """torch.empty is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


KINDS = {
    "plain": {"biased": False},
    "biased": {},
    "masked": {"masked": True},
    "several positives": {"several": True, "masked": True, "weighted": True},
    "through an index": {"table": 6, "masked": True, "several": True},
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.usefixtures("poisoned")
def test_value_and_gradients_are_those_of_the_formula(tile, size, kind, reduction):
    arguments = make(*size, **KINDS[kind])
    expected = with_gradients(by_hand, arguments, reduction=reduction)
    assert_same(with_gradients(score_loss, arguments, reduction=reduction, scorer="cpu"), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_reference_is_the_formula(kind, reduction):
    arguments = make(9, 33, 24, **KINDS[kind])
    expected = with_gradients(by_hand, arguments, reduction=reduction)
    assert_same(with_gradients(score_loss, arguments, reduction=reduction, scorer="reference"), expected)


@pytest.mark.parametrize("b", [1, 2, 9, 33])
@pytest.mark.parametrize("kind", ["plain", "biased", "masked", "several positives"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("scorer", ["cpu", "reference"])
@pytest.mark.usefixtures("poisoned")
def test_the_symmetric_form(tile, b, kind, reduction, scorer):
    arguments = make(b, b, 6, **KINDS[kind])
    if kind != "several positives":
        arguments["targets"] = torch.arange(b)
    more = {"symmetric": True, "reduction": reduction}
    expected = with_gradients(by_hand, arguments, **more)
    assert_same(with_gradients(score_loss, arguments, scorer=scorer, **more), expected)


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(F32, 2e-5, 2e-6), (torch.bfloat16, 8e-3, 1e-3), (torch.float16, 1e-3, 1e-4)]
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_narrow_types_are_summed_in_float32(tile, dtype, rtol, atol, symmetric):
    arguments = make(33, 33, 24, dtype=dtype, masked=True, several=True)
    found = with_gradients(score_loss, arguments, scorer="cpu", symmetric=symmetric)
    expected = with_gradients(by_hand, as_float64(arguments), symmetric=symmetric)
    assert [t.dtype for t in found] == [F32, dtype, dtype, F32, F32]
    assert_same(found[:1], expected[:1], rtol=2e-6, atol=1e-6)  # the loss itself is not rounded
    assert_same(found, expected, rtol, atol)


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0, 1e-30])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_very_large_and_vanishing_scales(tile, scale, reduction):
    arguments = make(17, 29, 8) | {"scale": torch.tensor(scale, dtype=F64)}
    expected = with_gradients(by_hand, arguments, reduction=reduction)
    assert_same(with_gradients(score_loss, arguments, reduction=reduction, scorer="cpu"), expected, rtol=1e-8)


@pytest.mark.parametrize("shift", [-28.0, 28.0, -100.0, 100.0])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_scores_that_all_lie_far_from_zero(tile, shift, reduction):
    """In float32, where e^100 is infinite and e^-100 is 0."""
    arguments = make(9, 33, 4, dtype=F32)
    arguments |= {name: arguments[name] / 8 for name in ("queries", "items", "bias", "log_q")}
    arguments["bias"] += shift
    found = with_gradients(score_loss, arguments, scorer="cpu", reduction=reduction)
    assert_same(found, with_gradients(by_hand, as_float64(arguments), reduction=reduction), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_one_long_item_among_short_ones(tile, reduction):
    arguments = make(9, 33, 4, dtype=F32, masked=True)
    arguments["items"][20] *= 100
    found = with_gradients(score_loss, arguments, scorer="cpu", reduction=reduction)
    assert_same(found, with_gradients(by_hand, as_float64(arguments), reduction=reduction), rtol=5e-5, atol=2e-5)


def test_confident_queries_keep_their_gradient(tile):
    """p -> 1: what is left of softmax - 1 is the sum of the other columns."""
    arguments = make(16, 16, 16, biased=False) | {"targets": torch.arange(16), "scale": torch.tensor(12.0, dtype=F64)}
    arguments["queries"] = arguments["items"] = torch.eye(16, dtype=F64)
    found = with_gradients(score_loss, arguments, scorer="cpu")
    p = math.exp(-12.0) / (1 + 15 * math.exp(-12.0))
    torch.testing.assert_close(found[0], torch.tensor(math.log1p(15 * math.exp(-12.0)), dtype=F64), rtol=1e-6, atol=0)
    off_diagonal = found[1][~torch.eye(16, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full_like(off_diagonal, 1.7 * 12 * p / 16), rtol=1e-9, atol=0)


def test_all_scores_equal(tile):
    loss = score_loss(torch.zeros(5, 3), torch.randn(11, 3), torch.arange(5), scorer="cpu")
    assert loss.item() == pytest.approx(math.log(11), rel=1e-6)


def test_items_that_are_never_chosen(tile):
    arguments = make(9, 21, 4)
    never = torch.tensor([1, 7, 20])
    arguments["bias"][never] = -torch.inf
    arguments["targets"] = torch.arange(9).where(~torch.isin(torch.arange(9), never), torch.tensor(0))
    found, expected = with_gradients(score_loss, arguments, scorer="cpu"), with_gradients(by_hand, arguments)
    assert_same(found, expected)
    assert not found[2][never].any()
    assert not found[4][never].any()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_query_without_positives_costs_nothing(tile, reduction):
    arguments = make(4, 6, 3) | {"targets": (torch.tensor([0, 1, 1, 2, 2]), torch.tensor([5, 0]))}
    arguments["bias"][1:5] = -torch.inf
    arguments["exclude"] = (torch.tensor([0, 0, 2, 2, 4]), torch.tensor([0, 5, 0, 5]))  # rows 1 and 3 wholly -inf
    found = with_gradients(score_loss, arguments, reduction=reduction, scorer="cpu")
    assert_same(found, with_gradients(by_hand, arguments, reduction=reduction))
    assert not found[1][[1, 3]].any()


@pytest.mark.parametrize("scorer", ["cpu", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_positives_at_all(scorer, reduction):
    arguments = make(3, 6, 3) | {"targets": (torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))}
    found = with_gradients(score_loss, arguments, reduction=reduction, scorer=scorer)
    assert not any(t.any() for t in found)


def test_everything_but_the_positive_excluded(tile):
    everything = (torch.arange(0, 6 * 7, 7), torch.arange(7).repeat(5))
    arguments = make(5, 7, 3) | {"exclude": everything}
    found = with_gradients(score_loss, arguments, scorer="cpu")
    assert_same(found, with_gradients(by_hand, arguments))
    assert found[0].abs() < 1e-12


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mask(data):
    b, n, v = (data.draw(st.integers(1, 6)) for _ in range(3))
    lists = lambda top: st.lists(st.lists(st.integers(0, top - 1), max_size=5), min_size=b, max_size=b)  # noqa: E731
    as_csr = lambda rows: (  # noqa: E731
        torch.tensor([0, *[len(r) for r in rows]]).cumsum(0),
        torch.tensor([i for r in rows for i in r], dtype=torch.int64),
    )
    arguments = make(b, n, 3, table=v, seed=b * n * v)
    arguments |= {"targets": as_csr(data.draw(lists(n))), "exclude": as_csr(data.draw(lists(v)))}
    previous = cpu.TILE
    cpu.TILE = data.draw(st.sampled_from(TILES))
    try:
        found = with_gradients(score_loss, arguments, scorer="cpu")
    finally:
        cpu.TILE = previous
    assert_same(found, with_gradients(by_hand, arguments))


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made in its context."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize(
    "more", [{}, {"reduction": "none"}, {"symmetric": True}, {"item_ids": torch.arange(300)}], ids=str
)
def test_there_is_no_matrix_of_all_scores(monkeypatch, more):
    monkeypatch.setattr(cpu, "TILE", 2048)
    arguments = make(300, 300, 8, dtype=F32, masked=True) | more
    with Largest() as largest:
        with_gradients(score_loss, arguments, scorer="cpu")
    assert 0 < largest.numel <= 300 * 8


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_run_gives_the_same_bits(tile, reduction):
    arguments = make(33, 65, 24, dtype=F32, masked=True, several=True, table=9)
    first, second = (with_gradients(score_loss, arguments, reduction=reduction, scorer="cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_autocast_multiplies_in_its_type_and_sums_in_float32():
    arguments = make(9, 33, 24, dtype=F32)
    narrow = arguments | {k: arguments[k].bfloat16() for k in ("queries", "items")}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(score_loss, arguments, scorer="cpu")
    expected = with_gradients(score_loss, narrow, scorer="cpu")
    assert [t.dtype for t in found] == [F32] * 5
    assert torch.equal(found[0], expected[0])
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(a, b.to(F32))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(reduction, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(score_loss, fullgraph=True, dynamic=dynamic)
    for size in [(9, 33, 24), (7, 12, 24)]:
        arguments = make(*size, masked=True, several=True, weighted=True)
        found = with_gradients(compiled, arguments, reduction=reduction, scorer="cpu")
        assert_same(found, with_gradients(by_hand, arguments, reduction=reduction))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_checkpointing_gives_the_same(reduction):
    arguments = make(9, 33, 24, masked=True)
    kept = with_gradients(score_loss, arguments, reduction=reduction)
    again = with_gradients(
        lambda **a: checkpoint(lambda: score_loss(**a), use_reentrant=False), arguments, reduction=reduction
    )
    assert_same(again, kept, rtol=0, atol=0)


def test_used_twice_in_a_step():
    arguments = make(9, 33, 24)
    twice = with_gradients(lambda **a: score_loss(**a) + 2 * score_loss(**a, reduction="sum"), arguments)
    expected = with_gradients(lambda **a: by_hand(**a) + 2 * by_hand(**a, reduction="sum"), arguments)
    assert_same(twice, expected)


def test_backward_twice_over_a_kept_graph():
    arguments = make(9, 33, 24)
    queries = arguments["queries"].requires_grad_()
    loss = score_loss(**arguments)
    loss.backward(retain_graph=True)
    first = queries.grad.clone()
    loss.backward()
    torch.testing.assert_close(queries.grad, 2 * first)


def test_nothing_is_made_for_a_gradient_that_nobody_wants():
    arguments = make(9, 33, 24)
    with torch.no_grad():
        assert not score_loss(**arguments).requires_grad
    arguments["scale"].requires_grad_()
    loss = score_loss(**arguments)
    assert torch.autograd.grad(loss, arguments["scale"])[0].shape == ()
    assert not score_loss(**make(9, 33, 24)).requires_grad


def test_inputs_in_any_layout():
    arguments = make(9, 33, 24, masked=True)
    strided = dict(
        arguments, queries=arguments["queries"].T.contiguous().T, items=arguments["items"].repeat(1, 2)[:, :24]
    )
    strided["bias"] = arguments["bias"].repeat_interleave(2)[::2]
    assert not strided["items"].is_contiguous()
    assert_same(with_gradients(score_loss, strided, scorer="cpu"), with_gradients(by_hand, arguments))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_refused(reduction):
    arguments = make(3, 5, 2)
    queries = arguments["queries"].requires_grad_()
    loss = score_loss(**arguments, reduction=reduction).sum()
    (gradient,) = torch.autograd.grad(loss, queries, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(symmetric, reduction):
    arguments = make(5, 5, 3, masked=True, several=True)
    names = ("queries", "items", "scale", "bias")
    leaves = tuple(arguments[k].clone().requires_grad_() for k in names)

    def loss(*leaves):
        return score_loss(**arguments | dict(zip(names, leaves, strict=True)), symmetric=symmetric, reduction=reduction)

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("symmetric", [False, True])
def test_opcheck(symmetric):
    a = make(5, 5, 3, masked=True, several=True)
    leaves = [a[k].clone().requires_grad_() for k in ("queries", "items", "scale", "bias")]
    inputs = (*leaves, None, *a["targets"], *a["exclude"], symmetric, "cpu")
    torch.library.opcheck(operator.each, inputs)
    torch.library.opcheck(operator.at_once, (*inputs, None, True, [True] * 4))
    with torch.no_grad():
        loss, row, column = operator.each(*inputs)
        plain = tuple(t.detach() if isinstance(t, torch.Tensor) else t for t in inputs)
        torch.library.opcheck(
            operator.each_backward, (*plain, torch.ones_like(loss), row, column, [True, False, True, True])
        )


def test_training_ends_where_plain_torch_does():
    def train(loss_of):
        g = torch.Generator().manual_seed(5)
        users, items = (torch.randn(n, 8, generator=g, dtype=F64).requires_grad_() for n in (40, 30))
        scale = torch.ones((), dtype=F64, requires_grad=True)
        taken = torch.randint(0, 30, (40,), generator=g)
        optimizer = torch.optim.Adam([users, items, scale], lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            loss = loss_of(users, items, taken, scale)
            loss.backward()
            optimizer.step()
        return loss.item()

    plain = train(lambda u, i, t, s: torch.nn.functional.cross_entropy(s * (u @ i.T), t))
    ours = train(lambda u, i, t, s: score_loss(u, i, t, scale=s))
    assert plain < 0.1
    assert ours == pytest.approx(plain, rel=1e-9)


QUERIES, ITEMS = torch.randn(3, 4), torch.randn(5, 4)
TARGETS = torch.tensor([0, 4, 2])
NAN = torch.full((3, 4), torch.nan)
CASES = {
    "widths": ({"items": torch.randn(5, 3)}, ValueError, r"items is \[5, 3\], but must be \[N, D\] = \[any, 4\]"),
    "queries 1-d": ({"queries": torch.randn(4)}, (ValueError, IndexError), "queries|targets"),
    "too few targets": ({"targets": TARGETS[:2]}, ValueError, r"targets is \[2\], but must be a column for each query"),
    "target out of range": ({"targets": TARGETS + 1}, ValueError, r"targets\[1\] holds 5, but must lie in 0..4"),
    "float targets": ({"targets": TARGETS.float()}, TypeError, "targets is torch.float32, but row"),
    "NaN queries": ({"queries": NAN}, ValueError, r"queries holds NaN \(first in row 0\)"),
    "NaN items": ({"items": torch.full((5, 4), torch.nan)}, ValueError, "items holds NaN"),
    "NaN bias": ({"bias": torch.full((5,), torch.nan)}, ValueError, "bias holds NaN"),
    "bias inf": ({"bias": torch.full((5,), torch.inf)}, ValueError, "holds inf, but must be finite, or -inf"),
    "bias of a positive": ({"bias": torch.tensor([0, 0, -torch.inf, 0, 0])}, ValueError, "names column 2, whose bias"),
    "integer items": ({"items": torch.ones(5, 4, dtype=torch.int64)}, TypeError, "items is torch.int64"),
    "two types": ({"items": ITEMS.half()}, TypeError, "queries are torch.float32 but items torch.float16"),
    "bias shape": ({"bias": torch.zeros(4)}, ValueError, r"bias is \[4\], but must be \[N\] = \[5\]"),
    "weights shape": ({"weights": torch.zeros(4)}, ValueError, r"weights is \[4\], but must be \[B\] = \[3\]"),
    "scale shape": ({"scale": torch.ones(1)}, ValueError, r"scale is \[1\], but must be a number or a tensor \[\]"),
    "device": ({"items": ITEMS.to("meta")}, ValueError, "items is on meta but queries on cpu"),
    "falling CSR": ({"exclude": (torch.tensor([0, 2, 1, 2]), TARGETS[:2])}, ValueError, "offsets that rise.*falling"),
    "short CSR": ({"exclude": (torch.tensor([0, 2]), TARGETS[:2])}, ValueError, r"exclude\[0\] is \[2\], but"),
    "CSR ids": ({"exclude": (torch.tensor([0, 1, 1, 1]), torch.tensor([-1]))}, ValueError, r"exclude\[1\] holds -1"),
    "item_ids": ({"item_ids": torch.tensor([0, 1, 2, 3, 9])}, ValueError, "item_ids holds 9, but must lie in 0..4"),
    "symmetric": ({"symmetric": True}, ValueError, "finds 3 queries and 5 columns"),
    "reduction": ({"reduction": "avg"}, ValueError, "reduction is 'avg'"),
    "scorer": ({"scorer": "tritno"}, ValueError, "no scorer named 'tritno'. Did you mean 'triton'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named(case):
    change, error, message = CASES[case]
    with pytest.raises(error, match=message):
        score_loss(**{"queries": QUERIES, "items": ITEMS, "targets": TARGETS} | change)
