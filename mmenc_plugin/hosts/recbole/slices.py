"""The test evaluated once more on slices of it, each a kind of items: see `RankingSettings.eval_slices`.

All items are ranked for each user once, under the mask of the whole test. In a slice only its own items are to be
found, and users who have none of them there are left out: RecBole's metrics are those of a test part that holds the
slice's interactions alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.hosts.recbole.collector import RankingCollector
from mmenc_plugin.hosts.recbole.ranked import Kept
from mmenc_plugin.hosts.recbole.ranking_config import modalities_of, ranking_settings
from mmenc_plugin.types import Modality

_TAIL = 0.2  # share of the training interactions


class SliceResult(TypedDict):
    """One slice of the test.

    Attributes:
        users: how many have something to be found.
        interactions: how many are to be found.
        result: RecBole's metrics; none where there are no users.
    """

    users: int
    interactions: int
    result: dict[str, float]


class SlicedResult(OrderedDict[str, float]):
    """RecBole's result of the test, with those of the slices beside it."""

    slices: dict[str, SliceResult]


def evaluate_with_slices(trainer: Any, loader: Any, evaluate: Callable[[], Any]) -> Any:
    """What `evaluate` returns; of the test part, where slices are asked for, with those.

    Args:
        trainer: of RecBole.
        loader: of RecBole, which is evaluated.
        evaluate: RecBole's evaluation.

    Raises:
        SettingsError: the slices cannot be made.
    """
    names = ranking_settings(trainer.config).eval_slices
    if not names or not isinstance(loader, FullSortEvalDataLoader) or loader._sampler.phase != "test":
        return evaluate()
    collector = trainer.eval_collector
    if not isinstance(collector, RankingCollector):
        raise SettingsError(f"eval_slices: {type(trainer).__name__} has a collector of its own, which keeps no lists.")
    collector.kept = Kept()
    try:
        whole = evaluate()
        return whole and _with_slices(trainer, loader, whole, collector.kept)
    finally:
        collector.kept = None


def _with_slices(trainer: Any, loader: Any, whole: Any, kept: Kept) -> SlicedResult:
    result = SlicedResult(whole)
    result.slices = {}
    ranked, n_items = kept.ranked(trainer.config), loader._dataset.item_num
    for name, items in slice_items(trainer, loader).items():
        part = ranked.only(items)
        struct = part.struct(trainer.eval_collector.data_struct, n_items)
        metrics = trainer.evaluator.evaluate(struct) if len(part.users) else {}
        result.slices[name] = SliceResult(users=len(part.users), interactions=len(part.positives[1]), result=metrics)
        trainer.logger.info("test slice %s: %s", name, result.slices[name])
    return result


def slice_items(trainer: Any, loader: Any) -> dict[str, Tensor]:
    """The items [I] bool of each slice that the settings name; `loader` is that of the test part."""
    names = ranking_settings(trainer.config).eval_slices
    taken = _times_taken(loader)
    by_name = {"cold": taken == 0, "warm": taken > 0, "tail": tail(taken)}
    present = _present(trainer, loader, modalities_of(names))
    return {name: by_name[name] if name in by_name else ~present[_modality(name)] for name in names}


def tail(taken: Tensor) -> Tensor:
    """The long tail [I] bool: the least popular items that together hold a fifth of the interactions.

    The other end of the "20 % of the interactions" by which Abdollahpouri et al. ("User-centered Evaluation of
    Popularity Bias in Recommender Systems", UMAP 2021) cut head and tail. Items that were taken equally often are
    either all in it or all out, so that it may hold more than a fifth; items that nobody took are not in it.

    Args:
        taken: [I] interactions of each item.
    """
    of_count = torch.bincount(taken) * torch.arange(int(taken.max()) + 1)  # interactions of the items of each count
    enough = of_count.cumsum(0) >= _TAIL * taken.sum()
    return (taken > 0) & (taken <= enough.int().argmax().clamp(min=1))


def _times_taken(loader: Any) -> Tensor:
    """Training interactions of each item [I]."""
    sampler = loader._sampler
    train = sampler.datasets[sampler.phases.index("train")].inter_feat
    return torch.bincount(train[loader.iid_field], minlength=loader._dataset.item_num)


def _modality(name: str) -> Modality:
    return name.removeprefix("missing-")  # type: ignore[return-value]


def _present(trainer: Any, loader: Any, modalities: Sequence[Modality]) -> dict[Modality, Tensor]:
    """For each modality which items have it [I] bool, by our model's features, or else by those of the settings."""
    if not modalities:
        return {}
    from mmenc_plugin.hosts.recbole.adapter import RecboleModel

    if isinstance(trainer.model, RecboleModel):
        features = trainer.model.model.features
        return {m: features.present(m).cpu() for m in modalities}

    from mmenc_plugin.features import align
    from mmenc_plugin.hosts.recbole.features import blocks_of, items_of

    config = {**trainer.config.final_config_dict, "modalities": list(modalities), "paradigm": "frozen"}
    tokens = loader._dataset.field2id_token[loader.iid_field][1:].tolist()
    blocks = blocks_of(config, items_of(config))
    return {m: align(block, tokens, missing="zeros", padding_row=True).present for m, block in blocks.items()}
