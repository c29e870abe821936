"""The k nearest neighbours of each item by the cosine of its features, without the matrix of all pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mmenc_plugin.kernels.checks import check_floats, check_no_nan, check_same_device, check_shape
from mmenc_plugin.kernels.dispatch import Scorer
from mmenc_plugin.kernels.score_topk import score_topk
from mmenc_plugin.types import Neighbours

BLOCK = 1 << 15  # items whose neighbours are looked for at once: a step of the progress bar


@torch.no_grad()
def knn_graph(
    features: Tensor | Sequence[Tensor],
    k: int,
    *,
    weights: Sequence[float] | None = None,
    include_self: bool = False,
    show_progress: bool = False,
    scorer: Scorer | None = None,
) -> Neighbours:
    """Link each item to the k most like it: Zhang et al., "Mining Latent Structures" (LATTICE), MM 2021, section 3.1.

    The similarity of two items is sum_m w_m cos(f_m, f'_m) over the modalities m, which is one inner product of rows
    that are put together from the modalities' unit rows, each times the root of its weight; so `score_topk` finds the
    neighbours. Memory is O(I (D + k)), D the sum of all widths. A modality whose row is zero adds nothing to an item's
    similarities; an item that is zero in all has no neighbours and is nobody's.

    Args:
        features: [I, D], or several [I, D_m], one a modality.
        k: neighbours of each item, from 1 to the number of items it may have.
        weights: w_m, not negative; None for equal ones. They are divided by their sum.
        include_self: whether an item may be its own neighbour.
        show_progress: print a progress bar.
        scorer: the implementation of `score_topk`; None for what `set_scorer` has set.

    Returns:
        ids [I, k] and similarities [I, k], the most alike first, equal ones by the smaller row; -1 and 0 where an item
        has fewer neighbours.

    Raises:
        TypeError: features are not of a floating type.
        ValueError: shapes or devices do not agree, k is out of range, a weight is negative or all are zero, or NaN.
    """
    tables = [features] if isinstance(features, Tensor) else list(features)
    _check(tables, k, include_self)
    rows = _unit_rows(tables, _shares(weights, len(tables)))
    alike = rows.any(1).nonzero()[:, 0]
    candidates = None if len(alike) == len(rows) else alike
    ids, similarities = rows.new_full((len(rows), k), -1, dtype=torch.int64), rows.new_zeros(len(rows), k)
    parts = range(0, len(alike), BLOCK) if len(alike) else ()
    for start in tqdm(parts, desc="neighbours", unit="block", disable=not show_progress):
        block = alike[start : start + BLOCK]
        own = None if include_self else (torch.arange(len(block) + 1, device=rows.device), block)
        top = score_topk(rows[block], rows, k, exclude=own, candidates=candidates, scorer=scorer)
        found = top.ids.shape[1]
        ids[block, :found], similarities[block, :found] = top.ids, top.scores.masked_fill(top.ids < 0, 0)
    return Neighbours(ids, similarities)


def _check(tables: list[Tensor], k: int, include_self: bool) -> None:
    if not tables:
        raise ValueError("features is empty, but must hold at least one table [I, D].")
    named = {"features" if len(tables) == 1 else f"features[{m}]": table for m, table in enumerate(tables)}
    check_floats(**named)
    check_same_device(**named)
    n = len(tables[0])
    for name, table in named.items():
        check_shape(name, table, (n, None), "[I, D]")
    check_no_nan(**named)
    most, meaning = (n, "items") if include_self else (n - 1, "others")
    if not 1 <= k <= most:
        raise ValueError(f"k is {k}, but an item has 1 to {most} {meaning} to be linked to.")


def _shares(weights: Sequence[float] | None, n: int) -> list[float]:
    given = [1.0] * n if weights is None else [float(weight) for weight in weights]
    if len(given) != n:
        raise ValueError(f"weights has {len(given)} numbers for {n} tables of features: give one for each.")
    if not all(weight >= 0 for weight in given) or not 0 < sum(given) < float("inf"):
        raise ValueError(f"weights are {given}, but must be finite, not negative, and not all zero.")
    return [weight / sum(given) for weight in given]


def _unit_rows(tables: list[Tensor], shares: list[float]) -> Tensor:
    """[I, D] float32 (float64 for float64): rows whose inner products are the similarities."""
    wide = torch.promote_types(tables[0].dtype, torch.float32)
    rows = tables[0].new_empty(len(tables[0]), sum(table.shape[1] for table in tables), dtype=wide)
    parts = torch.split(rows, [table.shape[1] for table in tables], dim=1)
    for part, table, share in zip(parts, tables, shares, strict=True):
        values = table.to(wide)
        largest = values.abs().amax(1, keepdim=True)  # squares of very large or small numbers would not be numbers
        values = values / largest.where(largest > 0, 1)
        torch.mul(F.normalize(values, dim=1), share**0.5, out=part)
    return rows
