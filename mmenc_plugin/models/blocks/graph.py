"""Sparse graphs: of users and items by their interactions, and of items by their features."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc_plugin.types import Interactions


class Graph(nn.Module):
    """A constant sparse matrix [N, M] that multiplies embeddings.

    It lies in CSR, with its transpose beside it for the gradient unless it is symmetric; neither is saved with the
    model. Pairs that are given several times are summed.

    Args:
        rows: [E] of 0..N-1.
        columns: [E] of 0..M-1.
        values: [E].
        shape: (N, M).
        symmetric: whether it equals its transpose, which then is not made.
    """

    forth_offsets: Tensor
    forth_columns: Tensor
    forth_values: Tensor

    def __init__(
        self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], symmetric: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.symmetric = shape, symmetric
        self._keep("forth", *_csr(rows, columns, values, shape))
        if not symmetric:
            self._keep("back", *_csr(columns, rows, values, (shape[1], shape[0])))

    def _keep(self, name: str, *parts: Tensor) -> None:
        for part, tensor in zip(("offsets", "columns", "values"), parts, strict=True):
            self.register_buffer(f"{name}_{part}", tensor, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """[N, D] of embeddings [M, D]."""
        return cast(Tensor, _Product.apply(full(embeddings), self))  # type: ignore[no-untyped-call]

    def matrix(self, transposed: bool = False) -> Tensor:
        """The sparse CSR tensor."""
        name = "back" if transposed and not self.symmetric else "forth"
        offsets, columns, values = (getattr(self, f"{name}_{part}") for part in ("offsets", "columns", "values"))
        shape = self.shape[::-1] if transposed else self.shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the layout new
            return torch.sparse_csr_tensor(offsets, columns, values, shape, check_invariants=False)

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values [E] of what it holds, by rising row, then column."""
        offsets, columns, values = self.forth_offsets, self.forth_columns, self.forth_values
        rows = torch.arange(self.shape[0], device=offsets.device).repeat_interleave(offsets.diff())
        return rows, columns, values

    def rows(self, wanted: Tensor) -> Tensor:
        """The rows [B] of the matrix as a sparse COO tensor [B, M]; the others cost nothing."""
        starts, stops = self.forth_offsets[wanted], self.forth_offsets[wanted + 1]
        lengths = stops - starts
        row = torch.repeat_interleave(torch.arange(len(wanted), device=wanted.device), lengths)
        entry = torch.arange(len(row), device=row.device) + (stops - lengths.cumsum(0))[row]
        return torch.sparse_coo_tensor(
            torch.stack([row, self.forth_columns[entry]]),
            self.forth_values[entry],
            (len(wanted), self.shape[1]),
            check_invariants=False,
            is_coalesced=True,
        )

    def __deepcopy__(self, memo: dict[int, object]) -> Graph:
        twin = copy.copy(self)  # a graph never changes: its tensors are shared
        twin._buffers = dict(self._buffers)
        return twin


class _Product(torch.autograd.Function):
    """Graph times embeddings, whose gradient is the transposed graph times what comes from above."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        return sparse_product(graph.matrix(), embeddings)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        return sparse_product(ctx.graph.matrix(transposed=True), above[0].contiguous()), None


class _MeanOfLayers(torch.autograd.Function):
    """Mean of graph^l x over l = 0..L, by Horner's rule; its gradient is the same with the transposed graph."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, n_layers: int, *parts: Tensor) -> Tensor:
        ctx.graph, ctx.n_layers, ctx.sizes = graph, n_layers, [len(part) for part in parts]
        return _MeanOfLayers.mean(graph.matrix(), torch.cat(parts).div_(n_layers + 1), n_layers)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        matrix = ctx.graph.matrix(transposed=True)
        of_nodes = _MeanOfLayers.mean(matrix, above[0] / (ctx.n_layers + 1), ctx.n_layers)
        return None, None, *torch.split(of_nodes, ctx.sizes)

    @staticmethod
    def mean(matrix: Tensor, own: Tensor, n_layers: int) -> Tensor:
        layers = own
        for _ in range(n_layers):
            layers = sparse_product(matrix, layers, own)
        return layers


