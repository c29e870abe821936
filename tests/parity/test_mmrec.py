"""The models compute what MMRec's own do, given its parameters, features and batch: see mmrec/record.py."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch

FOLDER = Path(__file__).parent / "mmrec"
INPUTS = load_file(FOLDER / "inputs.safetensors")
N_USERS, N_ITEMS = 20, 30


@dataclass(frozen=True)
class Twin:
    """How one of our models becomes MMRec's.

    Attributes:
        settings: ours.
        names: our parameters -> MMRec's; where several of MMRec's make one of ours, a function of all of them.
        differs: the part of the loss to leave out because MMRec's differs from the paper, and its value there.
        squashed: MMRec's scores are the sigmoids of ours.
    """

    settings: dict[str, Any]
    names: dict[str, str | Callable[[dict[str, torch.Tensor]], torch.Tensor]]
    leave_out: tuple[str, ...] = field(default=())
    squashed: bool = False


TWINS = {
    "FREEDOM": Twin(
        {"knn_k": 5, "edge_dropout": 0.0, "modality_weight": 0.1},
        {
            "user_id.weight": "user_embedding.weight",
            "item_id.weight": "item_id_embedding.weight",
            "projections.image.weight": "image_trs.weight",
            "projections.image.bias": "image_trs.bias",
            "projections.text.weight": "text_trs.weight",
            "projections.text.bias": "text_trs.bias",
        },
    ),
    "SLMRec": Twin(
        {"contrast_temperature": 0.5, "contrast_weight": 0.1},
        {
            "branches.user_id.weight": "embedding_user.weight",
            "branches.item_id.weight": "embedding_item.weight",
            **{
                f"{ours}.{part}": f"{theirs}.{part}"
                for part in ("weight", "bias")
                for ours, theirs in {
                    "branches.projections.image": "v_dense", "branches.projections.text": "t_dense",
                    "branches.user_fusion": "embedding_user_after_GCN",
                    "branches.item_fusion": "embedding_item_after_GCN",
                    "spaces.0.so_far": "g_i_iv", "spaces.0.modality": "g_v_iv", "spaces.1.modality": "g_t_ivat",
                }.items()
            },
            # MMRec keeps the hop to the audio space, which it has no audio for: two matrices where one would do.
            "spaces.1.so_far.weight": lambda p: p["g_iva_ivat.weight"] @ p["g_iv_iva.weight"],
            "spaces.1.so_far.bias": lambda p: p["g_iva_ivat.weight"] @ p["g_iv_iva.bias"] + p["g_iva_ivat.bias"],
        },
        squashed=True,
    ),
    "BM3": Twin(
        {"n_layers": 2, "dropout": 0.0, "reg_weight": 0.1, "penalty": "norms", "modality_weight": 2.0},
        {
            "user_id.weight": "user_embedding.weight",
            "item_id.weight": "item_id_embedding.weight",
            "predictor.weight": "predictor.weight",
            "predictor.bias": "predictor.bias",
            "projections.image.weight": "image_trs.weight",
            "projections.image.bias": "image_trs.bias",
            "projections.text.weight": "text_trs.weight",
            "projections.text.bias": "text_trs.bias",
        },
    ),
    "LGMRec": Twin(
        {
            "n_hyper_layers": 2, "dropout": 0.0, "noise": 0.0, "reg_weight": 0.1, "penalty": "norms",
            "contrast_weight": 0.01 * len(INPUTS["batch_users"]),
        },
        {
            "user_id.weight": "user_embedding.weight",
            "item_id.weight": "item_id_embedding.weight",
            "projections.image.weight": lambda p: p["item_image_trs"].T,
            "projections.text.weight": lambda p: p["item_text_trs"].T,
            "hyperedges.image.weight": lambda p: p["v_hyper"].T,
            "hyperedges.text.weight": lambda p: p["t_hyper"].T,
        },
    ),
}  # fmt: skip


def our_model(name: str, twin: Twin, recorded: dict[str, torch.Tensor]) -> Any:
    everywhere = torch.ones(N_ITEMS, dtype=torch.bool)
    features = FrozenFeatures({m: AlignedFeatures(INPUTS[m], everywhere) for m in ("image", "text")})
    interactions = Interactions(INPUTS["users"], INPUTS["items"], N_USERS, N_ITEMS)
    model = models.build(name, {"embedding_size": 8} | twin.settings, features, interactions)
    theirs = {k.removeprefix("parameter:"): v for k, v in recorded.items() if k.startswith("parameter:")}
    ours = {k: theirs[v] if isinstance(v, str) else v(theirs) for k, v in twin.names.items()}
    model.load_state_dict(ours, strict=True)
    return model


@pytest.mark.parametrize("name", TWINS)
def test_loss_and_scores_are_those_of_mmrec(name):
    recorded = load_file(FOLDER / f"{name}.safetensors")
    model = our_model(name, TWINS[name], recorded)
    batch = TripletBatch(*(INPUTS[f"batch_{part}"] for part in ("users", "positives", "negatives")))
    model.train()
    model.begin_epoch()
    loss = torch.stack(list(model.loss(batch).values())).sum()
    torch.testing.assert_close(loss.detach(), recorded["loss"], rtol=1e-5, atol=1e-6)
    model.eval()
    with torch.no_grad():
        scores = model.scores(torch.arange(N_USERS))
    if TWINS[name].squashed:
        scores = scores.sigmoid()
    torch.testing.assert_close(scores, recorded["scores"], rtol=1e-5, atol=1e-6)
