"""Our part of RecBole's Config: default settings, closed keys, checks before any data is read."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mmenc_plugin import models
from mmenc_plugin.errors import unknown_name
from mmenc_plugin.hosts.recbole.config_checks import (
    HostSettings,
    check_features,
    check_live,
    check_mappings,
    check_valid_metric,
)
from mmenc_plugin.hosts.recbole.config_checks import needs as needs
from mmenc_plugin.hosts.recbole.ranking_config import check_ranking
from mmenc_plugin.models.base import ModelSettings
from mmenc_plugin.resources import resource_dir
from mmenc_plugin.settings import (
    FeatureSettings,
    FinetuneSettings,
    LiveSettings,
    RankingSettings,
    ResumeSettings,
    Settings,
    TuningSettings,
    check_keys,
    validate,
)

# Scores in one batch of full ranking (64 MB): RecBole's 4096 means one user at a time above 4096 items.
_FULL_RANKING_BATCH = 16_000_000

# Keys that RecBole reads or its scripts take, but that stand in no list and no file of its own.
_HOST_EXTRAS = {
    "model", "dataset", "config_file_list", "config_files", "model_list", "dataset_list", "valid_latex", "test_latex",
    "nproc", "world_size", "ip", "port", "group_offset", "offset", "local_rank",
    "params_file", "output_file", "display_file", "tool", "encoding", "neg_sampling", "training_neg_sample_num",
    "model_ours", "model_baseline", "st_seed", "run_times",
    "convert_token_to_onehot", "token_num_threshold", "tail_ratio", "MODEL_TYPE", "MODEL_INPUT_TYPE",
    "ITEM_SEQ", "mask_ratio", "ft_ratio", "single_spec", "device", "save_step",
}  # fmt: skip

_log = logging.getLogger("mmenc_plugin")
_TRAINING = TuningSettings, FinetuneSettings, LiveSettings, ResumeSettings
S = TypeVar("S", bound=Settings)


def patch(config_class: Any) -> None:
    """Wrap the three steps of RecBole's Config that know the model, its defaults and the whole."""
    config_class._load_config_files = _with_bundled_files(config_class._load_config_files)
    _wrap(config_class, "_get_model_and_dataset", before=_check_model_name)
    _wrap(config_class, "_update_internal_config_dict", after=_add_our_defaults)
    _wrap(config_class, "_set_default_parameters", before=_find_bundled_data, after=_check)


def is_ours(model: str) -> bool:
    """Whether the model is one of this package's registry."""
    return model in models.registry


def model_settings(config: Mapping[str, Any], model: str) -> ModelSettings:
    """The model's settings out of a RecBole Config or a mapping.

    Raises:
        SettingsError: a value has the wrong type or is out of bounds.
    """
    kind = models.registry.get(model).settings
    return validate(kind, _pick(config, kind))


def feature_settings(config: Mapping[str, Any]) -> FeatureSettings:
    """The encoder and feature settings out of a RecBole Config or a mapping.

    Raises:
        SettingsError: a value has the wrong type or is out of bounds.
    """
    return settings_of(config, FeatureSettings)


def settings_of(config: Mapping[str, Any], kind: type[S]) -> S:
    """The settings of some kind out of a RecBole Config or a mapping; defaults where a key is not there.

    Raises:
        SettingsError: a value has the wrong type or is out of bounds.
    """
    return validate(kind, _pick(config, kind))


def plugin_keys(model: str) -> set[str]:
    """The keys that the plugin adds to RecBole's for one of its models."""
    return {field for kind in _our_kinds(model) for field in kind.model_fields}


def _our_kinds(model: str) -> tuple[type[Settings], ...]:
    return FeatureSettings, *_TRAINING, RankingSettings, models.registry.get(model).settings


def _pick(config: Mapping[str, Any], kind: type[Settings]) -> dict[str, Any]:
    return {key: config[key] for key in kind.model_fields if key in config}


def _wrap(
    cls: Any, name: str, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None
) -> None:
    original = getattr(cls, name)

    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before:
            before(self, *args, **kwargs)
        result = original(self, *args, **kwargs)
        if after:
            after(self, *args, **kwargs)
        return result

    setattr(cls, name, wrapped)


def _with_bundled_files(original: Callable[..., Any]) -> Callable[..., Any]:
    """A config file that does not lie here is looked for among those that travel with the package."""

    @functools.wraps(original)
    def _load_config_files(self: Any, files: Any) -> Any:
        bundled = resource_dir("yaml_configs")
        return original(
            self, [bundled / f if not Path(f).is_file() and (bundled / f).is_file() else f for f in files or ()]
        )

    return _load_config_files


