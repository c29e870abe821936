"""How well pictures find their texts, and texts their pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin.features.contents import Rows
from mmenc_plugin.kernels import score_topk
from mmenc_plugin.kernels.score_loss.problem import rows_of

CUTOFFS = (1, 5, 10)


def retrieval(images: Tensor, texts: Tensor, image_of: Rows, text_of: Rows) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways, with the whole [images, texts] ranking and none of its matrix.

    A query is right at k if one of those that belong to it is among the first k. What ties with it counts half.

    Args:
        images: [I, D] different pictures, of any length.
        texts: [T, D] different texts.
        image_of: [P] the picture of each pair.
        text_of: [P] its text.

    Returns:
        "image->text R@1" and so on, in 0..1.
    """
    images, texts = F.normalize(images.float(), dim=1), F.normalize(texts.float(), dim=1)
    ways = {"image->text": (images, texts, image_of, text_of), "text->image": (texts, images, text_of, image_of)}
    found = {}
    for way, (queries, others, query_of, other_of) in ways.items():
        ranks = _best_ranks(queries, others, query_of, other_of)
        found.update({f"{way} R@{k}": float((ranks < k).double().mean()) for k in CUTOFFS})
    return found


def _best_ranks(queries: Tensor, others: Tensor, query_of: Rows, other_of: Rows) -> Tensor:
    """The rank from 0 of the best of those that belong to each query: [Q] float64."""
    order = np.lexsort((other_of, query_of))
    offsets = np.concatenate([[0], np.bincount(query_of, minlength=len(queries)).cumsum()])
    at, columns = (torch.from_numpy(part).to(queries.device) for part in (offsets, other_of[order]))
    ranks = score_topk(queries, others, 1, targets=(at, columns)).ranks
    assert ranks is not None
    each = ranks.above + ranks.tied / 2
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
    return best.scatter_reduce(0, rows_of((at, columns)), each.double(), "amin")
