"""From a RecBole Config to items and their blocks of features."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from mmenc_plugin import encoders
from mmenc_plugin.data import read_items
from mmenc_plugin.features import FeatureBlock, PictureOptions, extract
from mmenc_plugin.hosts.recbole.config import feature_settings, needs
from mmenc_plugin.types import ItemTable, Modality


def items_of(config: Any) -> ItemTable:
    """The item table that a RecBole Config describes.

    Raises:
        DataError: the `.item` file cannot be read.
    """
    settings = feature_settings(config)
    folder = Path(config["data_path"])
    return read_items(
        folder / f"{config['dataset']}.item",
        id_column=config["ITEM_ID_FIELD"],
        text_columns=settings.item_text if needs(settings, "text") else (),
        image_column=settings.item_image if needs(settings, "image") else None,
        image_dir=folder / settings.image_dir,
        separator=config["field_separator"],
    )


def blocks_of(config: Any, items: ItemTable) -> dict[Modality, FeatureBlock]:
    """The block of each modality, extracted where the store lacks it.

    Raises:
        WeightsError: the encoder cannot be loaded.
        DataError: no item has the modality.
        StoreError: the store cannot be read or written.
    """
    settings = feature_settings(config)
    build = functools.cache(
        lambda uri: encoders.build(uri, config["device"], settings.encoder_precision, settings.encoder_preparation)
    )
    pictures = PictureOptions(
        settings.encoder_workers, Path(settings.picture_cache) if settings.picture_cache else None
    )
    return {
        modality: extract(
            items, build(settings.uri(modality)), modality, settings.feature_dir,
            batch_size=settings.encoder_batch_size, pictures=pictures, show_progress=bool(config["show_progress"]),
        )
        for modality in settings.modalities
    }  # fmt: skip
