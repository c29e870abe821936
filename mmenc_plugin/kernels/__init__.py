"""Scoring without the users x items matrix. One folder a kernel; `reference.py` in it is the mathematics."""

from mmenc_plugin.kernels.bpr_loss import bpr_loss
from mmenc_plugin.kernels.dispatch import SCORERS, Scorer, get_scorer, set_scorer
from mmenc_plugin.kernels.knn_graph import knn_graph
from mmenc_plugin.kernels.score_loss import score_loss
from mmenc_plugin.kernels.score_topk import score_topk

__all__ = [
    "KERNELS",
    "SCORERS",
    "Scorer",
    "bpr_loss",
    "get_scorer",
    "knn_graph",
    "score_loss",
    "score_topk",
    "set_scorer",
]

_ALL = ("triton", "cpu", "reference")
# name -> (what it computes, its implementations)
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bpr_loss": ("BPR and the sampled softmax over K negatives a row", _ALL),
    "knn_graph": ("the k nearest neighbours of each item by the cosine of its features", _ALL),
    "score_loss": ("softmax loss of B queries over N items, with its gradients", _ALL),
    "score_topk": ("the k best of N items for each of B users, seen items left out", _ALL),
}
