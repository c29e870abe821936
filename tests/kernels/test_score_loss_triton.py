"""score_loss in Triton against the mathematics in float64: compiled on a GPU, in Triton's interpreter elsewhere."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenc_plugin.kernels import dispatch, score_loss
from mmenc_plugin.kernels.score_loss import _triton_config, _triton_stream, _triton_tiles, reference, triton
from mmenc_plugin.kernels.score_loss._triton_config import Config
from mmenc_plugin.kernels.score_loss._triton_events import Events, Split
from mmenc_plugin.kernels.score_loss.problem import make_problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
STRATEGIES = ["stream", "tiles"]
# queries, columns, width: about the tiles' 16 x 32, which the fixture sets
SHAPES = [(1, 1, 1), (16, 32, 16), (17, 33, 24), (15, 95, 3), (33, 64, 40)]
KINDS = {
    "labels": {},
    "bias": {"bias": True},
    "several": {"several": True, "excluded": True},
    "all": {"bias": True, "several": True, "excluded": True, "ids": True},
    "symmetric": {"symmetric": True, "several": True},
    "symmetric all": {"symmetric": True, "bias": True, "several": True, "excluded": True, "ids": True},
}


def strategy_of(name, monkeypatch):
    monkeypatch.setattr(triton, "streams", lambda p: name == "stream")
    monkeypatch.setattr(_triton_config, "config", lambda *_: Config(16, 32, 4, 2))
    monkeypatch.setattr(_triton_tiles, "BLOCK_TILE", (16, 32, 4))
    monkeypatch.setattr(_triton_tiles, "BLOCK_EVENTS", 16)
    monkeypatch.setattr(_triton_tiles, "FEWEST", 16)
    monkeypatch.setattr(_triton_tiles, "TILE", 16 * 40)  # several tiles, the last one ragged


@pytest.fixture(params=STRATEGIES)
def strategy(request, monkeypatch):
    """Each of the two ways, with tiles so small that there are several."""
    strategy_of(request.param, monkeypatch)
    return request.param


@pytest.fixture
def _poisoned():
    """torch.empty is full of NaN: an output that no program writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def poisoned_beyond(tensor):
    """The same rows, with NaN behind them in memory."""
    if tensor is None or not tensor.is_floating_point() or tensor.ndim == 0:
        return tensor
    buffer = torch.full((len(tensor) + 70, *tensor.shape[1:]), torch.nan, dtype=tensor.dtype, device=tensor.device)
    buffer[: len(tensor)] = tensor
    return buffer[: len(tensor)]


def csr(counts, n, generator):
    """CSR of as many random ids below n as the counts say."""
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return offsets.to(DEVICE), torch.randint(0, n, (int(offsets[-1]),), generator=generator).to(DEVICE)


