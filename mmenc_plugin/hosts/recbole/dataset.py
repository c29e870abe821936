"""RecBole's data set with the items' features beside it."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.utils.argument_list import dataset_arguments

from mmenc_plugin.features import FrozenFeatures, align
from mmenc_plugin.features.live import LiveFeatures
from mmenc_plugin.features.neighbours import fill_from_neighbours
from mmenc_plugin.hosts.recbole.config import feature_settings
from mmenc_plugin.hosts.recbole.features import blocks_of, items_of, live_features
from mmenc_plugin.hosts.recbole.finetuning import taken_of
from mmenc_plugin.settings import FeatureSettings

# A data set that RecBole has cached is taken only if these agree as well.
dataset_arguments.extend(key for key in FeatureSettings.model_fields if key not in dataset_arguments)


class MultimodalDataset(Dataset):
    """RecBole's Dataset; texts and picture names are read here, not by RecBole, whose `load_col` names none."""

    def _load_data(self, token: str, dataset_path: str) -> None:
        super()._load_data(token, dataset_path)
        self._items = items_of(self.config)

    def item_features(self) -> FrozenFeatures | LiveFeatures:
        """Features in the order of the data set's item ids, extracted where the store lacks them.

        They are live where the paradigm is end_to_end. The data set is the training part: with missing: neighbours its
        interactions count.

        Raises:
            DataError: items of the interactions have no row in `.item`, or (missing: error) no modality.
            WeightsError: the encoder cannot be loaded.
        """
        settings = feature_settings(self.config)
        tokens = self.field2id_token[self.iid_field][1:].tolist()
        ids = (self.inter_feat[field] for field in (self.uid_field, self.iid_field))
        users, items = (torch.from_numpy(np.array(rows)) for rows in ids)
        if settings.paradigm == "end_to_end":
            return live_features(self.config, self._items, tokens, (users, items))
        missing = "mean" if settings.missing == "neighbours" else settings.missing
        tables = {
            modality: align(block, tokens, missing=missing, padding_row=True, scaling=settings.feature_scaling)
            for modality, block in blocks_of(self.config, self._items, taken=taken_of(self)).items()
        }
        if settings.missing == "neighbours":
            tables = {modality: fill_from_neighbours(table, users, items) for modality, table in tables.items()}
        return FrozenFeatures(tables)
