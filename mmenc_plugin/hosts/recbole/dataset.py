"""RecBole's data set with the items' features beside it."""

from __future__ import annotations

from recbole.data.dataset import Dataset
from recbole.utils.argument_list import dataset_arguments

from mmenc_plugin.features import FrozenFeatures, align
from mmenc_plugin.hosts.recbole.config import feature_settings
from mmenc_plugin.hosts.recbole.features import blocks_of, items_of
from mmenc_plugin.settings import FeatureSettings

# A data set that RecBole has cached is taken only if these agree as well.
dataset_arguments.extend(key for key in FeatureSettings.model_fields if key not in dataset_arguments)


class MultimodalDataset(Dataset):
    """RecBole's Dataset; texts and picture names are read here, not by RecBole, whose `load_col` names none."""

    def _load_data(self, token: str, dataset_path: str) -> None:
        super()._load_data(token, dataset_path)
        self._items = items_of(self.config)

    def item_features(self) -> FrozenFeatures:
        """Features in the order of the data set's item ids, extracted where the store lacks them.

        Raises:
            DataError: items of the interactions have no row in `.item`, or (missing: error) no modality.
            WeightsError: the encoder cannot be loaded.
        """
        settings = feature_settings(self.config)
        tokens = self.field2id_token[self.iid_field][1:].tolist()
        return FrozenFeatures(
            {
                modality: align(
                    block, tokens, missing=settings.missing, padding_row=True, scaling=settings.feature_scaling
                )
                for modality, block in blocks_of(self.config, self._items).items()
            }
        )