def _check_model_name(config: Any, model: Any = None, dataset: Any = None) -> None:
    """RecBole answers an unknown name with a missing lightgbm (it looks there last)."""
    name = model or config.external_config_dict.get("model")
    if not isinstance(name, str) or is_ours(name) or name in recbole_model_names():
        return
    known = [*recbole_model_names(), *models.registry.names()]
    if name.lower() in (k.lower() for k in known) or not _importable(name):
        raise unknown_name("model", name, sorted(known))


def _importable(name: str) -> bool:
    """Whether RecBole finds a module for the name before it comes to those that need lightgbm."""
    kinds = ("general", "context_aware", "sequential", "knowledge_aware")
    return any(importlib.util.find_spec(f"recbole.model.{kind}_recommender.{name.lower()}") for kind in kinds)


@functools.cache
def recbole_model_names() -> tuple[str, ...]:
    """RecBole's own models, by their default settings' file names."""
    import recbole

    folder = Path(recbole.__file__).parent / "properties" / "model"
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def _add_our_defaults(config: Any, file: str) -> None:
    """After RecBole's overall.yaml the model's settings and its YAML, after its sample.yaml the data set's YAML."""
    defaults, ours = config.internal_config_dict, is_ours(config.model)
    if Path(file).name == "overall.yaml" and ours:
        for kind in _our_kinds(config.model):
            fields = kind.model_fields.items()
            defaults.update({name: field.get_default(call_default_factory=True) for name, field in fields})
        defaults.update(own_yaml(config, "model", config.model))
    if Path(file).name == "sample.yaml":
        dataset = own_yaml(config, "dataset", config.dataset)
        defaults.update({key: v for key, v in dataset.items() if ours or key not in FeatureSettings.model_fields})


def own_yaml(config: Any, folder: str, name: str) -> dict[str, Any]:
    """What the package has for a model or a data set."""
    path = resource_dir("yaml_configs") / folder / f"{name}.yaml"
    return (yaml.load(path.read_text(encoding="utf-8"), config.yaml_loader) or {}) if path.is_file() else {}


def _find_bundled_data(config: Any) -> None:
    """The demo data set is found from any folder, unless `data_path` has one of that name."""
    final = config.final_config_dict
    bundled = resource_dir("dataset_atomic")
    if (bundled / config.dataset).is_dir() and not (Path(final["data_path"]) / config.dataset).is_dir():
        final["data_path"] = str(bundled)


def _check(config: Any) -> None:
    """Everything that can be wrong is found here, before any data is read."""
    ranking, final = check_ranking(config), config.final_config_dict
    if not is_ours(config.model):
        return
    _check_given_keys(config)
    settings, features = model_settings(final, config.model), feature_settings(final)
    training = {key: v for kind in _TRAINING for key, v in settings_of(final, kind).model_dump().items()}
    final.update({**settings.model_dump(), **features.model_dump(), **training, **ranking.model_dump()})
    modes = final["eval_args"]["mode"].values()
    if "eval_batch_size" not in config.external_config_dict and set(modes) == {"full"}:
        final["eval_batch_size"] = _FULL_RANKING_BATCH
    if isinstance(final["learner"], str):
        final["learner"] = final["learner"].lower()
    final.update(validate(HostSettings, final).model_dump())
    check_mappings(final)
    check_valid_metric(final)
    check_features(config, features)
    if features.paradigm == "end_to_end":
        check_live(config.model, final, features)


def _check_given_keys(config: Any) -> None:
    """Every key of the user is known; one that only other models read is taken with a warning."""
    known = _host_keys(config) | plugin_keys(config.model)
    given = {
        "in a config file": config.file_config_dict,
        "in config_dict": config.variable_config_dict,
        "on the command line, which RecBole reads in every program": config.cmd_config_dict,
    }
    for where, keys in given.items():
        check_keys([key for key in keys if key not in _keys_of_other_models()], known, where)
    unread = sorted({key for keys in given.values() for key in keys} - known)
    if unread:
        _log.warning("%s does not read %s, which other models of RecBole do.", config.model, ", ".join(unread))


@functools.cache
def _keys_of_other_models() -> frozenset[str]:
    """The settings of RecBole's own models, which a YAML or a command line may set for baselines."""
    import recbole

    folder = Path(recbole.__file__).parent / "properties" / "model"
    files = (yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in folder.glob("*.yaml"))
    return frozenset(key for content in files for key in content)


def _host_keys(config: Any) -> set[str]:
    lists: Iterable[str] = (key for keys in config.parameters.values() for key in keys)
    return {*lists, *config.internal_config_dict, *_HOST_EXTRAS}
