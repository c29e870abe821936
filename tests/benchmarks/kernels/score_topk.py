"""score_topk: the k best of N items for each user, seen items left out."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mmenc_plugin import kernels

from . import data, parity
from .harness import PLAIN, Bench, Case, Inputs, Outputs, Side, Target
from .peers import missing

SEEN = 100  # items a user
FAISS, FLASHLIB = "faiss IndexFlatIP, more fetched and filtered", "FlashLib, more fetched and filtered"
LIMITS = {"ours": 1e-5, "plain": 1e-5, "peer": 1e-5}  # of scores, as a share of the largest
HALF_LIMITS = {"ours": 1e-5, "plain": 1e-2, "peer": 1e-2}  # theirs round the scores to the half type


def cases(device: str, quick: bool) -> list[Case]:
    """The shapes that are timed."""
    if device == "cpu":
        if quick:
            return [_case(128, 20_000, 64, 50)]
        targets = (Target("time", 0.55), Target("memory", 0.06), Target("time", 1 / 3.5, FAISS))
        return [_case(1_024, 500_000, 64, 50, targets=targets)]
    if quick:
        return [_case(256, 20_000, 64, 50, torch.bfloat16)]
    ahead = (Target("time", 1 / 6), Target("time", 1 / 3, FLASHLIB))
    million = [
        _case(4_096, 1_000_000, 64, k, torch.bfloat16, (Target("ms", ms), *ahead))
        for k, ms in ((20, 1.6), (50, 2.0), (100, 2.7))
    ]
    large = (Target("ms", 22), Target("time", 1 / 4), Target("time", 1 / 4, FLASHLIB))
    return [*million, _case(4_096, 10_000_000, 128, 50, torch.bfloat16, large)]


def small(device: str) -> list[Case]:
    """Ragged shapes, fewer items than k among them."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    shapes = [(1, 2, 8, 1), (63, 500, 64, 20), (129, 4_097, 128, 50), (257, 5_000, 512, 100), (33, 20_001, 96, 50)]
    return [_case(*shape, dtype) for shape in shapes]


def _case(b: int, n: int, d: int, k: int, dtype: torch.dtype = torch.float32, targets: tuple[Target, ...] = ()) -> Case:
    seen = min(SEEN, n - k)
    name = f"B={b:,} N={n:,} D={d} k={k}, {seen} seen items a user, {str(dtype).removeprefix('torch.')}"
    return Case(name, {"B": b, "N": n, "D": d, "K": k, "seen": seen}, "", dtype, targets)


def inputs(case: Case, device: str) -> Inputs:
    """Users [B, D], items [N, D] of length 1 (where the nearest and the largest product agree), exclude, k."""
    b, n, d = (case.sizes[key] for key in "BND")
    random = data.generator(device)
    items = torch.nn.functional.normalize(data.vectors(n, d, torch.float32, random))
    return {
        "device": device,
        "users": data.vectors(b, d, case.dtype, random),
        "items": items.to(case.dtype),
        "exclude": data.exclusion(b, case.sizes["seen"], n, random),
        "k": case.sizes["K"],
    }


def expected(case: Case, given: Inputs, dtype: torch.dtype) -> Outputs:
    """A full matrix of 64 users at a time, in `dtype`, sorted by falling score and rising row."""
    users, items = given["users"].to(dtype), given["items"].to(dtype)
    seen_by, found = data.rows_of(given["exclude"]), []
    for start in range(0, len(users), 64):
        scores = users[start : start + 64] @ items.T
        inside = (seen_by >= start) & (seen_by < start + 64)
        scores[seen_by[inside] - start, given["exclude"][1][inside]] = -torch.inf
        found.append(scores.topk(given["k"]).indices)
    return {"ids": torch.cat(found)}


def check(case: Case, given: Inputs, found: Outputs, answer: Outputs, role: str) -> list[str]:
    """The ids are the best, none twice, none seen."""
    ids, best = found["ids"], answer["ids"]
    if ids.shape == best.shape and bool(((ids < 0) | (ids >= len(given["items"]))).any()):
        return ["an id is no item's"]
    if ids.shape != best.shape:
        return [f"ids are {list(ids.shape)}, not {list(best.shape)}"]
    both = torch.cat([ids, best], dim=1)
    parts = zip(given["users"].double().split(64), both.split(64), strict=True)
    scores = torch.cat([(given["items"][i].double() @ u[:, :, None])[:, :, 0] for u, i in parts])
    limits = LIMITS if case.dtype == torch.float32 else HALF_LIMITS
    return parity.ranking(ids, best, scores, _is_seen(ids, given), limits[role])


