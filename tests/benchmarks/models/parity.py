"""Whether both sides compute the same at the benchmark's size, given the same parameters."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor

from mmenc_plugin import models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.types import Interactions, TripletBatch
from tests.benchmarks.models import data
from tests.benchmarks.models.settings import HOST_KEYS, PAIRS
from tests.benchmarks.models.theirs import Theirs, features, first_batch
from tests.parity import mmrec_names
from tests.parity.mmrec.record import narrow_mmgcn, tensors_of

N_SCORED = 256  # users
LOSS, SCORES = 1e-4, 1e-3  # relative to the loss; relative to the spread of the scores
ODD = 2e-3  # share of the scores that may differ: of items whose k-th and k+1-th neighbours are alike to the last digit


def differences(model: str, folder: Path, checkout: Path) -> list[str]:
    """What is wrong, in words; nothing where both sides give the same loss and scores."""
    theirs = Theirs(model, folder, checkout, certain=True)
    torch.nn.functional.gumbel_softmax = lambda logits, tau, hard, dim: (logits / tau).softmax(dim)
    if model == "MMGCN":
        narrow_mmgcn(importlib.import_module("models.mmgcn"), PAIRS[model].certain_ours["content_size"])
    theirs.build()
    batch, frame = first_batch(theirs), theirs.loader.dataset.df
    interactions = Interactions(
        *(torch.tensor(frame[column].to_numpy()) for column in ("userID", "itemID")), data.N_USERS, data.N_ITEMS
    )
    ours = twin(model, {name: t.detach().clone() for name, t in tensors_of(theirs.model).items()}, interactions, folder)
    their_loss, their_scores = answers_of_theirs(theirs, batch)
    loss, scores = answers_of_ours(ours, batch)
    if model in mmrec_names.SQUASHED:
        scores = scores.sigmoid()
    wrong = []
    if abs(loss - their_loss) > LOSS * abs(their_loss):
        wrong.append(f"loss {loss:.7g}, theirs {their_loss:.7g}")
    off = ((scores - their_scores).abs() > SCORES * their_scores.std()).double().mean().item()
    if not off <= ODD:
        wrong.append(f"{off:.2%} of the scores differ")
    return wrong


def twin(
    model: str, theirs: dict[str, Tensor], interactions: Interactions, folder: Path
) -> models.MultimodalRecommender:
    """Our model with MMRec's parameters and rows, outside any host."""
    everywhere = torch.ones(data.N_ITEMS, dtype=torch.bool)
    tables = {m: AlignedFeatures(values, everywhere) for m, values in features(folder).items()}
    settings = PAIRS[model].ours | PAIRS[model].certain_ours
    own = {key: value for key, value in settings.items() if key not in HOST_KEYS}
    ours = models.build(model, own, FrozenFeatures(tables), interactions)  # type: ignore[arg-type]
    ours.load_state_dict(mmrec_names.ours_of(mmrec_names.names(data.N_USERS)[model], theirs), strict=True)
    return ours


def answers_of_ours(model: models.MultimodalRecommender, batch: Tensor) -> tuple[float, Tensor]:
    """The loss of a batch, and all scores of some users."""
    model.train()
    model.begin_epoch()
    loss = sum(float(part) for part in model.loss(TripletBatch(*batch)).values())
    model.eval()
    with torch.no_grad():
        return loss, model.scores(torch.arange(N_SCORED))


def answers_of_theirs(side: Theirs, batch: Tensor) -> tuple[float, Tensor]:
    """The same of MMRec's."""
    side.model.train()
    side.model.pre_epoch_processing()
    loss = float(side.model.calculate_loss(batch.clone()))
    side.model.eval()
    with torch.no_grad():
        return loss, side.model.full_sort_predict([torch.arange(N_SCORED)]).reshape(N_SCORED, -1)
