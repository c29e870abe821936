"""RecBole's data set with the items' features beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole.data.dataset import Dataset
from recbole.utils.argument_list import dataset_arguments

from mmenc_plugin import encoders
from mmenc_plugin.data import read_items
from mmenc_plugin.features import FrozenFeatures, align, extract
from mmenc_plugin.hosts.recbole.config import feature_settings
from mmenc_plugin.settings import FeatureSettings
from mmenc_plugin.types import ItemTable

# A data set that RecBole has cached is taken only if these agree as well.
dataset_arguments.extend(key for key in FeatureSettings.model_fields if key not in dataset_arguments)


def items_of(config: Any, settings: FeatureSettings) -> ItemTable:
    """The item table that a RecBole Config describes.

    Raises:
        DataError: the `.item` file cannot be read.
    """
    folder = Path(config["data_path"])
    return read_items(
        folder / f"{config['dataset']}.item",
        id_column=config["ITEM_ID_FIELD"],
        text_columns=settings.item_text if "text" in settings.modalities else (),
        image_column=settings.item_image if "image" in settings.modalities else None,
        image_dir=folder / settings.image_dir,
        separator=config["field_separator"],
    )


class MultimodalDataset(Dataset):
    """RecBole's Dataset; the texts and picture names of `.item` never become RecBole's own features."""

    def _load_data(self, token: str, dataset_path: str) -> None:
        super()._load_data(token, dataset_path)
        self._items = items_of(self.config, feature_settings(self.config))

    def item_features(self) -> FrozenFeatures:
        """Features in the order of the data set's item ids, extracted where the store lacks them.

        Raises:
            DataError: items of the interactions have no row in `.item`, or (missing: error) no modality.
            WeightsError: the encoder cannot be loaded.
        """
        settings = feature_settings(self.config)
        built: dict[str, encoders.Encoder] = {}
        tables = {}
        for modality in settings.modalities:
            uri = settings.uri(modality)
            built[uri] = built.get(uri) or encoders.build(uri, self.config["device"])
            block = extract(
                self._items, built[uri], modality, settings.feature_dir,
                batch_size=settings.encoder_batch_size, show_progress=bool(self.config["show_progress"]),
            )  # fmt: skip
            tables[modality] = align(
                block, self.field2id_token[self.iid_field][1:].tolist(),
                missing=settings.missing, padding_row=True, scaling=settings.feature_scaling,
            )  # fmt: skip
        return FrozenFeatures(tables)
