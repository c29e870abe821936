"""From a RecBole Config to an encoder that is fine-tuned on its items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmenc_plugin.errors import DataError
from mmenc_plugin.features import PictureOptions
from mmenc_plugin.hosts.recbole.config import feature_settings, settings_of
from mmenc_plugin.hosts.recbole.config_checks import one_encoder
from mmenc_plugin.settings import FinetuneSettings, TuningSettings
from mmenc_plugin.training.checkpoints import random_state, set_random_state
from mmenc_plugin.training.finetune import Finetuned, finetune
from mmenc_plugin.training.task import Task
from mmenc_plugin.types import ItemTable

Taken = tuple[Sequence[Any], Sequence[str]]  # users and the ids of items that they took


def finetuned(config: Any, items: ItemTable, taken: Taken | None = None, output: Path | None = None) -> Finetuned:
    """The fine-tuned encoder of a Config, made where it is not there yet, completed where it is half done.

    Args:
        config: of RecBole.
        items: with their texts and pictures.
        taken: interactions of the training part, for `bought`; by default RecBole's own split is made.
        output: folder of the result; by default below `finetune_dir`.

    Raises:
        SettingsError: an encoder for each modality, or one that cannot be fine-tuned.
        DataError: too few items with picture and text.
        TrainingError: the training diverged.
    """
    return finetune(task_of(config, items, taken), output)


def task_of(config: Any, items: ItemTable, taken: Taken | None = None) -> Task:
    """What the Config asks for; see `finetuned`."""
    features, settings = feature_settings(config), settings_of(config, FinetuneSettings)
    wants = "bought" in settings.finetune_objectives
    return Task(
        items=items,
        base=one_encoder(features),
        settings=settings,
        tuning=settings_of(config, TuningSettings),
        seed=config["seed"],
        device=str(config["device"]),
        preparation=features.encoder_preparation,
        pictures=PictureOptions(
            features.encoder_workers, Path(features.picture_cache) if features.picture_cache else None
        ),
        taken=(taken or _taken(config)) if wants else None,
        store=Path(features.feature_dir),
        show_progress=bool(config["show_progress"]),
    )


def taken_of(dataset: Any) -> Taken:
    """Users and item ids of the interactions of a part of RecBole's."""
    tokens = dataset.field2id_token[dataset.iid_field]
    users, rows = (dataset.inter_feat[field] for field in (dataset.uid_field, dataset.iid_field))
    return [int(user) for user in users], [str(tokens[int(row)]) for row in rows]


def _taken(config: Any) -> Taken:
    """The training part alone, as a run with the same settings has it."""
    from recbole.data.dataset import Dataset
    from recbole.utils import init_seed

    path = Path(config["data_path"])
    if not list(path.glob(f"{config['dataset']}*.inter")):
        raise DataError(f"finetune_objectives has bought, but {path} has no interactions (.inter). Leave bought out.")
    before = random_state()
    try:
        init_seed(config["seed"], config["reproducibility"])
        return taken_of(Dataset(config).build()[0])
    finally:
        set_random_state(before)
