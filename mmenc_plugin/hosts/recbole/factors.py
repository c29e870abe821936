"""What a model ranks with, where its score of a user and an item is a product of two vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CLOSE = 1e-4  # of the largest score: the order of the sums differs, the scores may not
_COMPARED = 4  # users


@dataclass(frozen=True)
class Factors:
    """score(u, i) = users(u) . items[i] + bias[i].

    Attributes:
        users: user ids [B] -> [B, D].
        items: [I, D].
        bias: [I], or None for no bias.
    """

    users: Callable[[Tensor], Tensor]
    items: Tensor
    bias: Tensor | None = None

    def scores(self, users: Tensor) -> Tensor:
        """All scores [B, I] of the user ids [B]."""
        scores = self.users(users) @ self.items.T
        return scores if self.bias is None else scores + self.bias


def _embedding_weights(model: Any) -> Factors:
    return Factors(model.user_embedding, model.item_embedding.weight)


def _kept_tables(model: Any) -> Factors:
    """Propagated once: `full_sort_predict` keeps them, and `calculate_loss` throws them away."""
    return Factors(model.restore_user_e.__getitem__, model.restore_item_e)


def _enmf(model: Any) -> Factors:
    return Factors(model.user_embedding, model.item_embedding.weight * model.H_i.weight)


def _cke(model: Any) -> Factors:
    return Factors(model.user_embedding, model.item_embedding.weight + model.entity_embedding.weight[: model.n_items])


def _gcmc(model: Any) -> Factors:
    """The decoder's score of the class "taken" is one bilinear form, a weighted sum of its basis matrices."""
    users, items = model.GcEncoder(model.user_features, model.item_features)
    decoder = model.BiDecoder
    form = sum(weight * basis for weight, basis in zip(decoder.dense_layer.weight[1], decoder.weights, strict=True))
    return Factors((users @ form).__getitem__, items)


def _nceplrec(model: Any) -> Factors:
    return Factors(model.user_embeddings.__getitem__, model.item_embeddings.T)


def _simplex(model: Any) -> Factors:
    def users(ids: Tensor) -> Tensor:
        history = model.item_emb(model.history_item_id[ids])
        mixed = model.get_UI_aggregation(model.user_emb(ids), history, model.history_item_len[ids])
        return torch.nn.functional.normalize(mixed, dim=1)

    return Factors(users, torch.nn.functional.normalize(model.item_emb.weight, dim=1))


# RecBole's models whose `full_sort_predict` ends in a dot product. Not among them: those with a sigmoid behind it (DMF,
# FISM, NAIS), which rounds high scores to ties; those that compute in the width of all items (EASE, SLIMElastic, the
# auto-encoders); and those with a network over pairs (NeuMF, ConvNCF, NNCF).
RECBOLE: dict[str, Callable[[Any], Factors]] = {
    "BPR": _embedding_weights,
    "CKE": _cke,
    "DGCF": _kept_tables,
    "ENMF": _enmf,
    "GCMC": _gcmc,
    "LINE": _embedding_weights,
    "LightGCN": _kept_tables,
    "NCEPLRec": _nceplrec,
    "NCL": _kept_tables,
    "NGCF": _kept_tables,
    "SGL": _kept_tables,
    "SimpleX": _simplex,
    "SpectralCF": _kept_tables,
}


def known_as(model_class: type) -> str | None:
    """The name in `RECBOLE` of a RecBole model or of a class made from one; None where there is none."""
    names = (kind.__name__ for kind in model_class.__mro__ if kind.__module__.startswith("recbole.model."))
    return next((name for name in names if name in RECBOLE), None)


def factors_of(model: Any, interaction: Any) -> Factors | str:
    """The factors of a RecBole model, which is in evaluation mode, under `torch.no_grad`.

    Args:
        model: ours in RecBole's face, or one of RecBole's own.
        interaction: users of RecBole's own model, the first of which are scored in both ways.

    Returns:
        The factors, or why there are none: a clause for a message.
    """
    from mmenc_plugin.hosts.recbole.adapter import RecboleModel

    if isinstance(model, RecboleModel):
        if not model.model.is_product:
            return f"the scores of {model.mmenc_name} are no dot products under these settings"
        found = model.model.embed()
        return Factors(found.users.__getitem__, found.items, found.item_bias)
    name = known_as(type(model))
    if name is None:
        return cannot(type(model).__name__)
    few = interaction[slice(0, _COMPARED)].to(model.device)
    own = model.full_sort_predict(few).view(len(few), -1)
    factors = RECBOLE[name](model)
    if not _agree(factors, few[model.USER_ID], own):
        return f"the scores of this {type(model).__name__} are not the dot products of RecBole's {name}"
    return factors


def _agree(factors: Factors, users: Tensor, own: Tensor) -> bool:
    ours = factors.scores(users)
    return ours.shape == own.shape and bool((ours - own).abs().max() <= _CLOSE * own.abs().max())


def cannot(name: str) -> str:
    """Why a model cannot be ranked by a dot product, naming those that can."""
    return f"{name} is not known to score with a dot product, as these do: {', '.join(RECBOLE)}"
