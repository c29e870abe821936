"""From a RecBole Config to items and their blocks of features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmenc_plugin import encoders
from mmenc_plugin.data import read_items
from mmenc_plugin.data.atomic import read_header
from mmenc_plugin.features import FeatureBlock, PictureOptions, Recipe, extract
from mmenc_plugin.features.extract import recipe_of
from mmenc_plugin.hosts.recbole.config import feature_settings, needs
from mmenc_plugin.types import ItemTable, Modality


def items_of(config: Any) -> ItemTable:
    """The item table that a RecBole Config describes.

    Raises:
        DataError: the `.item` file cannot be read.
    """
    settings = feature_settings(config)
    return _read(config, settings.item_text if needs(settings, "text") else (), needs(settings, "image"))


def bare_items_of(config: Any) -> ItemTable:
    """The items without their texts, and with the names of pictures only where the file has them.

    Raises:
        DataError: the `.item` file cannot be read.
    """
    return _read(config, (), False)


def _read(config: Any, text_columns: Sequence[str], pictures_needed: bool) -> ItemTable:
    settings, folder, separator = feature_settings(config), Path(config["data_path"]), config["field_separator"]
    path = folder / f"{config['dataset']}.item"
    # Features that are ready may be named by pictures, which need not be there themselves.
    named = pictures_needed or (path.is_file() and settings.item_image in read_header(path, separator))
    return read_items(
        path,
        id_column=config["ITEM_ID_FIELD"],
        text_columns=text_columns,
        image_column=settings.item_image if named else None,
        image_dir=folder / settings.image_dir,
        separator=separator,
    )


def recipes_of(config: Any, items: ItemTable) -> list[Recipe]:
    """The recipes of the blocks that `blocks_of` returns; encoders are loaded, nothing is encoded.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    settings, build = feature_settings(config), _builder(config)
    return [
        recipe_of(items, build(settings.uri(modality)), modality, settings.feature_dir, settings.encoder_batch_size)
        for modality in settings.modalities
    ]


def _builder(config: Any) -> Callable[[str], encoders.Encoder]:
    """Builds encoders as the settings say, each once."""
    settings = feature_settings(config)
    return functools.cache(
        lambda uri: encoders.build(uri, config["device"], settings.encoder_precision, settings.encoder_preparation)
    )


def blocks_of(config: Any, items: ItemTable) -> dict[Modality, FeatureBlock]:
    """The block of each modality, extracted where the store lacks it.

    Raises:
        WeightsError: the encoder cannot be loaded.
        DataError: no item has the modality.
        StoreError: the store cannot be read or written.
    """
    settings, build = feature_settings(config), _builder(config)
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
