"""From a RecBole Config to items and their blocks of features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmenc_plugin import encoders
from mmenc_plugin.data import read_items
from mmenc_plugin.data.atomic import read_header
from mmenc_plugin.features import FeatureBlock, PictureOptions, Recipe, align, extract
from mmenc_plugin.features.align import arrange
from mmenc_plugin.features.extract import recipe_of
from mmenc_plugin.features.live import LiveFeatures
from mmenc_plugin.features.live_encoding import LiveOptions
from mmenc_plugin.hosts.recbole.config import feature_settings, needs, settings_of
from mmenc_plugin.hosts.recbole.finetuning import Taken, finetuned
from mmenc_plugin.settings import LiveSettings, TuningSettings
from mmenc_plugin.training import apply_tuning
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


def pairs_of(config: Any) -> ItemTable:
    """The items with their texts and pictures, whichever of them the run itself uses.

    Raises:
        DataError: the `.item` file cannot be read.
    """
    return _read(config, feature_settings(config).item_text, True)


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


def _builder(config: Any, taken: Taken | None = None) -> Callable[[str], encoders.Encoder]:
    """Builds encoders as the settings say, each once; with paradigm finetuned what became of them on the items.

    Args:
        config: of RecBole.
        taken: interactions of the training part; see `finetuned`.
    """
    settings = feature_settings(config)

    @functools.cache
    def build(uri: str) -> encoders.Encoder:
        if settings.paradigm == "finetuned":
            uri = finetuned(config, pairs_of(config), taken).uri
        return encoders.build(uri, config["device"], settings.encoder_precision, settings.encoder_preparation)

    return build


def blocks_of(
    config: Any,
    items: ItemTable,
    build: Callable[[str], encoders.Encoder] | None = None,
    taken: Taken | None = None,
) -> dict[Modality, FeatureBlock]:
    """The block of each modality, extracted where the store lacks it.

    Args:
        config: of RecBole.
        items: N items.
        build: builds encoders; by default as the settings say.
        taken: interactions of the training part, for paradigm finetuned; by default RecBole's own split is made.

    Raises:
        WeightsError: the encoder cannot be loaded.
        DataError: no item has the modality.
        StoreError: the store cannot be read or written.
    """
    settings, build, pictures = feature_settings(config), build or _builder(config, taken), _picture_options(config)
    return {
        modality: extract(
            items, build(settings.uri(modality)), modality, settings.feature_dir,
            batch_size=settings.encoder_batch_size, pictures=pictures, show_progress=bool(config["show_progress"]),
        )
        for modality in settings.modalities
    }  # fmt: skip


def _picture_options(config: Any) -> PictureOptions:
    settings = feature_settings(config)
    return PictureOptions(settings.encoder_workers, Path(settings.picture_cache) if settings.picture_cache else None)


def live_features(config: Any, items: ItemTable, tokens: Sequence[str], pairs: tuple[Tensor, Tensor]) -> LiveFeatures:
    """Features of encoders that are trained, in RecBole's row order; what they give at first is in the store.

    Args:
        config: of RecBole.
        items: N items.
        tokens: RecBole's item ids, without the padding row.
        pairs: users and items [N] of the training part.

    Raises:
        DataError: items of the interactions have no row in `.item`, or (missing: error) no modality.
        SettingsError: nothing is trained, or `tune` is a scope that an encoder cannot have.
        WeightsError: the encoder cannot be loaded.
    """
    settings, tuning, build = feature_settings(config), settings_of(config, TuningSettings), _builder(config)
    blocks = blocks_of(config, items, build)
    missing = "mean" if settings.missing == "neighbours" else settings.missing
    tables = {m: align(block, tokens, missing=missing, padding_row=True) for m, block in blocks.items()}
    of_modality = {m: build(settings.uri(m)) for m in settings.modalities}
    for encoder in dict.fromkeys(of_modality.values()):
        if encoder.towers:
            uses: set[str] = {m for m, other in of_modality.items() if other is encoder}
            contrasted = settings_of(config, LiveSettings).itc_weight and {"image", "text"} <= uses
            apply_tuning(encoder, tuning.tune, uses | {"itc"} if contrasted else uses)
    options = LiveOptions(
        scaling=settings.feature_scaling, missing=settings.missing, padding_row=True,
        batch_size=settings.encoder_batch_size, pictures=_picture_options(config),
        recompute=tuning.gradient_checkpointing, autocast=tuning.autocast == "bfloat16",
        show_progress=bool(config["show_progress"]),
    )  # fmt: skip
    arranged = arrange(items, tokens, padding_row=True)
    return LiveFeatures(arranged, tables, of_modality, Path(settings.feature_dir), options, pairs)
