"""The settings of ranking in a RecBole Config, for our models and for RecBole's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmenc_plugin import models
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.hosts.recbole.config_checks import check_features
from mmenc_plugin.settings import RankingSettings, validate
from mmenc_plugin.types import MODALITIES, Modality

_log = logging.getLogger("mmenc_plugin")


def ranking_settings(config: Mapping[str, Any]) -> RankingSettings:
    """How to rank, out of a RecBole Config or a mapping; RecBole's own models rank in its own way unless asked.

    Raises:
        SettingsError: a value is none of those that are known.
    """
    keys = [key for key in RankingSettings.model_fields if key in config and config[key] is not None]
    given = {key: config[key] for key in keys}
    return validate(RankingSettings, {"fused_ranking": config["model"] in models.registry, **given})


def check_ranking(config: Any) -> RankingSettings:
    """The settings of ranking, once the whole Config is known; those that are given are put in order.

    Raises:
        SettingsError: a value is none of those that are known, or there is nothing that it could change.
    """
    from mmenc_plugin.hosts.recbole import factors

    final = config.final_config_dict
    ranking = ranking_settings(final)
    final.update({key: value for key, value in ranking.model_dump().items() if final.get(key) is not None})
    ours = config.model in models.registry
    if ranking.fused_ranking and not ours and factors.known_as(config.model_class) is None:
        _log.warning("fused_ranking: %s; RecBole ranks in its own way.", factors.cannot(config.model))
    if ranking.ranking_mask == "train" and (reason := _without_mask(final)):
        raise SettingsError(f"ranking_mask is 'train', but {reason}. Leave it out, or set eval_args' mode to full.")
    if ranking.eval_slices:
        _check_slices(config, ranking)
    return ranking


def modalities_of(slices: Sequence[str]) -> list[Modality]:
    """The modalities whose absence makes any of the slices."""
    return [m for m in MODALITIES if f"missing-{m}" in slices]


def _check_slices(config: Any, ranking: RankingSettings) -> None:
    """The slices can be made; RecBole's own models get the settings of features where a slice depends on those."""
    from mmenc_plugin.hosts.recbole import config as our_config

    final = config.final_config_dict
    if reason := _without_slices(final):
        raise SettingsError(f"eval_slices is {ranking.eval_slices}, but {reason}. Leave it out, or change that.")
    missing = modalities_of(ranking.eval_slices)
    features = our_config.feature_settings({**our_config.own_yaml(config, "dataset", config.dataset), **final})
    if unread := [m for m in missing if m not in features.modalities]:
        raise SettingsError(
            f"eval_slices asks for missing-{unread[0]}, but modalities is {features.modalities}: take that slice out, "
            f"or add {unread[0]} to modalities."
        )
    if missing and config.model not in models.registry:
        final.update(features.model_dump())
        check_features(config, features)


def _without_slices(final: Mapping[str, Any]) -> str | None:
    """Why the test cannot be evaluated in slices under these settings."""
    from mmenc_plugin.hosts.recbole.collector import foreign_need

    if final["repeatable"]:
        return "repeatable is True, as it is for sequential models, where no user has one list"
    if (mode := final["eval_args"]["mode"]["test"]) != "full":
        return f"with the mode {mode} of eval_args the test ranks no list of all items"
    return foreign_need(final["metrics"])


def _without_mask(final: Mapping[str, Any]) -> str | None:
    """Why RecBole masks nothing under these settings, so that no mask can be chosen."""
    if final["repeatable"]:
        return "RecBole masks no items at all where repeatable is True, as it is for sequential models"
    if set(final["eval_args"]["mode"].values()) != {"full"}:
        return f"with the mode {final['eval_args']['mode']} RecBole draws the items to rank from those never taken"
    return None
