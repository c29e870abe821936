"""From a RecBole Config to items and their blocks of features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmenc_plugin import encoders
from mmenc_plugin.data import read_items
from mmenc_plugin.data.atomic import read_header
from mmenc_plugin.features import FeatureBlock, Recipe, extract
from mmenc_plugin.features.extract import recipe_of
from mmenc_plugin.hosts.recbole.config import encoded_modalities, feature_settings
from mmenc_plugin.settings import FeatureSettings
from mmenc_plugin.types import ItemTable, Modality


def items_of(config: Any) -> ItemTable:
    """The item table that a RecBole Config describes.

    Raises:
        DataError: the `.item` file cannot be read.
    """
    settings = feature_settings(config)
    encoded = encoded_modalities(settings)
    return _read(config, settings, settings.item_text if "text" in encoded else (), "image" in encoded)


def bare_items_of(config: Any) -> ItemTable:
    """The items' ids and, where the file has that column, the names of their pictures; for features that are ready.

    Raises:
        DataError: the `.item` file cannot be read.
    """
    return _read(config, feature_settings(config), (), False)


def _read(config: Any, settings: FeatureSettings, text_columns: Sequence[str], must_have_pictures: bool) -> ItemTable:
    folder, separator = Path(config["data_path"]), config["field_separator"]
    path = folder / f"{config['dataset']}.item"
    named = must_have_pictures or (path.is_file() and settings.item_image in read_header(path, separator))
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
    settings = feature_settings(config)
    return [
        recipe_of(
            items, encoders.build(settings.uri(modality)), modality, settings.feature_dir, settings.encoder_batch_size
        )
        for modality in settings.modalities
    ]


def blocks_of(config: Any, items: ItemTable) -> dict[Modality, FeatureBlock]:
    """The block of each modality, extracted where the store lacks it.

    Raises:
        WeightsError: the encoder cannot be loaded.
        DataError: no item has the modality.
        StoreError: the store cannot be read or written.
    """
    settings = feature_settings(config)
    built: dict[str, encoders.Encoder] = {}
    blocks: dict[Modality, FeatureBlock] = {}
    for modality in settings.modalities:
        uri = settings.uri(modality)
        if uri not in built:
            built[uri] = encoders.build(uri, config["device"])
        blocks[modality] = extract(
            items, built[uri], modality, settings.feature_dir,
            batch_size=settings.encoder_batch_size, show_progress=bool(config["show_progress"]),
        )  # fmt: skip
    return blocks
