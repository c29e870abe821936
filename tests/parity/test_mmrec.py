"""The models compute what MMRec's own do, given its parameters, features and batch: see mmrec/record.py."""

from pathlib import Path
from typing import Any

import mmrec_names
import pytest
import torch
from safetensors.torch import load_file

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

FOLDER = Path(__file__).parent / "mmrec"
INPUTS = load_file(FOLDER / "inputs.safetensors")
N_USERS, N_ITEMS = 20, 30


# Settings of ours that make it MMRec's model; see record.py for those of MMRec.
SETTINGS = {
    "FREEDOM": {"knn_k": 5, "edge_dropout": 0.0, "modality_weight": 0.1},
    "LATTICE": {
        "knn_k": 5, "content_size": 8, "reg_weight": 0.1, "graph_gradient": "first_step", "normalise": "sum",
        "propagation": "averaging",
    },
    "MGCN": {"knn_k": 5, "reg_weight": 0.1, "contrast_weight": 0.1, "scale_shared": True},
    "MMGCN": {"n_layers": 3, "fusion": "mean", "train_embeddings": False, "content_size": 14, "reg_weight": 0.0},
    "GRCN": {"n_routings": 0, "pruning": "hard", "content_size": 6, "reg_weight": 0.0},
    "SMORE": {"modality_knn_k": {"image": 5, "text": 4}, "reg_weight": 0.1, "contrast_weight": 0.1},
    "SLMRec": {"contrast_temperature": 0.5, "contrast_weight": 0.1},
    "BM3": {"n_layers": 2, "dropout": 0.0, "reg_weight": 0.1, "penalty": "norms", "modality_weight": 2.0},
    "LGMRec": {
        "n_hyper_layers": 2, "dropout": 0.0, "noise": 0.0, "reg_weight": 0.1, "penalty": "norms",
        "contrast_weight": 0.01 * len(INPUTS["batch_users"]),
    },
}  # fmt: skip


def our_model(name: str, recorded: dict[str, torch.Tensor]) -> Any:
    everywhere = torch.ones(N_ITEMS, dtype=torch.bool)
    features = FrozenFeatures({m: AlignedFeatures(INPUTS[m], everywhere) for m in ("image", "text")})
    interactions = Interactions(INPUTS["users"], INPUTS["items"], N_USERS, N_ITEMS)
    model = models.build(name, {"embedding_size": 8} | SETTINGS[name], features, interactions)
    theirs = {k.removeprefix("parameter:"): v for k, v in recorded.items() if k.startswith("parameter:")}
    model.load_state_dict(mmrec_names.ours_of(mmrec_names.names(N_USERS)[name], theirs), strict=True)
    return model


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_scores_are_those_of_mmrec(name):
    recorded = load_file(FOLDER / f"{name}.safetensors")
    model = our_model(name, recorded)
    batch = TripletBatch(*(INPUTS[f"batch_{part}"] for part in ("users", "positives", "negatives")))
    model.train()
    model.begin_epoch()
    loss = torch.stack(list(model.loss(batch).values())).sum()
    torch.testing.assert_close(loss.detach(), recorded["loss"], rtol=1e-5, atol=1e-6)
    model.eval()
    with torch.no_grad():
        scores = model.scores(torch.arange(N_USERS))
    if name in mmrec_names.SQUASHED:
        scores = scores.sigmoid()
    torch.testing.assert_close(scores, recorded["scores"], rtol=1e-5, atol=1e-6)
