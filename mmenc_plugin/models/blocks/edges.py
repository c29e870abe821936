"""The pairs of users and items as edges whose weights are computed, and learned, rather than given."""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

_CHUNK = 1 << 16  # edges whose two embeddings are looked up at once


class Edges(nn.Module):
    """E distinct pairs of a user and an item, with what a layer of attention does over them.

    Nothing of [E, D] is made or kept for the gradient. The pairs are not saved with the model.

    Args:
        users: [E], by rising user.
        items: [E].
        n_users: U.
        n_items: I.
    """

    users: Tensor
    items: Tensor
    user_offsets: Tensor
    order: Tensor
    item_offsets: Tensor
    users_by_item: Tensor

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        order = torch.argsort(items, stable=True)
        parts = {
            "users": users, "items": items, "user_offsets": _offsets(users, n_users),
            "order": order, "item_offsets": _offsets(items[order], n_items), "users_by_item": users[order],
        }  # fmt: skip
        for name, tensor in parts.items():
            self.register_buffer(name, tensor, persistent=False)

    def dots(self, users: Tensor, items: Tensor) -> Tensor:
        """[E] the products of the embeddings [U, D] and [I, D] at the ends of each edge."""
        return cast(Tensor, _Dots.apply(users, items, self))  # type: ignore[no-untyped-call]

    def to_users(self, weights: Tensor, items: Tensor) -> Tensor:
        """[U, D] each user's sum of their items' embeddings [I, D] by the edges' weights [E]."""
        return cast(Tensor, _Sum.apply(weights, items, self, True))  # type: ignore[no-untyped-call]

    def to_items(self, weights: Tensor, users: Tensor) -> Tensor:
        """[I, D] each item's sum of its users' embeddings [U, D] by the edges' weights [E]."""
        return cast(Tensor, _Sum.apply(weights, users, self, False))  # type: ignore[no-untyped-call]

    def softmax_of_users(self, scores: Tensor) -> Tensor:
        """[E] softmax of the scores [E] over the edges of each user; scores of 80 and more would overflow."""
        powers = scores.exp()
        return powers / self.to_users(powers, powers.new_ones(self.n_items, 1))[self.users, 0]

    def softmax_of_items(self, scores: Tensor) -> Tensor:
        """[E] softmax of the scores [E] over the edges of each item; scores of 80 and more would overflow."""
        powers = scores.exp()
        return powers / self.to_items(powers, powers.new_ones(self.n_users, 1))[self.items, 0]

    def __deepcopy__(self, memo: dict[int, object]) -> Edges:
        twin = copy.copy(self)  # the edges never change: their tensors are shared
        twin._buffers = dict(self._buffers)
        return twin

    def _sum(self, weights: Tensor, source: Tensor, to_users: bool) -> Tensor:
        if to_users:
            matrix = _csr(self.user_offsets, self.items, weights, (self.n_users, self.n_items))
        else:
            matrix = _csr(self.item_offsets, self.users_by_item, weights[self.order], (self.n_items, self.n_users))
        return matrix @ source

    def _dots(self, users: Tensor, items: Tensor) -> Tensor:
        pairs = zip(torch.split(self.users, _CHUNK), torch.split(self.items, _CHUNK), strict=True)
        return torch.cat([(users[u] * items[i]).sum(1) for u, i in pairs])


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, source: Tensor, edges: Edges, to_users: bool) -> Tensor:
        ctx.save_for_backward(weights, source)
        ctx.edges, ctx.to_users = edges, to_users
        return edges._sum(weights, source, to_users)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, source = ctx.saved_tensors
        gradient, wanted = above[0].contiguous(), ctx.needs_input_grad
        ends = (gradient, source) if ctx.to_users else (source, gradient)
        return (
            ctx.edges._dots(*ends) if wanted[0] else None,
            ctx.edges._sum(weights, gradient, not ctx.to_users) if wanted[1] else None,
            None,
            None,
        )


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, edges: Edges) -> Tensor:
        ctx.save_for_backward(users, items)
        ctx.edges = edges
        return edges._dots(users, items)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        users, items = ctx.saved_tensors
        gradient, wanted = above[0].contiguous(), ctx.needs_input_grad
        return (
            ctx.edges._sum(gradient, items, True) if wanted[0] else None,
            ctx.edges._sum(gradient, users, False) if wanted[1] else None,
            None,
        )


def _offsets(rising: Tensor, n: int) -> Tensor:
    return torch.searchsorted(rising, torch.arange(n + 1, device=rising.device))


def _csr(offsets: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the layout new
        return torch.sparse_csr_tensor(offsets, columns, values, shape, check_invariants=False)