def make(b, n, d, *, dtype=F32, seed=0, bias=False, several=False, excluded=False, ids=False, symmetric=False,
         scale=1.3):  # fmt: skip
    """A problem, and coefficients of both signs."""
    g = torch.Generator().manual_seed(seed)
    n = b if symmetric else n
    rows = n // 2 + 3 if ids else n
    normal = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    most = 4 if several else 2
    counts = torch.randint(0, most, (b,), generator=g) if several else torch.ones(b, dtype=torch.int64)
    problem = make_problem(
        poisoned_beyond(normal(b, d).to(DEVICE, dtype)), poisoned_beyond(normal(rows, d).to(DEVICE, dtype)),
        torch.tensor(scale / d**0.5, device=DEVICE), poisoned_beyond(normal(n).to(DEVICE)) if bias else None,
        torch.randint(0, rows, (n,), generator=g).to(DEVICE) if ids else None, csr(counts, n, g),
        csr(torch.randint(0, n // 3 + 2, (b,), generator=g), rows, g) if excluded else None, symmetric,
    )  # fmt: skip
    return problem, normal(b).to(DEVICE).where(problem.targets[0].diff() > 0, 0)


def in_float64(p):
    floats = {f: getattr(p, f) for f in ("queries", "items", "scale", "bias")}
    return dataclasses.replace(p, **{f: None if t is None else t.double() for f, t in floats.items()})


def solve(module, p, coefficients):
    """Loss, then the gradients of queries, items, scale and bias."""
    loss, row_lse, column_lse = module.losses(p)
    needs = True, True, True, p.bias is not None
    return [loss, *module.gradients(p, coefficients.to(loss.dtype), row_lse, column_lse, needs)]


def expected_of(p, coefficients):
    return solve(reference, in_float64(p), coefficients)


def assert_near(found, expected, rtol=1e-5, atol=1e-6):
    """In length: the difference of each to the expected."""
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert (a is None) == (b is None), k
        if a is not None:
            assert a.shape == b.shape, k
            assert a.isfinite().all(), k
            error, size = float((a.double() - b).norm()), float(b.norm())
            assert error <= rtol * size + atol, f"{k}: off by {error:.1e} of {size:.1e}"


@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_every_gradient(strategy, kind, shape):
    problem, coefficients = make(*shape, seed=sum(shape), **KINDS[kind])
    assert_near(solve(triton, problem, coefficients), expected_of(problem, coefficients))


@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize("width", [128, 300, 1024])
def test_wide_rows(strategy, width):
    problem, coefficients = make(5, 37, width, **KINDS["all"])
    assert_near(solve(triton, problem, coefficients), expected_of(problem, coefficients))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("kind", ["several", "all", "symmetric all"])
def test_half_types(strategy, kind, dtype):
    problem, coefficients = make(19, 45, 24, dtype=dtype, **KINDS[kind])
    expected = expected_of(problem, coefficients)
    found = solve(triton, problem, coefficients)
    assert_near(found[:1], expected[:1])
    assert_near(found[1:3], expected[1:3], rtol=4e-3)
    assert_near(found[4:], expected[4:], rtol=4e-3)
    # d_scale = sum(queries * d_queries) / scale: near to what d_queries' error makes of it, whatever cancels out
    size = float(problem.queries.double().norm() * expected[1].norm() / problem.scale)
    assert abs(float(found[3]) - float(expected[3])) <= 1e-3 * size


@pytest.mark.parametrize(("rows", "tile"), [(3, 45 * 9), (100, 1 << 20)])
@pytest.mark.parametrize("kind", ["labels", "all", "symmetric"])
def test_loss_and_gradients_at_once(strategy, monkeypatch, kind, rows, tile):
    monkeypatch.setattr(_triton_tiles, "TILE", tile)
    monkeypatch.setattr(_triton_tiles, "FEWEST_WHOLE", rows)
    problem, coefficients = make(19, 45, 24, **KINDS[kind])
    loss, found = triton.at_once(problem, coefficients, (True, True, True, problem.bias is not None))
    assert_near([loss, *found], expected_of(problem, coefficients))


@pytest.mark.parametrize("scale", [0.0, -2.0, 1e4])
@pytest.mark.parametrize("kind", ["several", "all"])
def test_any_scale(strategy, kind, scale):
    problem, coefficients = make(17, 40, 8, scale=scale, **KINDS[kind])
    columns = problem.items if problem.item_ids is None else problem.items[problem.item_ids]
    largest = float((problem.scale * problem.queries @ columns.T).abs().max())
    rtol = max(1e-5, 4 * largest * 2**-24)  # the error of a score in float32 is its exponential's relative one
    assert_near(solve(triton, problem, coefficients), expected_of(problem, coefficients), rtol=rtol)


def plain(queries, items, targets, bias=None, exclude=None, symmetric=False, scale=1.0):
    offsets = torch.arange(len(queries) + 1, device=DEVICE)
    targets = targets if isinstance(targets, tuple) else (offsets, targets.to(DEVICE))
    return make_problem(
        queries.to(DEVICE), items.to(DEVICE), torch.tensor(scale, device=DEVICE),
        None if bias is None else bias.to(DEVICE), None, targets, exclude, symmetric,
    )  # fmt: skip


def test_equal_scores_give_the_logarithm_of_their_number(strategy):
    found = solve(triton, plain(torch.zeros(5, 4), torch.ones(70, 4), torch.arange(5)), torch.ones(5, device=DEVICE))
    torch.testing.assert_close(found[0], torch.full((5,), 70.0, device=DEVICE).log())
    expected = torch.full((70, 4), 0.0, device=DEVICE)
    torch.testing.assert_close(found[2], expected)  # the queries are 0
    torch.testing.assert_close(found[1], torch.zeros(5, 4, device=DEVICE), atol=1e-6, rtol=0)


def test_where_all_but_the_positive_is_excluded_there_is_neither_loss_nor_gradient(strategy):
    everything = torch.arange(0, 6 * 40, 40, device=DEVICE), torch.arange(40, device=DEVICE).repeat(5)
    queries, items = torch.randn(5, 8), torch.randn(40, 8)
    problem = plain(queries, items, torch.tensor([0, 39, 31, 32, 7]), exclude=everything)
    found = solve(triton, problem, torch.ones(5, device=DEVICE))
    for tensor in found[:4]:
        torch.testing.assert_close(tensor, torch.zeros_like(tensor), atol=2e-6, rtol=0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_queries_without_positives_have_neither_loss_nor_gradient(strategy, symmetric):
    nothing = torch.zeros(19, dtype=torch.int64, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    problem = plain(torch.randn(18, 8), torch.randn(18, 8), nothing, torch.randn(18), symmetric=symmetric)
    for tensor in solve(triton, problem, torch.zeros(18, device=DEVICE)):
        assert tensor.eq(0).all()


def test_a_bias_of_minus_infinity_leaves_the_item_out(strategy):
    g = torch.Generator().manual_seed(0)
    queries, items, bias = torch.randn(9, 8, generator=g), torch.randn(70, 8, generator=g), torch.randn(70, generator=g)
    dead = torch.arange(70) % 3 == 1
    dead[32:64] = True  # a whole tile
    targets = torch.arange(9) * 3
    problem = plain(queries, items, targets, bias.where(~dead, -torch.inf))
    coefficients = torch.linspace(-1, 2, 9, device=DEVICE)
    found = solve(triton, problem, coefficients)
    kept = dead.logical_not().nonzero()[:, 0]
    smaller = plain(queries, items[kept], torch.searchsorted(kept, targets), bias[kept])
    expected = solve(triton, smaller, coefficients)
    alive = (~dead).to(DEVICE)
    assert found[2][~alive].eq(0).all()
    assert found[4][~alive].eq(0).all()
    assert_near([found[0], found[1], found[2][alive], found[3], found[4][alive]], [e.double() for e in expected])


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_confident_queries_keep_their_small_gradient(strategy, dtype):
    """Of a positive at p = 0.999 the slope is -0.001: lost, if p were rounded before 1 is taken off."""
    queries = torch.eye(20, 24, dtype=dtype)
    problem = plain(queries, queries.clone(), torch.arange(20), scale=10.0)
    coefficients = torch.ones(20, device=DEVICE)
    found, expected = solve(triton, problem, coefficients), expected_of(problem, coefficients)
    assert_near(found[:1], expected[:1], rtol=0, atol=20**0.5 * 10 * 2**-23)  # a difference of numbers near 10
    assert_near(found[1:], expected[1:], rtol=5e-4 if dtype == F32 else 2e-3, atol=1e-9)


def test_small_probabilities_survive_in_float16(strategy):
    """A softmax over columns of which most have p near 1e-7, which float16 itself rounds to 1 or 2 of its last bits."""
    g = torch.Generator().manual_seed(0)
    items = torch.randn(60, 16, generator=g).half()
    bias = torch.full((60,), -15.0)
    bias[5] = 0
    problem = plain(torch.randn(17, 16, generator=g).half() / 4, items, torch.full((17,), 5), bias)
    coefficients = torch.rand(17, generator=g).to(DEVICE) * 1e4  # so that the gradients fit float16's range
    found, expected = solve(triton, problem, coefficients), expected_of(problem, coefficients)
    rest = torch.arange(60, device=DEVICE) != 5
    for k in (2, 4):
        assert_near([found[k][rest]], [expected[k][rest]], rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["all", "symmetric all"])
def test_the_number_of_splits_does_not_matter(monkeypatch, kind):
    strategy_of("stream", monkeypatch)
    problem, coefficients = make(20, 100, 8, **KINDS[kind])
    expected = expected_of(problem, coefficients)
    for n in (2, 4):
        split = lambda n_x, n_y, block_x, block_y, device, n=n: Split.into(n, n_y, block_y)  # noqa: E731
        monkeypatch.setattr(Split, "of", split)
        assert_near(solve(triton, problem, coefficients), expected)


def test_splits_cover_everything_once():
    for n_y in (1, 31, 32, 33, 1000):
        for n in (1, 2, 3, 100):
            split = Split.into(n, n_y, 32)
            assert split.span % 32 == 0
            assert 1 <= split.n <= n
            assert (split.n - 1) * split.span < n_y <= split.n * split.span


def test_events_are_found_by_row_and_split():
    x, y = torch.tensor([2, 0, 2, 0, 2]), torch.tensor([70, 3, 5, 64, 5])
    events = Events.of(x, y, torch.tensor([0.0, 1, 2, 3, 4]), 3, 90, Split(3, 32))
    assert events.y.tolist() == [3, 64, 5, 5, 70]
    assert events.weight.tolist() == [1, 3, 2, 4, 0]
    assert events.bounds.tolist() == [[0, 1, 1, 2], [2, 2, 2, 2], [2, 4, 4, 5]]


@pytest.mark.parametrize("kind", ["all", "symmetric all"])
def test_the_same_bits_on_every_run(strategy, kind):
    problem, coefficients = make(20, 50, 8, dtype=F16, **KINDS[kind])
    first, second = (solve(triton, problem, coefficients) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["all", "symmetric all"])
def test_only_what_is_needed(strategy, kind):
    problem, coefficients = make(17, 40, 8, **KINDS[kind])
    _, row_lse, column_lse = triton.losses(problem)
    whole = triton.gradients(problem, coefficients, row_lse, column_lse, (True,) * 4)
    for wanted in range(4):
        needs = tuple(k == wanted for k in range(4))
        found = triton.gradients(problem, coefficients, row_lse, column_lse, needs)
        assert [g is not None for g in found] == list(needs)
        torch.testing.assert_close(found[wanted], whole[wanted])


@pytest.mark.parametrize("b", [0, 3])
def test_nothing_to_score(strategy, b):
    nothing = torch.zeros(b + 1, dtype=torch.int64, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    problem = plain(torch.randn(b, 4), torch.randn(0, 4) if b else torch.randn(5, 4), nothing)
    found = solve(triton, problem, torch.zeros(b, device=DEVICE))
    assert [t.shape for t in found[:3]] == [(b,), problem.queries.shape, problem.items.shape]
    assert all(t.eq(0).all() for t in found[:4])


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 36), st.integers(1, 70), st.integers(1, 40), st.sampled_from(sorted(KINDS)),
    st.sampled_from(STRATEGIES), st.integers(0, 99),
)  # fmt: skip
def test_any_size(b, n, d, kind, strategy, seed):
    with pytest.MonkeyPatch.context() as patch:
        strategy_of(strategy, patch)
        problem, coefficients = make(b, n, d, seed=seed, **KINDS[kind])
        # of one column alone the gradient is 0: then p - 1 is what float32 leaves of it
        assert_near(solve(triton, problem, coefficients), expected_of(problem, coefficients), atol=2e-5)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_by_the_public_function(dtype, reduction):
    """With the tiles that a GPU gets, rows and weights that are not contiguous, and a gradient from above."""
    g = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(24, 21, generator=g).to(DEVICE, dtype).T.detach().requires_grad_(),
        torch.randn(130, 48, generator=g).to(DEVICE, dtype)[:, ::2].detach().requires_grad_(),
        torch.tensor(0.3, device=DEVICE, requires_grad=True),
        torch.randn(260, generator=g).to(DEVICE)[::2].detach().requires_grad_(),
    ]
    targets = torch.randint(0, 130, (21,), generator=g).to(DEVICE)
    weights = torch.rand(21, generator=g).to(DEVICE)
    results = []
    for scorer in ("triton", "reference"):
        loss = score_loss(
            *leaves[:2], targets, scale=leaves[2], bias=leaves[3], weights=weights, reduction=reduction, scorer=scorer
        )
        factor = torch.linspace(-1, 3, loss.numel(), device=DEVICE).reshape(loss.shape)
        results.append([loss.detach(), *torch.autograd.grad((loss * factor).sum(), leaves)])
    assert [t.dtype for t in results[0]] == [F32, dtype, dtype, F32, F32]
    assert_near(results[0], [t.double() for t in results[1]], rtol=1e-5 if dtype == F32 else 8e-3)


@pytest.mark.parametrize(
    ("dtype", "width", "symmetric", "precision", "expected"),
    [
        (BF16, 64, False, "highest", True), (F16, 128, True, "highest", True), (BF16, 129, False, "high", False),
        (F32, 64, False, "highest", False), (F32, 64, False, "high", True), (F32, 65, False, "high", False),
        (F32, 64, True, "high", False),
    ],
)  # fmt: skip
def test_which_way(dtype, width, symmetric, precision, expected):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        problem, _ = make(3, 3, width, dtype=dtype, symmetric=symmetric)
        assert triton.streams(problem) == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_interpreter_is_asked_for_where_there_is_no_gpu():
    assert dispatch.interpreted() == (DEVICE == "cpu")
    assert dispatch.choose("score_loss", "triton", torch.zeros(1, device=DEVICE)) == "triton"
    assert _triton_stream.PRECISION == "tf32x3"
