"""RecBole's full ranking through `kernels.score_topk`: its loop and its metrics, without the matrix of all scores.

`Trainer.evaluate` stays RecBole's. It is given a loader that takes more users a step and hands on their lists of items
(`RankingLoader`), and its collector ranks those batches (`collector.RankingCollector`). Equal scores go to the smaller
item id, where RecBole takes them in the order that `torch.topk` happens to give.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from mmenc_plugin.hosts.recbole.collector import RankingBatch, RankingCollector
from mmenc_plugin.hosts.recbole.factors import Factors, factors_of
from mmenc_plugin.hosts.recbole.ranking_config import ranking_settings
from mmenc_plugin.hosts.recbole.ranking_lists import lists_of
from mmenc_plugin.hosts.recbole.slices import evaluate_with_slices
from mmenc_plugin.kernels.csr import row_numbers, rows_of
from mmenc_plugin.settings import RankingSettings

_STEP = 4096  # users ranked at once
_FEW = 64  # users at once, below which the time goes into starting each step

_log = logging.getLogger("mmenc_plugin")


def patch(module: Any) -> None:
    """Let the trainer of RecBole's module, and those made from it, rank as the settings say."""
    trainer = module.Trainer
    evaluate, batch_eval = trainer.evaluate, trainer._full_sort_batch_eval
    module.Collector = RankingCollector

    @functools.wraps(evaluate)
    def ranked(self: Any, eval_data: Any, *args: Any, **kwargs: Any) -> Any:
        view = _ranking_view(self, eval_data)
        return evaluate_with_slices(self, eval_data, lambda: evaluate(self, view, *args, **kwargs))

    @functools.wraps(batch_eval)
    def handed_on(self: Any, batched_data: Any) -> Any:
        if isinstance(batched_data, RankingBatch):
            return None, batched_data, None, None  # the collector takes it for the scores, and needs no more
        return batch_eval(self, batched_data)

    trainer.evaluate, trainer._full_sort_batch_eval = ranked, handed_on
    trainer._mmenc_batch_eval = handed_on


def _ranking_view(trainer: Any, loader: Any) -> Any:
    """The loader, or what stands for it where it is not RecBole's own way that the settings ask for."""
    settings = ranking_settings(trainer.config)
    if not isinstance(loader, FullSortEvalDataLoader) or loader.is_sequential or not len(loader):
        return loader
    if settings.fused_ranking and (reason := _hindrance(trainer)):
        _warn_once(reason)
        settings = settings.model_copy(update={"fused_ranking": False})
    if not settings.fused_ranking and settings.ranking_mask == "seen":
        return loader
    return RankingLoader(loader, trainer.model, trainer.config, settings)


def _hindrance(trainer: Any) -> str | None:
    """Why this trainer cannot be handed batches to rank."""
    if type(trainer)._full_sort_batch_eval is not type(trainer)._mmenc_batch_eval:
        return f"{type(trainer).__name__} has a _full_sort_batch_eval of its own"
    if not isinstance(trainer.eval_collector, RankingCollector):
        return f"{type(trainer).__name__} has an eval_collector of its own"
    return trainer.eval_collector.hindrance


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("fused_ranking: %s; RecBole ranks in its own way.", reason)


class RankingLoader(FullSortEvalDataLoader):
    """A view of RecBole's loader for one evaluation.

    Its batches are `RankingBatch`es; where the model cannot be ranked so, they are RecBole's, with the mask that the
    settings ask for.

    Args:
        loader: of RecBole, not sequential.
        model: what RecBole calls the model.
        config: of RecBole.
        settings: of the run.
    """

    def __init__(self, loader: Any, model: Any, config: Any, settings: RankingSettings) -> None:
        self.__dict__.update(loader.__dict__)  # all that RecBole asks of it is as in the loader
        self.loader, self.ranked_model, self.config, self.settings = loader, model, config, settings
        rank, processes = _process(config)
        self.own_rows = torch.arange(len(loader.uid_list))[rank::processes]
        self.users_a_step = _users_a_step(loader, config, settings)

    def __len__(self) -> int:
        """Number of batches."""
        if not self.settings.fused_ranking:
            return len(self.loader)
        return max(-(-len(self.own_rows) // self.users_a_step), 1)  # RecBole skips an evaluation of none

    def __iter__(self) -> Iterator[Any]:
        """The batches; the model is read now, after RecBole has loaded its best state."""
        factors = self._factors() if self.settings.fused_ranking else None
        if factors:
            lists, n_items = lists_of(self.loader, self.settings.ranking_mask), self._dataset.item_num
            for start in range(0, len(self.own_rows), self.users_a_step):
                rows = self.own_rows[start : start + self.users_a_step]
                masked, positives = rows_of(lists.masked, rows), rows_of(lists.positives, rows)
                yield RankingBatch(self.uid_list[rows], masked, positives, factors, n_items, self.settings.scorer)
        elif self.settings.ranking_mask == "seen":
            yield from self.loader
        else:
            for rows in self.loader.batch_sampler:
                yield self._recbole_batch(torch.tensor(rows))

    def _factors(self) -> Factors | None:
        found = factors_of(self.ranked_model, self.user_df)
        reason = found if isinstance(found, str) else "another process cannot rank the model so"
        if _all_agree(isinstance(found, Factors), self.config) and isinstance(found, Factors):
            return found
        _warn_once(reason)
        return None

    def _recbole_batch(self, rows: Tensor) -> tuple[Any, tuple[Tensor, Tensor], Tensor, Tensor]:
        """What RecBole's loader gives for these users, under our mask."""
        lists = lists_of(self.loader, self.settings.ranking_mask)
        (masked, masked_ids), (found, found_ids) = rows_of(lists.masked, rows), rows_of(lists.positives, rows)
        return self.user_df[rows], (row_numbers(masked), masked_ids), row_numbers(found), found_ids


def _users_a_step(loader: Any, config: Any, settings: RankingSettings) -> int:
    """Users at once: as many as a user's own eval_batch_size means, else some thousands; a matrix takes RecBole's."""
    step = int(loader.step)
    if not settings.fused_ranking or settings.scorer == "reference":
        return step
    if "eval_batch_size" not in config.external_config_dict:
        return max(_STEP, step)
    if step < min(_FEW, len(loader.uid_list)):
        _warn_once_of_steps(config["eval_batch_size"], step)
    return step


@functools.cache
def _warn_once_of_steps(size: int, step: int) -> None:
    _log.warning(
        "eval_batch_size: %d means %d users at a time, which takes long; fused_ranking needs no matrix of scores, so "
        "leave the key out to rank %d users at a time.",
        *(size, step, _STEP),
    )


def _process(config: Any) -> tuple[int, int]:
    """Rank of this process, and the number of processes."""
    if config["single_spec"]:
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _all_agree(mine: bool, config: Any) -> bool:
    """Whether it is true in every process: they all rank in one way, since they gather what they found."""
    answers = [mine] * _process(config)[1]
    if len(answers) > 1:
        torch.distributed.all_gather_object(answers, mine)
    return all(answers)