def _is_seen(ids: Tensor, given: Inputs) -> Tensor:
    """Whether each id [B, K] is one that its user has seen."""
    n = len(given["items"])
    keys = data.rows_of(given["exclude"]) * n + given["exclude"][1]
    return torch.isin(torch.arange(len(ids), device=ids.device)[:, None] * n + ids, keys)


def plain(given: Inputs) -> Outputs:
    """The whole score matrix, -inf at what was seen, torch.topk: what RecBole does."""
    scores = given["users"] @ given["items"].T
    scores[data.rows_of(given["exclude"]), given["exclude"][1]] = -torch.inf
    return {"ids": scores.topk(given["k"]).indices}


def blocks(given: Inputs, size: int = 16_384) -> Outputs:
    """Blocks of items: the k best of each block, and of those so far."""
    users, items, (_, seen), k = given["users"], given["items"], given["exclude"], given["k"]
    best, ids = users.new_empty(len(users), 0), torch.empty(len(users), 0, dtype=torch.int64, device=users.device)
    rows = data.rows_of(given["exclude"])
    for start in range(0, len(items), size):
        scores = users @ items[start : start + size].T
        inside = (seen >= start) & (seen < start + size)
        scores[rows[inside], seen[inside] - start] = -torch.inf
        top = scores.topk(min(k, scores.shape[1]))
        merged = torch.cat([best, top.values], dim=1).topk(min(k, best.shape[1] + top.values.shape[1]))
        best, ids = merged.values, torch.cat([ids, top.indices + start], dim=1).gather(1, merged.indices)
    return {"ids": ids}


def faiss(given: Inputs) -> Outputs:
    """Exact search by product for k and as many more as a user has seen; the index is filled anew, as after a step."""
    import faiss as library

    library.omp_set_num_threads(torch.get_num_threads())
    index = library.IndexFlatIP(given["items"].shape[1])
    index.add(given["items"].numpy())
    most = int(given["exclude"][0].diff().max())
    _, ids = index.search(given["users"].numpy(), min(given["k"] + most, len(given["items"])))
    return {"ids": _without_seen(torch.from_numpy(ids), given)}


def flashlib(given: Inputs) -> Outputs:
    """Nearest by distance, which for items of length 1 are those of the largest product."""
    from flashlib.primitives.knn import flash_knn

    fetched = given["k"] + len(given["exclude"][1]) // len(given["users"])  # every user has seen as many
    ids = flash_knn(given["users"], given["items"], fetched, return_distances=False)
    return {"ids": _without_seen(ids.long(), given)}


def _without_seen(ids: Tensor, given: Inputs) -> Tensor:
    """The first k of each row that the user has not seen, in the order given."""
    order = _is_seen(ids, given).to(torch.uint8).argsort(dim=1, stable=True)
    return ids.gather(1, order[:, : given["k"]])


def ours(given: Inputs, scorer: str | None = None) -> Outputs:
    """Our kernel."""
    top = kernels.score_topk(given["users"], given["items"], given["k"], exclude=given["exclude"], scorer=scorer)
    return {"ids": top.ids}


def sides(case: Case, device: str) -> list[Side]:
    """Ours, the plain way and the peers."""
    needs_memory = "" if device == "cpu" else "on a CPU only: this build has no GPU index"
    torch_path = [Side("ours, the torch path", functools.partial(ours, scorer="cpu"), "ours")]
    return [
        Side("ours", ours, "ours"),
        *(torch_path if device == "cuda" else []),
        Side(PLAIN, plain, "plain"),
        Side("blocks of 16,384, topk and merge", blocks),
        Side(FAISS, faiss, missing=needs_memory or missing("faiss", "faiss-cpu", device)),
        Side(FLASHLIB, flashlib, missing=missing("flashlib", "flashlib", device, needs_gpu=True)),
    ]


BENCH = Bench("score_topk", cases, small, inputs, sides, expected, check)
