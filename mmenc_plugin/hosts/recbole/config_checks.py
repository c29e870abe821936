"""What can be wrong in RecBole's Config for one of our models, told before any data is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from mmenc_plugin import models
from mmenc_plugin.data.atomic import read_header
from mmenc_plugin.errors import DataError, SettingsError, unknown_name
from mmenc_plugin.settings import FeatureSettings, Settings, check_keys

_FILES = {"inter", "user", "item", "kg", "link", "net", "ent"}
# What the mappings among RecBole's settings may hold.
_INSIDE = {
    "eval_args": {"split", "order", "group_by", "mode"},
    "train_neg_sample_args": {"distribution", "sample_num", "alpha", "dynamic", "candidate_num"},
    "clip_grad_norm": {"max_norm", "norm_type", "error_if_nonfinite", "foreach"},
    "load_col": _FILES,
    "unload_col": _FILES,
    "unused_col": _FILES,
}  # fmt: skip


class HostSettings(Settings):
    """Bounds of the RecBole keys whose wrong values would show only hours later, or never."""

    model_config = ConfigDict(extra="ignore")

    epochs: int = Field(300, ge=0, description="training epochs")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate")
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"] = Field(
        "adam", description="the optimizer; RecBole takes adam for a name it does not know"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimizer")
    train_batch_size: int = Field(2048, ge=1, description="interactions in a training batch")
    eval_batch_size: int = Field(4096, ge=1, description="scores in an evaluation batch")
    stopping_step: int = Field(10, ge=0, description="worse evaluations before training stops")


def needs(features: FeatureSettings, content: Literal["image", "text"]) -> bool:
    """Whether any of the modalities is made from the items' pictures, or from their texts."""
    from mmenc_plugin import encoders

    made = [m for m in features.modalities if not encoders.brings_features(features.uri(m))]
    return content in made or "fused" in made


def check_mappings(final: Mapping[str, Any]) -> None:
    """What the mappings hold is known, and negatives are drawn.

    Raises:
        SettingsError: an unknown key, or no negatives.
    """
    for name, known in _INSIDE.items():
        if isinstance(final.get(name), dict):
            check_keys(final[name], known | set(final.get("additional_feat_suffix") or ()), f"inside {name}")
    if final["train_neg_sample_args"] in (None, "None") or final["train_neg_sample_args"].get("distribution") is None:
        raise SettingsError(
            f"train_neg_sample_args is {final['train_neg_sample_args']!r}, but {final['model']} learns from items that "
            "were not taken: leave it out, or set its distribution to uniform or popularity."
        )


def check_valid_metric(final: Mapping[str, Any]) -> None:
    """The metric that selects the epoch is among those computed.

    Raises:
        SettingsError: it is not.
    """
    metrics, topk = [m.lower() for m in final["metrics"]], final["topk"]
    ranking = final["eval_type"].name == "RANKING"
    names = [f"{metric}@{k}" for metric in metrics if metric != "gauc" for k in topk] if ranking else metrics
    names += ["gauc"] * (ranking and "gauc" in metrics)
    if str(final["valid_metric"]).lower() not in names:
        raise SettingsError(
            f"valid_metric is {final['valid_metric']}, which is not among metrics {final['metrics']} at topk {topk}. "
            f"Choose one of {', '.join(names)}, or change those."
        )


def check_live(model: str, final: Mapping[str, Any], features: FeatureSettings) -> None:
    """Nothing is asked for that RecBole offers and the training of an encoder cannot have.

    Raises:
        SettingsError: a model without gradient, encoders with nothing to train, another optimizer than Adam, or
            dynamic negatives.
    """
    from mmenc_plugin.encoders.base import registry

    models.check_live(model)
    families = {features.uri(modality).partition(":")[0] for modality in features.modalities}
    if not any(registry.get(family).towers for family in families):
        raise SettingsError(
            f"paradigm end_to_end trains encoders, and {' and '.join(sorted(families))} has no parameters. Families "
            f"that can be trained: {', '.join(name for name, family in registry if family.towers)}."
        )
    if final["learner"] not in ("adam", "adamw"):
        raise SettingsError(
            f"learner is '{final['learner']}', but paradigm end_to_end trains the encoder, whose learning rate is one "
            "of Adam: set learner to adam or adamw."
        )
    if final["train_neg_sample_args"].get("dynamic"):
        raise SettingsError(
            "train_neg_sample_args is dynamic: it ranks candidates by the model in every step, for which paradigm "
            "end_to_end would have to encode all of them. Leave dynamic out."
        )


def one_encoder(features: FeatureSettings) -> str:
    """The URI of the one encoder that paradigm finetuned trains.

    Raises:
        SettingsError: there are several, which have no space in common, or it brings features that are ready.
    """
    from mmenc_plugin import encoders

    uris = sorted({features.encoder} if isinstance(features.encoder, str) else set(features.encoder.values()))
    if len(uris) > 1:
        raise SettingsError(
            f"encoder names {' and '.join(uris)}, whose outputs share no space in which pictures and texts could be "
            "contrasted. Fine-tuning wants one encoder of both, as encoder: openclip:ViT-B-32/laion2b_s34b_b79k."
        )
    for modality in ("image", "text"):
        encoders.check(uris[0], modality)
    if encoders.brings_features(uris[0]):
        raise SettingsError(f"encoder '{uris[0]}' brings features that are ready: it has nothing to fine-tune.")
    return uris[0]


def check_features(config: Any, features: FeatureSettings) -> None:
    """Every modality has an encoder that takes it, and the data set has what the encoders read; none is loaded.

    Raises:
        SettingsError: an encoder does not take its modality; see `encoders.check`.
        DataError: there is no item file, or no folder of pictures.
        UnknownNameError: the item file lacks a column.
    """
    from mmenc_plugin import encoders

    if features.paradigm == "finetuned":
        one_encoder(features)
    for modality in features.modalities:
        encoders.check(features.uri(modality), modality)
    _check_columns(config.final_config_dict, features, not getattr(config, "without_pictures", False))


def _check_columns(final: Mapping[str, Any], features: FeatureSettings, pictures_needed: bool) -> None:
    """The columns that the settings name are in the header of the `.item` file."""
    path = Path(final["data_path"]) / f"{final['dataset']}.item"
    if not path.parent.is_dir():
        return  # RecBole offers to download the data sets it knows, or says that there is none
    if not path.is_file():
        raise DataError(
            f"{path} does not exist. A multimodal model needs it: a RecBole item file with the columns "
            f"{final['ITEM_ID_FIELD']}, {', '.join([*features.item_text, features.item_image])}."
        )
    header = read_header(path, final["field_separator"])
    pictures = path.parent / features.image_dir
    if pictures_needed and needs(features, "image") and not pictures.is_dir():
        raise DataError(f"image_dir: the folder {pictures} does not exist. Name the one that holds the pictures.")
    wanted = [(final["ITEM_ID_FIELD"], "ITEM_ID_FIELD")]
    wanted += [(column, "item_text") for column in features.item_text if needs(features, "text")]
    wanted += [(features.item_image, "item_image")] * needs(features, "image")
    for column, key in wanted:
        if column not in header:
            raise unknown_name(f"column of {path.name} (named by {key})", column, list(header))
