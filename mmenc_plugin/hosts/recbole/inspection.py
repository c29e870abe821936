"""From a RecBole Config to the inspection of its data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenc_plugin import encoders
from mmenc_plugin.data.atomic import read_columns
from mmenc_plugin.data.inspection import Catalogue, Inspection, TokenReport, inspect_catalogue, report_tokens
from mmenc_plugin.hosts.recbole.config import feature_settings
from mmenc_plugin.hosts.recbole.features import items_of
from mmenc_plugin.types import ItemTable

_BATCH = 1024  # texts whose tokens are counted at once


def inspect_dataset(config: Any, sample: int | None = None) -> tuple[Inspection, ItemTable]:
    """Look at the data set that a RecBole Config describes.

    Args:
        config: of RecBole.
        sample: look at the pictures of so many items alone, chosen with the Config's seed; None for all.

    Returns:
        The report, and the items that it is about.

    Raises:
        DataError: a file of the data set is not an atomic file, lacks a column, or has an id twice.
        WeightsError: the encoder of the texts cannot be loaded.
    """
    catalogue = catalogue_of(config)
    inspection = inspect_catalogue(
        catalogue,
        tokens=_tokens_of(config, catalogue.items) if catalogue.texts else None,
        sample=sample,
        seed=config["seed"],
        show_progress=bool(config["show_progress"]),
    )
    return inspection, catalogue.items


def catalogue_of(config: Any) -> Catalogue:
    """The items and interactions that a RecBole Config describes, as they lie in the files.

    Raises:
        DataError: a file of the data set is not an atomic file, lacks a column, or has an id twice.
    """
    wanted = set(feature_settings(config).modalities)
    users, taken = _interactions_of(config)
    return Catalogue(
        name=config["dataset"],
        items=items_of(config),
        users=users,
        taken=taken,
        pictures=bool(wanted & {"image", "fused"}),
        texts=bool(wanted & {"text", "fused"}),
    )


def _interactions_of(config: Any) -> tuple[list[str], list[str]]:
    """Users and items of all rows; none where there is no `.inter` file, as for a catalogue that is only encoded."""
    folder, name = Path(config["data_path"]), config["dataset"]
    columns = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"])
    parts = config["benchmark_filename"]
    files = [folder / f"{name}.{part}.inter" for part in parts] if parts else [folder / f"{name}.inter"]
    users: list[str] = []
    taken: list[str] = []
    for path in files:
        if parts or path.is_file():
            frame = read_columns(path, columns, config["field_separator"])
            users += frame[columns[0]].tolist()
            taken += frame[columns[1]].tolist()
    return users, taken


def _tokens_of(config: Any, items: ItemTable) -> TokenReport:
    settings = feature_settings(config)
    uri = settings.uri("text" if "text" in settings.modalities else "fused")
    encoder = encoders.build(uri)
    limit = encoder.spec.preprocessing.get("text", {}).get("max_tokens") or None
    starts = range(0, len(items), _BATCH)
    parts = [encoder.token_counts(items.texts[start : start + _BATCH]) for start in starts]
    counts = [count for part in parts if part is not None for count in part.tolist()]
    return report_tokens(uri, limit, items, counts if len(counts) == len(items) else None)
