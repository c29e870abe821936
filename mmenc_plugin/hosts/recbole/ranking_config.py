"""The settings of ranking in a RecBole Config, for our models and for RecBole's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmenc_plugin import models
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.settings import RankingSettings, validate

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
    return ranking


def _without_mask(final: Mapping[str, Any]) -> str | None:
    """Why RecBole masks nothing under these settings, so that no mask can be chosen."""
    if final["repeatable"]:
        return "RecBole masks no items at all where repeatable is True, as it is for sequential models"
    if set(final["eval_args"]["mode"].values()) != {"full"}:
        return f"with the mode {final['eval_args']['mode']} RecBole draws the items to rank from those never taken"
    return None