def full(tensor: Tensor) -> Tensor:
    """The tensor, in float32 if it is of a half type: sparse products take no such."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def sparse_product(matrix: Tensor, x: Tensor, onto: Tensor | None = None) -> Tensor:
    """Of matrix [N, M] and x [M, D], plus `onto` [N, D] if given; in the type of its factors, under autocast too."""
    # Written into a tensor of its own: `matrix @ x` first makes one of zeros and copies it, which takes longest.
    out = x.new_empty(matrix.shape[0], x.shape[1]) if onto is None else onto.clone()
    with torch.autocast(x.device.type, enabled=False):
        return torch.addmm(out, matrix, x, beta=0 if onto is None else 1, out=out)


def distinct(interactions: Interactions) -> tuple[Tensor, Tensor]:
    """The users [E] and items [E] of the training pairs, each pair once, by rising user."""
    pairs = torch.unique(interactions.users * interactions.n_items + interactions.items)
    return pairs // interactions.n_items, pairs % interactions.n_items


def bipartite(users: Tensor, items: Tensor, n_users: int, n_items: int) -> Graph:
    """D^-1/2 A D^-1/2 of the graph whose first n_users nodes are users and the others items.

    He et al., "LightGCN", SIGIR 2020, equation 8; a node without neighbours has a row of zeros.

    Args:
        users: [E] of the distinct pairs.
        items: [E].
        n_users: U.
        n_items: I.
    """
    n = n_users + n_items
    weights = (degrees(users, n_users)[users] * degrees(items, n_items)[items]).rsqrt()
    rows, columns = torch.cat([users, items + n_users]), torch.cat([items + n_users, users])
    return Graph(rows, columns, torch.cat([weights, weights]), (n, n), symmetric=True)


def averaging(users: Tensor, items: Tensor, n_users: int, n_items: int, itself: bool = False) -> Graph:
    """D^-1 A of the graph of `bipartite`: what a node gets is the mean of its neighbours, and zeros without any.

    Args:
        users: [E] of the distinct pairs.
        items: [E].
        n_users: U.
        n_items: I.
        itself: whether a node is its own neighbour too, D^-1 (A + I).
    """
    n = n_users + n_items
    own = torch.arange(n if itself else 0, device=users.device)
    rows, columns = torch.cat([users, items + n_users, own]), torch.cat([items + n_users, users, own])
    return Graph(rows, columns, degrees(rows, n)[rows].reciprocal(), (n, n))


def of_users(users: Tensor, items: Tensor, n_users: int, n_items: int) -> Graph:
    """The part [U, I] of `bipartite` that gives users what their items have; arguments as there."""
    weights = (degrees(users, n_users)[users] * degrees(items, n_items)[items]).rsqrt()
    return Graph(users, items, weights, (n_users, n_items))


def degrees(ids: Tensor, n: int) -> Tensor:
    """[n] how often each of 0..n-1 occurs, as float32."""
    return torch.bincount(ids, minlength=n).float()


def symmetrically_normalised(rows: Tensor, columns: Tensor, values: Tensor, n: int) -> Tensor:
    """[E] the values of D^-1/2 A D^-1/2 of n nodes, D the sums of the rows of A; zero where a sum is not positive."""
    sums = torch.zeros(n, dtype=values.dtype, device=values.device).index_add_(0, rows, values)
    root = inverse_root(sums)
    return root[rows] * values * root[columns]


def inverse_root(sums: Tensor) -> Tensor:
    """1 / sqrt of what is positive; zero, with a gradient of zero, where it is not."""
    positive = sums > 0
    return sums.where(positive, 1).rsqrt().where(positive, 0)


def light_gcn(graph: Graph, users: Tensor, items: Tensor, n_layers: int, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean over the layers 0..n_layers of graph^l times the embeddings (LightGCN, equations 7 and 11).

    Args:
        graph: [U + I, U + I].
        users: [U, D].
        items: [I, D].
        n_layers: L, at least 0.
        dropout: share of the entries of each layer's output set to zero at random; for training.

    Returns:
        [U, D] and [I, D].
    """
    if not dropout:
        both = mean_of_layers(graph, (users, items), n_layers)
    else:
        layer = both = torch.cat([users, items])
        for _ in range(n_layers):
            layer = F.dropout(graph(layer), dropout)
            both = both + layer
        both = both / (n_layers + 1)
    return tuple(torch.split(both, [len(users), len(items)]))  # type: ignore[return-value]


def mean_of_layers(graph: Graph, nodes: Sequence[Tensor], n_layers: int) -> Tensor:
    """Mean [N, D] over the layers 0..n_layers of graph^l times the embeddings of all nodes, which come in parts."""
    parts = [full(part) for part in nodes]
    return cast(Tensor, _MeanOfLayers.apply(graph, n_layers, *parts))  # type: ignore[no-untyped-call]


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    keys, place = torch.unique(rows * shape[1] + columns, return_inverse=True)
    summed = torch.zeros(len(keys), dtype=values.dtype, device=values.device).index_add_(0, place, values)
    starts = torch.arange(shape[0] + 1, device=keys.device) * shape[1]
    return torch.searchsorted(keys, starts), keys % shape[1], summed
