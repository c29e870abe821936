"""score_loss: softmax cross-entropy over all N items, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin import kernels

from . import data, parity
from .harness import PLAIN, Bench, Case, Inputs, Outputs, Side, Target, compiled
from .loss_peers import bias_peers, label_peers, symmetric_peers

LIMITS = {  # of ||found - expected|| / ||expected||; half types round the gradients, and the plain way its scores too
    torch.float32: {"loss": 1e-5, "gradient": 1e-5},
    "half ours": {"loss": 1e-5, "gradient": 4e-3},
    "half others": {"loss": 1e-3, "gradient": 2e-2},
}
LEAVES = {
    "label": ("queries", "items"),
    "forward": (),
    "bias": ("queries", "items", "bias"),
    "full": ("queries", "items", "scale", "bias"),
    "symmetric": ("queries", "items", "scale"),
}
CHUNKED, CCE_EXACT = "F.linear_cross_entropy, chosen chunks", "Cut Cross-Entropy, cce_exact"
CLIP, QUACK, INF = "open_clip ClipLoss", "QuACK", "inf-cl"


def cases(device: str, quick: bool) -> list[Case]:
    """On a CPU at the training sizes of a recommender; on a GPU at a catalogue's too."""
    if device == "cpu":
        shape = (256, 5_000) if quick else (2_048, 50_000)
        tall = (Target("time", 0.40), Target("memory", 0.06))
        wide = (Target("time", 0.75), Target("memory", 0.16))
        return [
            _case("bias", *shape, 64, targets=() if quick else tall),
            _case("bias", *shape, 512, targets=() if quick else wide),
            _case("label", *shape, 64, targets=() if quick else tall),
            _case("label", *shape, 512, targets=() if quick else wide),
            _case("full", *shape, 64, targets=() if quick else tall),
            _case("symmetric", shape[0], shape[0], 512),
        ]
    if quick:
        return [_case(form, 512, 512, 64, torch.bfloat16) for form in LEAVES]
    million = functools.partial(_case, b=4_096, n=1_000_000, dtype=torch.bfloat16)
    return [
        million("forward", d=64, targets=(Target("ms", 1.7), Target("time", 1 / 8))),
        million("label", d=64, targets=_ahead(6.0, {PLAIN: 5, CCE_EXACT: 1.5, CHUNKED: 1.25})),
        million("label", d=128, targets=_ahead(9.5, {PLAIN: 3.5, CCE_EXACT: 1.3, CHUNKED: 1})),
        million("label", d=512, targets=_ahead(24, {PLAIN: 2, QUACK: 1 / 1.05})),
        million("full", d=64),
        _case("label", 8_192, 8_192, 512, torch.bfloat16, _ahead(0.42, {PLAIN: 3, INF: 5})),
        _case("symmetric", 8_192, 8_192, 512, torch.bfloat16, (*_ahead(0.42, {CLIP: 3}), Target("memory", 1 / 6))),
        _case("symmetric", 32_768, 32_768, 512, torch.bfloat16, _ahead(6.5, {CLIP: 3})),
    ]


def _ahead(ms: float, factors: dict[str, float]) -> tuple[Target, ...]:
    """At most so many milliseconds, and so many times as fast as others."""
    return (Target("ms", ms), *(Target("time", 1 / factor, side) for side, factor in factors.items()))


def small(device: str) -> list[Case]:
    """Ragged shapes, every form."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    shapes = [(1, 2, 8), (63, 1_000, 64), (129, 4_097, 128), (256, 5_000, 512), (300, 2_051, 96)]
    forms = ["full", "label", "full", "bias", "full"]
    both = [_case(form, *shape, dtype) for form, shape in zip(forms, shapes, strict=True)]
    return [*both, _case("symmetric", 257, 257, 128, dtype)]


def _case(
    form: str, b: int, n: int, d: int, dtype: torch.dtype = torch.float32, targets: tuple[Target, ...] = ()
) -> Case:
    what = {
        "label": "forward and backward",
        "forward": "forward",
        "bias": "with a bias an item, forward and backward",
        "full": "with scale, bias an item and 20 items masked a row, forward and backward",
        "symmetric": "symmetric with scale, forward and backward",
    }
    name = f"B={b:,} N={n:,} D={d}, {what[form]}, {str(dtype).removeprefix('torch.')}"
    return Case(name, {"B": b, "N": n, "D": d}, form, dtype, targets)


def inputs(case: Case, device: str) -> Inputs:
    """Queries [B, D], items [N, D], a target a row; scale, bias and exclude where the form has them."""
    b, n, d = (case.sizes[key] for key in "BND")
    random = data.generator(device)
    made: Inputs = {"device": device}
    made["queries"] = data.vectors(b, d, case.dtype, random)
    made["items"] = data.vectors(n, d, case.dtype, random)
    made["targets"] = torch.randint(0, n, (b,), generator=random, device=device)
    if case.form == "symmetric":
        made["targets"] = torch.arange(b, device=device)
    if case.form in ("full", "symmetric"):
        made["scale"] = torch.tensor(1.3, device=device)
    if case.form in ("bias", "full"):
        made["bias"] = torch.randn(n, generator=random, device=device) / 2
    if case.form == "full":
        made["exclude"] = data.exclusion(b, 20, n, random, made["targets"])
    return made


def graded(case: Case, loss_of: Callable[[Inputs], Tensor]) -> Callable[[Inputs], Outputs]:
    """The loss of the inputs and, but for form `forward`, its gradients."""

    def run(given: Inputs) -> Outputs:
        names = LEAVES[case.form]
        with torch.set_grad_enabled(bool(names)):
            leaves = {name: given[name].detach().requires_grad_() for name in names}
            loss = loss_of({**given, **leaves})
            if names:
                loss.backward()
        return {"loss": loss.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}

    return run


def plain_loss(given: Inputs) -> Tensor:
    """The whole score matrix, masked, into PyTorch's cross-entropy; in float32 from the scores on, as usual."""
    scores = given["queries"] @ given["items"].T
    if "scale" in given:
        scores = scores * given["scale"]
    if "bias" in given:
        scores = scores + given["bias"]
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if "exclude" in given:
        scores[data.rows_of(given["exclude"]), given["exclude"][1]] = -torch.inf
    return F.cross_entropy(scores, given["targets"])


