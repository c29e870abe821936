"""What a recommender takes, for a plan: its steps on real batches, with features of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.training.measure import peak, seconds
from mmenc_plugin.types import TripletBatch

_USERS = 4096  # ranked for the measurement, at most


@dataclass(frozen=True)
class RecommenderCost:
    """Of a recommender.

    Attributes:
        step_bytes: at the peak of a training step, beside parameters, gradients and optimizer.
        step_seconds: of a training step.
        ranking_seconds: of ranking all items for all users.
    """

    step_bytes: float
    step_seconds: float
    ranking_seconds: float


def recommender_cost(
    model: MultimodalRecommender, batches: Sequence[TripletBatch], device: torch.device, k: int
) -> RecommenderCost:
    """Take a step on each batch, with Adam, and rank for some users.

    Args:
        model: on the device; it is trained by this.
        batches: at least 2, on the device; the first one warms up.
        device: of both.
        k: length of the lists.
    """
    ranking = _ranking_seconds(model, device, k)
    if not model.learns:
        return RecommenderCost(0.0, 0.0, ranking)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model.train()
    model.begin_epoch()

    def step(batch: TripletBatch) -> None:
        optimizer.zero_grad(set_to_none=False)
        torch.stack(list(model.loss(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step(batches[0])
    there = [t for p in model.parameters() for t in (p, p.grad) if t is not None] + list(model.buffers())
    with peak(device, there) as found:
        step(batches[0])
    times = sorted(seconds(lambda b=b: step(b), device) for b in batches[1:])  # type: ignore[misc]
    return RecommenderCost(found.bytes, times[len(times) // 2], ranking)


def _ranking_seconds(model: MultimodalRecommender, device: torch.device, k: int) -> float:
    users = torch.arange(model.n_users, device=device)[:_USERS]
    with torch.no_grad():
        model.eval().topk(users[:1], 1)  # what is made at the first call
        model.eval()
        embedding = seconds(lambda: model.topk(users[:1], 1), device)
        ranking = seconds(lambda: model.topk(users, min(k, model.n_items)), device)
    return embedding + ranking * model.n_users / len(users)
