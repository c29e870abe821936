"""From a RecBole Config to items and their blocks of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenc_plugin import encoders
from mmenc_plugin.data import read_items
from mmenc_plugin.features import FeatureBlock, extract
from mmenc_plugin.hosts.recbole.config import feature_settings
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
        text_columns=settings.item_text if "text" in settings.modalities else (),
        image_column=settings.item_image if "image" in settings.modalities else None,
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
