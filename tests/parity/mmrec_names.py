"""Our models' parameters out of those of MMRec's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
# Ours -> theirs; where several of theirs make one of ours, a function of all of them.
Names = dict[str, str | Callable[[Parameters], Tensor]]


def ours_of(names: Names, theirs: Parameters) -> Parameters:
    """Our state out of MMRec's."""
    return {ours: theirs[name] if isinstance(name, str) else name(theirs) for ours, name in names.items()}


def linear(ours: str, theirs: str) -> Names:
    return {f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}


def halves(n_users: int, name: str, ours: str = "id") -> Names:
    """Our two tables of users and items out of MMRec's one."""
    return {
        f"user_{ours}.weight": lambda theirs: theirs[name][:n_users],
        f"item_{ours}.weight": lambda theirs: theirs[name][n_users:],
    }


def ids_and_projections() -> Names:
    return {
        "user_id.weight": "user_embedding.weight",
        "item_id.weight": "item_id_embedding.weight",
        **linear("projections.image", "image_trs"),
        **linear("projections.text", "text_trs"),
    }


def vbpr() -> Names:
    """Theirs has one matrix for the texts' and the pictures' features, and no bias of an item."""
    width = 64
    return {
        "user_id.weight": lambda p: p["u_embedding"][:, :width],
        "user_content.weight": lambda p: p["u_embedding"][:, width:],
        "item_id.weight": "i_embedding",
        "item_bias.weight": lambda p: torch.zeros(len(p["i_embedding"]), 1),
        "projection.matrices.text.weight": lambda p: p["item_linear.weight"][:, :384],
        "projection.matrices.image.weight": lambda p: p["item_linear.weight"][:, 384:],
        "content_bias.matrices.text.weight": lambda p: torch.zeros(1, 384),
        "content_bias.matrices.image.weight": lambda p: torch.zeros(1, p["item_linear.weight"].shape[1] - 384),
    }


def mmgcn(ours: str, theirs: str) -> Names:
    """The graph of one modality."""
    names: Names = {f"{ours}.preference.weight": f"{theirs}.preference"}
    for layer in range(3):
        neighbour, mine = f"{theirs}.conv_embed_{layer + 1}.weight", f"{ours}.layers.{layer}"
        names[f"{mine}.neighbour.weight"] = lambda all_, neighbour=neighbour: all_[neighbour].T  # type: ignore[misc]
        names |= linear(f"{mine}.node", f"{theirs}.linear_layer{layer + 1}")
        names |= linear(f"{mine}.both", f"{theirs}.g_layer{layer + 1}")
    return names


def slmrec() -> Names:
    return {
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
    }


def smore() -> Names:
    names = ids_and_projections()
    for ours, theirs in (("image", "query_v"), ("text", "query_t")):
        names |= linear(f"attentions.{ours}.0", f"{theirs}.0") | {f"attentions.{ours}.2.weight": f"{theirs}.2.weight"}
    for view, (name, letter) in enumerate({"image": "v", "text": "t", "fusion": "f"}.items()):
        names[f"filters.{view}"] = lambda theirs, name=name: theirs[f"{name}_complex_weight"][0]  # type: ignore[misc]
        names |= linear(f"gates.{view}", f"gate_{letter}.0")
        names |= linear(f"preferences.{view}", f"gate_{name}_prefer.0")
    return names


def names(n_users: int) -> dict[str, Names]:
    """Of each model that MMRec has."""
    return {
        "VBPR": vbpr(),
        "FREEDOM": ids_and_projections(),
        "LATTICE": ids_and_projections() | {"importance": "modal_weight"},
        "MGCN": {
            **ids_and_projections(),
            **linear("attention.0", "query_common.0"),
            "attention.2.weight": "query_common.2.weight",
            **linear("gates.image", "gate_v.0"),
            **linear("gates.text", "gate_t.0"),
            **linear("preferences.image", "gate_image_prefer.0"),
            **linear("preferences.text", "gate_text_prefer.0"),
        },
        "MMGCN": {
            **halves(n_users, "id_embedding"),
            **mmgcn("of_modality.image", "v_gcn"),
            **mmgcn("of_modality.text", "t_gcn"),
            **linear("of_modality.image.projection", "v_gcn.MLP"),
        },
        "GRCN": {
            **halves(n_users, "id_gcn.id_embedding"),
            **halves(n_users, "model_specific_conf", "confidence"),
            "of_modality.image.preference.weight": "v_gcn.preference",
            "of_modality.text.preference.weight": "t_gcn.preference",
            **linear("of_modality.image.projection", "v_gcn.MLP"),
            **linear("of_modality.text.projection", "t_gcn.MLP"),
        },
        "SMORE": smore(),
        "SLMRec": slmrec(),
        "BM3": ids_and_projections() | linear("predictor", "predictor"),
        "LGMRec": {
            "user_id.weight": "user_embedding.weight",
            "item_id.weight": "item_id_embedding.weight",
            "projections.image.weight": lambda p: p["item_image_trs"].T,
            "projections.text.weight": lambda p: p["item_text_trs"].T,
            "hyperedges.image.weight": lambda p: p["v_hyper"].T,
            "hyperedges.text.weight": lambda p: p["t_hyper"].T,
        },
    }


SQUASHED = {"SLMRec"}  # MMRec's scores are the sigmoids of ours
