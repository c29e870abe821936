"""Whether two answers are the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def norm_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||; infinite where shapes differ or a value is not finite."""
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    # in blocks, so that no wide copy of a large gradient is made
    pairs = zip(found.detach().reshape(-1).split(2**24), expected.reshape(-1).split(2**24), strict=True)
    sums = [((f.double() - e.double()).square().sum(), e.double().square().sum()) for f, e in pairs]
    off, whole = (sum(float(part) for part in column) ** 0.5 for column in zip(*sums, strict=True))
    return off / whole if whole else off


def tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], limits: Mapping[str, float]) -> list[str]:
    """Which outputs differ by more than their limit; `limits` may have one for 'loss' and one for 'gradient'."""
    wrong = []
    for name, value in expected.items():
        limit = limits["loss" if name == "loss" else "gradient"]
        what = name if name == "loss" else f"gradient of {name}"
        if name not in found:
            wrong.append(f"{what} is not there")
        elif not (error := norm_error(found[name], value)) <= limit:
            wrong.append(f"{what} is off by {error:.1e} (at most {limit:.0e})")
    return wrong


def ranking(ids: Tensor, expected: Tensor, scores_of: Tensor, seen: Tensor, limit: float) -> list[str]:
    """Whether the ids [B, K] are the best ones, up to scores that lie closer than `limit`.

    Args:
        ids: [B, K] that were found, int64.
        expected: [B, K].
        scores_of: [B, 2 K], the exact scores of `ids` and `expected`, side by side.
        seen: [B, K], whether an id found was to be left out.
        limit: of the difference of two scores, as a share of the largest.

    Returns:
        what is wrong, in words.
    """
    if ids.shape != expected.shape:
        return [f"ids are {list(ids.shape)}, not {list(expected.shape)}"]
    found, best = scores_of.double().chunk(2, dim=1)
    ordered = ids.sort(dim=1).values
    apart = float((found - best).abs().max() / best.abs().max())
    return [
        text
        for text, is_so in (
            ("an id comes twice", bool((ordered[:, 1:] == ordered[:, :-1]).any())),
            ("an id is one that was to be left out", bool(seen.any())),
            (f"ids are other than the best (their scores by {apart:.1e}, at most {limit:.0e})", apart > limit),
        )
        if is_so
    ]


def equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Which outputs are not the very same."""
    return [
        f"{name} is {found[name].tolist() if name in found else 'missing'}, not {value.tolist()}"
        for name, value in expected.items()
        if name not in found or not torch.equal(found[name], value)
    ]