def plain_symmetric(given: Inputs) -> Tensor:
    """One score matrix, cross-entropy over its rows and over its columns."""
    scores = (given["scale"] * (given["queries"] @ given["items"].T)).to(
        torch.promote_types(given["queries"].dtype, torch.float32)
    )
    return (F.cross_entropy(scores, given["targets"]) + F.cross_entropy(scores.T, given["targets"])) / 2


def expected(case: Case, given: Inputs, dtype: torch.dtype) -> Outputs:
    """The plain way on 256 rows at a time, all in `dtype`."""
    names = LEAVES[case.form]
    floats = ("queries", "items", "scale", "bias")
    wide = {k: v.detach().to(dtype).requires_grad_(k in names) if k in floats else v for k, v in given.items()}
    passes = [(wide, 1.0)]
    if case.form == "symmetric":
        passes = [(wide, 0.5), ({**wide, "queries": wide["items"], "items": wide["queries"]}, 0.5)]
    total = torch.zeros((), dtype=dtype, device=wide["queries"].device)
    for side, weight in passes:
        for start in range(0, len(side["queries"]), 256):
            part = _rows(side, start, start + 256)
            loss = plain_loss(part) * (weight * len(part["queries"]) / len(side["queries"]))
            if names:
                loss.backward()
            total += loss.detach()
    return {"loss": total, **{name: wide[name].grad for name in names}}


def _rows(given: Inputs, start: int, stop: int) -> Inputs:
    part = {**given, "queries": given["queries"][start:stop], "targets": given["targets"][start:stop]}
    if "exclude" in given:
        offsets, ids = given["exclude"]
        bounds = offsets[start : stop + 1]
        part["exclude"] = (bounds - bounds[0], ids[bounds[0] : bounds[-1]])
    return part


def check(case: Case, given: Inputs, found: Outputs, answer: Outputs, role: str) -> list[str]:
    """The loss and every gradient within LIMITS."""
    half = "half ours" if role == "ours" else "half others"
    return parity.tensors(found, answer, LIMITS[torch.float32 if case.dtype == torch.float32 else half])


def ours(case: Case, scorer: str | None = None) -> Callable[[Inputs], Tensor]:
    """Our kernel, with what the form has."""

    def loss(given: Inputs) -> Tensor:
        return kernels.score_loss(
            given["queries"], given["items"], given["targets"], scale=given.get("scale", 1.0), bias=given.get("bias"),
            exclude=given.get("exclude"), symmetric=case.form == "symmetric", scorer=scorer,
        )  # fmt: skip

    return loss


def sides(case: Case, device: str) -> list[Side]:
    """Ours, the plain way, and the peers that know this form."""
    plain = plain_symmetric if case.form == "symmetric" else plain_loss
    peers = {"symmetric": symmetric_peers, "full": lambda *_: (), "bias": bias_peers}.get(case.form, label_peers)
    torch_path = [Side("ours, the torch path", graded(case, ours(case, "cpu")), "ours")] if device == "cuda" else []
    return [
        Side("ours", graded(case, ours(case)), "ours"),
        *torch_path,
        Side(PLAIN, graded(case, plain), "plain"),
        Side("the same under torch.compile", graded(case, compiled(plain)), compiled=True),
        *(Side(name, graded(case, loss), **more) for name, loss, more in peers(case, device)),
    ]


BENCH = Bench("score_loss", cases, small, inputs, sides, expected, check)
