"""bpr_loss: K negatives a positive pair, forward and backward into the two tables."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin import kernels

from . import data, parity
from .harness import PLAIN, Bench, Case, Inputs, Outputs, Side, Target, compiled
from .score_loss import LIMITS

USERS = 20_000


def cases(device: str, quick: bool) -> list[Case]:
    """The shapes that are timed."""
    if quick:
        return [_case(512, 16, 64, 2_000, 5_000)]
    if device == "cpu":
        return [_case(8_192, 64, 64, USERS, 100_000, targets=(Target("time", 0.30), Target("memory", 0.15)))]
    targets = (Target("ms", 0.25), Target("time", 1 / 4), Target("memory", 1 / 10))
    return [
        _case(8_192, 64, 64, USERS, 1_000_000, torch.bfloat16, targets),
        _case(8_192, 512, 64, USERS, 1_000_000, torch.bfloat16),
    ]


def small(device: str) -> list[Case]:
    """Ragged shapes."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    shapes = [(1, 1, 8, 1, 2), (63, 3, 64, 50, 500), (129, 17, 128, 20, 300), (257, 5, 512, 99, 1_000)]
    return [_case(*shape, dtype) for shape in [*shapes, (1_000, 64, 96, 2_000, 3_001)]]


def _case(
    b: int, k: int, d: int, u: int, n: int, dtype: torch.dtype = torch.float32, targets: tuple[Target, ...] = ()
) -> Case:
    name = f"B={b:,} K={k} D={d}, {u:,} users, N={n:,}, forward and backward, {str(dtype).removeprefix('torch.')}"
    return Case(name, {"B": b, "K": k, "D": d, "U": u, "N": n}, "", dtype, targets)


def inputs(case: Case, device: str) -> Inputs:
    """Tables [U, D] and [N, D], ids [B], [B] and [B, K]."""
    b, k, d, u, n = (case.sizes[key] for key in ("B", "K", "D", "U", "N"))
    random = data.generator(device)
    ids = functools.partial(torch.randint, 0, generator=random, device=device)
    return {
        "device": device,
        "users": data.vectors(u, d, case.dtype, random),
        "items": data.vectors(n, d, case.dtype, random),
        "user_ids": ids(u, (b,)),
        "positive_ids": ids(n, (b,)),
        "negative_ids": ids(n, (b, k)),
    }


def plain_loss(given: Inputs) -> Tensor:
    """All negatives' rows gathered, einsum, softplus."""
    users = given["users"][given["user_ids"]]
    positive = (users * given["items"][given["positive_ids"]]).sum(1)
    negative = torch.einsum("bd,bkd->bk", users, given["items"][given["negative_ids"]])
    wide = torch.promote_types(users.dtype, torch.float32)
    return F.softplus(negative.to(wide) - positive.to(wide)[:, None]).mean()


def ours(given: Inputs, sparse_grad: bool = False, scorer: str | None = None) -> Tensor:
    """Our kernel."""
    return kernels.bpr_loss(
        given["users"], given["items"], given["user_ids"], given["positive_ids"], given["negative_ids"],
        sparse_grad=sparse_grad, scorer=scorer,
    )  # fmt: skip


def graded(loss_of, given: Inputs) -> Outputs:
    """The loss and the tables' gradients."""
    leaves = {name: given[name].detach().requires_grad_() for name in ("users", "items")}
    loss = loss_of({**given, **leaves})
    loss.backward()
    return {"loss": loss.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}


def expected(case: Case, given: Inputs, dtype: torch.dtype) -> Outputs:
    """The plain way in `dtype`."""
    return graded(plain_loss, {**given, **{name: given[name].to(dtype) for name in ("users", "items")}})


def check(case: Case, given: Inputs, found: Outputs, answer: Outputs, role: str) -> list[str]:
    """The loss and both gradients within the limits of score_loss."""
    dense = {name: value.to_dense() if value.is_sparse else value for name, value in found.items()}
    half = "half ours" if role == "ours" else "half others"
    return parity.tensors(dense, answer, LIMITS[torch.float32 if case.dtype == torch.float32 else half])


def sides(case: Case, device: str) -> list[Side]:
    """Ours with dense and with sparse gradients, the plain way, and the same compiled."""
    run = functools.partial(functools.partial, graded)
    return [
        Side("ours", run(ours), "ours"),
        Side("ours, sparse gradients", run(functools.partial(ours, sparse_grad=True)), "ours"),
        *([Side("ours, the torch path", run(functools.partial(ours, scorer="cpu")), "ours")] * (device == "cuda")),
        Side(PLAIN, run(plain_loss), "plain"),
        Side("the same under torch.compile", run(compiled(plain_loss)), compiled=True),
    ]


BENCH = Bench("bpr_loss", cases, small, inputs, sides, expected, check)
