"""The models, and the settings with which both sides compute the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.models.data import WIDTHS

COMMON = {"learning_rate": 0.001, "train_batch_size": 2048, "topk": [5, 10, 20]}
OURS = COMMON | {"embedding_size": 64, "metrics": ["Recall", "NDCG", "Precision", "MAP"], "valid_metric": "NDCG@20"}
THEIRS = COMMON | {"use_gpu": False, "metrics": ["Recall", "NDCG", "Precision", "MAP"], "valid_metric": "NDCG@20"}


@dataclass(frozen=True)
class Pair:
    """A model on both sides.

    Attributes:
        ours: settings that differ from this package's defaults.
        theirs: settings that differ from MMRec's, or are one of its lists.
        certain_ours: what is changed in ours for the comparison of answers: no chance, and MMRec's defects.
        certain_theirs: likewise in theirs.
    """

    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    certain_ours: dict[str, Any] = field(default_factory=dict)
    certain_theirs: dict[str, Any] = field(default_factory=dict)


PAIRS = {
    "VBPR": Pair({"reg_weight": 0.0}, {"reg_weight": 0.0}),
    # Theirs trains neither the embeddings nor the preferences; ours does, except where answers are compared. Ours has
    # one width for the graphs of pictures and of texts; theirs 256 and 384, made 384 and 384 for the comparison.
    "MMGCN": Pair(
        {"n_layers": 3, "fusion": "mean", "content_size": 256, "reg_weight": 0.0}, {"reg_weight": 0.0},
        {"train_embeddings": False, "content_size": 384},
    ),
    # Theirs computes three routings, whose messages reach no user; ours three that do, except for the comparison.
    "GRCN": Pair({"pruning": "hard", "reg_weight": 0.0}, {"reg_weight": 0.0}, {"n_routings": 0}),
    "SLMRec": Pair(
        {"contrast_temperature": 0.2, "contrast_weight": 0.01, "weight_decay": 1e-4},
        {"ssl_temp": 0.2, "ssl_alpha": 0.01},
    ),
    "LATTICE": Pair(
        {"reg_weight": 1e-4, "graph_gradient": "first_step", "normalise": "sum", "propagation": "averaging"},
        {"reg_weight": 1e-4},
    ),
    "BM3": Pair(
        {"n_layers": 1, "dropout": 0.3, "reg_weight": 0.1, "penalty": "norms", "modality_weight": 2.0},
        {"n_layers": 1, "dropout": 0.3, "reg_weight": 0.1}, {"dropout": 0.0}, {"dropout": 0.0},
    ),
    "FREEDOM": Pair(
        {"edge_dropout": 0.8, "modality_weight": 1e-3}, {"dropout": 0.8, "reg_weight": 1e-3},
        {"edge_dropout": 0.0}, {"dropout": 0.0},
    ),
    "MGCN": Pair({"contrast_weight": 0.01, "scale_shared": True}, {"cl_loss": 0.01}),
    "LGMRec": Pair(
        {"penalty": "norms", "contrast_weight": 1e-4 * 2048}, {},
        {"dropout": 0.0, "noise": 0.0}, {"keep_rate": 1.0},
    ),
    "SMORE": Pair(
        {"n_layers": 3, "reg_weight": 1e-4},
        {"n_ui_layers": 3, "image_knn_k": 10, "text_knn_k": 10, "reg_weight": 1e-4, "dropout_rate": 0},
    ),
}  # fmt: skip

HOST_KEYS = {"weight_decay"}  # of `Pair.ours`, those that are RecBole's and no model's
MODALITIES = tuple(WIDTHS)
