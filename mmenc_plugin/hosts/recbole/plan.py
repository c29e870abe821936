"""The plan of a run of RecBole, measured on its own data set, encoders and model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from mmenc_plugin import encoders, models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.features.extract import left_to_encode
from mmenc_plugin.features.pictures import PictureOptions
from mmenc_plugin.hosts.recbole.config import feature_settings, model_settings, settings_of
from mmenc_plugin.hosts.recbole.features import items_of
from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.settings import FeatureSettings, FinetuneSettings, LiveSettings, TuningSettings
from mmenc_plugin.training.encoding import sample_inputs
from mmenc_plugin.training.plan import Plan, free_memory
from mmenc_plugin.training.planner import Run, make_plan
from mmenc_plugin.types import Interactions, Modality, TripletBatch

_BATCHES = 4  # of the training part that are looked at


def plan_of(config: Any) -> Plan:
    """Measure a few steps of a run, and add up what the whole will take.

    Args:
        config: of RecBole, as `run.make_config` gives it.

    Raises:
        DataError: the data set cannot be read, or has no picture that is taken.
        WeightsError: the encoder cannot be loaded.
    """
    return make_plan(_run_of(config))


def _run_of(config: Any) -> Run:
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    device = torch.device(config["device"])
    free = free_memory(device)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data = data_preparation(config, dataset)[0]
    features, items = feature_settings(config), items_of(config)
    built = _encoders(features, device)
    made = {m: encoder for m, encoder in built.items() if not encoder.ready}
    learning = _contrasted(made) if features.paradigm == "finetuned" else made
    threads = PictureOptions(features.encoder_workers).threads()
    inputs, preparing = sample_inputs(items, {**learning, **made}, threads)
    store, size = Path(features.feature_dir), features.encoder_batch_size
    steps, evaluates = len(train_data), config["eval_step"] > 0
    return Run(
        title=f"{config['model']} on {config['dataset']}",
        device=device,
        device_name=_name(device),
        free=free,
        features=features,
        tuning=settings_of(config, TuningSettings),
        finetune=settings_of(config, FinetuneSettings),
        live=settings_of(config, LiveSettings),
        encoders=made,
        learning=learning,
        inputs=inputs,
        preparing=preparing,
        left={m: left_to_encode(items, encoder, m, store, size) for m, encoder in built.items()},
        n_items=dataset.item_num - 1,
        model=_model(config, train_data.dataset, built).to(device),
        batches=_batches(config, train_data, device),
        batch_size=config["train_batch_size"],
        steps=steps,
        epochs=config["epochs"],
        evaluations=config["epochs"] // config["eval_step"] if evaluates else 0,
        learner=config["learner"],
        k=max(config["topk"]),
    )


def _encoders(features: FeatureSettings, device: torch.device) -> dict[Modality, encoders.Encoder]:
    """The encoder of each modality, each built once."""
    kinds = features.encoder_precision, features.encoder_preparation
    uris = {m: features.uri(m) for m in features.modalities}
    built = {uri: encoders.build(uri, device, *kinds) for uri in dict.fromkeys(uris.values())}
    return {m: built[uri] for m, uri in uris.items()}


def _contrasted(built: dict[Modality, encoders.Encoder]) -> dict[Modality, encoders.Encoder]:
    """What fine-tuning encodes: picture and text of each encoder that takes both."""
    both: tuple[Modality, ...] = ("image", "text")
    return {m: encoder for encoder in built.values() if encoder.modalities.issuperset(both) for m in both}


def _model(config: Any, dataset: Any, built: dict[Modality, encoders.Encoder]) -> MultimodalRecommender:
    """The recommender, with features of random numbers: what it takes does not depend on them."""
    present = torch.arange(dataset.item_num) > 0
    tables = {
        m: AlignedFeatures(torch.randn(dataset.item_num, e.spec.width[m]) * present[:, None], present)
        for m, e in built.items()
    }
    inter, name = dataset.inter_feat, config["model"]
    interactions = Interactions(
        inter[dataset.uid_field], inter[dataset.iid_field], dataset.user_num, dataset.item_num, padding_row=True
    )
    return models.build(name, model_settings(config, name), FrozenFeatures(tables), interactions)


def _batches(config: Any, loader: Any, device: torch.device) -> list[TripletBatch]:
    fields = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["NEG_PREFIX"] + config["ITEM_ID_FIELD"]
    found = [TripletBatch(*(batch[field].to(device) for field in fields)) for batch in islice(loader, _BATCHES)]
    return found if len(found) > 1 else found * 2


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {psutil.virtual_memory().total / 1e9:.1f} GB"
