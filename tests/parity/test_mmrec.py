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


def linear(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}


def halves(name: str, ours: str = "id") -> dict[str, str | Callable[[dict[str, torch.Tensor]], torch.Tensor]]:
    """Our two tables of users and items out of MMRec's one."""
    return {
        f"user_{ours}.weight": lambda theirs: theirs[name][:N_USERS],
        f"item_{ours}.weight": lambda theirs: theirs[name][N_USERS:],
    }


def mmgcn_names(ours: str, theirs: str) -> dict[str, str | Callable[[dict[str, torch.Tensor]], torch.Tensor]]:
    """The graph of one modality."""
    names: dict[str, Any] = {f"{ours}.preference.weight": f"{theirs}.preference"}
    for layer in range(3):
        neighbour, mine = f"{theirs}.conv_embed_{layer + 1}.weight", f"{ours}.layers.{layer}"
        names[f"{mine}.neighbour.weight"] = lambda all_, neighbour=neighbour: all_[neighbour].T
        for part, name in (("node", "linear_layer"), ("both", "g_layer")):
            names |= {f"{mine}.{part}.{p}": f"{theirs}.{name}{layer + 1}.{p}" for p in ("weight", "bias")}
    return names


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
    "LATTICE": Twin(
        {
            "knn_k": 5, "content_size": 8, "reg_weight": 0.1, "graph_gradient": "first_step", "normalise": "sum",
            "propagation": "averaging",
        },
        {
            "user_id.weight": "user_embedding.weight",
            "item_id.weight": "item_id_embedding.weight",
            "projections.image.weight": "image_trs.weight",
            "projections.image.bias": "image_trs.bias",
            "projections.text.weight": "text_trs.weight",
            "projections.text.bias": "text_trs.bias",
            "importance": "modal_weight",
        },
    ),
    "MGCN": Twin(
        {"knn_k": 5, "reg_weight": 0.1, "contrast_weight": 0.1, "scale_shared": True},
        {
            "user_id.weight": "user_embedding.weight",
            "item_id.weight": "item_id_embedding.weight",
            **linear("attention.0", "query_common.0"),
            "attention.2.weight": "query_common.2.weight",
            **linear("projections.image", "image_trs"),
            **linear("projections.text", "text_trs"),
            **linear("gates.image", "gate_v.0"),
            **linear("gates.text", "gate_t.0"),
            **linear("preferences.image", "gate_image_prefer.0"),
            **linear("preferences.text", "gate_text_prefer.0"),
        },
    ),
    "MMGCN": Twin(
        {"n_layers": 3, "fusion": "mean", "train_embeddings": False, "content_size": 14, "reg_weight": 0.0},
        halves("id_embedding")
        | mmgcn_names("of_modality.image", "v_gcn")
        | mmgcn_names("of_modality.text", "t_gcn")
        | {f"of_modality.image.projection.{p}": f"v_gcn.MLP.{p}" for p in ("weight", "bias")},
    ),
    "GRCN": Twin(
        {"n_routings": 0, "pruning": "hard", "content_size": 6, "reg_weight": 0.0},
        halves("id_gcn.id_embedding")
        | halves("model_specific_conf", "confidence")
        | {"of_modality.image.preference.weight": "v_gcn.preference"}
        | {"of_modality.text.preference.weight": "t_gcn.preference"}
        | {f"of_modality.image.projection.{p}": f"v_gcn.MLP.{p}" for p in ("weight", "bias")}
        | {f"of_modality.text.projection.{p}": f"t_gcn.MLP.{p}" for p in ("weight", "bias")},
    ),
    "SMORE": Twin(
        {"modality_knn_k": {"image": 5, "text": 4}, "reg_weight": 0.1, "contrast_weight": 0.1},
        {
            "user_id.weight": "user_embedding.weight",
            "item_id.weight": "item_id_embedding.weight",
            **linear("projections.image", "image_trs"),
            **linear("projections.text", "text_trs"),
            **linear("attentions.image.0", "query_v.0"),
            "attentions.image.2.weight": "query_v.2.weight",
            **linear("attentions.text.0", "query_t.0"),
            "attentions.text.2.weight": "query_t.2.weight",
            **{
                f"filters.{view}": lambda theirs, name=name: theirs[f"{name}_complex_weight"][0]
                for view, name in enumerate(("image", "text", "fusion"))
            },
            **linear("gates.0", "gate_v.0"),
            **linear("gates.1", "gate_t.0"),
            **linear("gates.2", "gate_f.0"),
            **linear("preferences.0", "gate_image_prefer.0"),
            **linear("preferences.1", "gate_text_prefer.0"),
            **linear("preferences.2", "gate_fusion_prefer.0"),
        },
    ),
    "SLMRec": Twin(
        {"contrast_temperature": 0.5, "contrast_weight": 0.1},
        {
            "branches.user_id.weight": "embedding_user.weight",
            "branches.item_id.weight": "embedding_item.weight",
            **linear("branches.projections.image", "v_dense"),
            **linear("branches.projections.text", "t_dense"),
            **linear("branches.user_fusion", "embedding_user_after_GCN"),
            **linear("branches.item_fusion", "embedding_item_after_GCN"),
            **linear("spaces.0.so_far", "g_i_iv"),
            **linear("spaces.0.modality", "g_v_iv"),
            **linear("spaces.1.modality", "g_t_ivat"),
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
            **linear("predictor", "predictor"),
            **linear("projections.image", "image_trs"),
            **linear("projections.text", "text_trs"),
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
