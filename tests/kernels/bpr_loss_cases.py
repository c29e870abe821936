"""Batches for the tests of bpr_loss, and the comparison with the plain mathematics in double precision."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmenc_plugin.kernels import bpr_loss
from mmenc_plugin.kernels.bpr_loss import reference

IDS = ("user_ids", "positive_ids", "negative_ids")
# relative error of the loss, and of each gradient, in the Euclidean norm
TOLERANCE = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-5)}
TOLERANCE |= {torch.float16: (1e-5, 5e-4), torch.bfloat16: (1e-5, 4e-3)}  # gradients are rounded to these types


@dataclass(frozen=True)
class Batch:
    users: Tensor
    items: Tensor
    user_ids: Tensor
    positive_ids: Tensor
    negative_ids: Tensor
    bias: Tensor | None = None
    log_q: Tensor | None = None
    weights: Tensor | None = None
    loss: str = "bpr"
    reduction: str = "mean"

    def tables(self):
        return {name: t for name in ("users", "items", "bias") if (t := getattr(self, name)) is not None}

    def leaves(self, dtype=None):
        """The same with fresh tables that want gradients."""
        fresh = {name: t.detach().to(dtype or t.dtype, copy=True).requires_grad_() for name, t in self.tables().items()}
        constants = {n: t.to(torch.float64) for n in ("log_q", "weights") if (t := getattr(self, n)) is not None}
        return replace(self, **fresh, **(constants if dtype == torch.float64 else {}))

    def kernel(self, scorer=None, **options):
        return bpr_loss(*self.arguments(), **self.options(), scorer=scorer, **options)

    def reference(self):
        return reference.bpr_loss(*self.arguments(), **self.options())

    def arguments(self):
        return self.users, self.items, self.user_ids, self.positive_ids, self.negative_ids

    def options(self):
        return {name: getattr(self, name) for name in ("bias", "log_q", "weights", "loss", "reduction")}


def batch(b=7, k=3, d=5, u=6, i=9, *, dtype=torch.float32, offsets=True, seed=0, **options):
    """A batch of random numbers and rows; with bias, weights and (softmax) log_q unless offsets are off."""
    g = torch.Generator().manual_seed(seed)
    rows = {"user_ids": (u, (b,)), "positive_ids": (i, (b,)), "negative_ids": (i, (b, k))}
    ids = {name: torch.randint(n, shape, generator=g) for name, (n, shape) in rows.items()}
    if offsets:
        options = {"bias": torch.randn(i, generator=g).to(dtype), "weights": torch.rand(b, generator=g) + 0.1} | options
        if options.get("loss") == "softmax":
            options = {"log_q": torch.rand(i, generator=g).log()} | options
    users, items = (torch.randn(n, d, generator=g) / d**0.25 for n in (u, i))
    return Batch(users.to(dtype), items.to(dtype), **ids, **options)


def upstream(value):
    """A gradient from above that is neither 1 nor the same for all rows."""
    return torch.linspace(-1.5, 2, value.numel(), dtype=value.dtype).view(value.shape) + 0.25


def gradients(value, leaves):
    return torch.autograd.grad(value, list(leaves.tables().values()), upstream(value))


def close(found, expected, relative):
    """Within a part of the expected size; a sum that cancels is off by the rounding of its terms, of size about 1."""
    error, size = (found.double() - expected).norm(), expected.norm()
    absolute = 10 * torch.finfo(torch.promote_types(found.dtype, torch.float32)).eps
    assert error <= relative * size + absolute, f"off by {error:.2e} of {size:.2e}"


def compare(given, scorer, **options):
    """Value and every gradient against the plain mathematics in double precision."""
    ours, plain = given.leaves(), given.leaves(torch.float64)
    value, expected = ours.kernel(scorer, **options), plain.reference()
    for_loss, for_gradients = TOLERANCE[given.users.dtype]
    assert value.dtype == torch.promote_types(given.users.dtype, torch.float32)
    close(value, expected, for_loss)
    found = gradients(value, ours)
    for name, gradient, truth in zip(given.tables(), found, gradients(expected, plain), strict=True):
        table = getattr(given, name)
        assert (gradient.dtype, gradient.shape) == (table.dtype, table.shape), name
        close(gradient, truth, for_gradients)
    return value, found
