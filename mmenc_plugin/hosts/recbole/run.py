"""Runs of RecBole for the command line: one model, and baselines under the same settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# What the items of each slice have in common, for a heading.
MEANING = {
    "cold": "items without a training interaction",
    "warm": "items with a training interaction",
    "tail": "the least popular items, with 20 % of the training interactions",
    "missing-image": "items without a picture",
    "missing-text": "items without a text",
    "missing-fused": "items without a picture or a text",
}


@dataclass(frozen=True)
class Launch:
    """What RecBole's run_recbole.py takes.

    Attributes:
        model: name of the model.
        dataset: name of the data set.
        config_files: YAML files.
        overrides: `--key=value` arguments.
        processes: nproc, world_size, ip, port and group_offset.
    """

    model: str
    dataset: str
    config_files: Sequence[str] = ()
    overrides: Sequence[str] = ()
    processes: dict[str, Any] = field(default_factory=dict)


def make_config(launch: Launch, *, without_pictures: bool = False) -> Any:
    """RecBole's Config of a launch, checked; no data is read.

    Args:
        launch: what the user asks for.
        without_pictures: take a data set whose folder of pictures does not exist.

    Raises:
        MmencError: whatever is wrong in it.
    """
    from recbole.config import Config

    sys.argv = ["mmenc", *launch.overrides]  # Config reads the overrides from there
    kind = type("Config", (Config,), {"without_pictures": without_pictures})
    return kind(launch.model, launch.dataset, config_file_list=list(launch.config_files) or None)


def run(launch: Launch, config_dict: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train, select on validation, test once: RecBole's `run`.

    Returns:
        RecBole's result: best_valid_score, best_valid_result, test_result, ...; and test_slices, a `SliceResult` for
        each name of eval_slices.
    """
    from recbole.quick_start.quick_start import run as recbole_run

    sys.argv = ["mmenc", *launch.overrides]
    result: dict[str, Any] = recbole_run(
        launch.model,
        launch.dataset,
        config_file_list=list(launch.config_files) or None,
        config_dict=config_dict,
        **launch.processes,
    )
    return result | {"test_slices": getattr(result["test_result"], "slices", {})}


def run_with_baselines(launch: Launch, baselines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A model and its baselines, all with the model's training and evaluation settings, seed and width.

    Returns:
        name -> RecBole's result, the model first.
    """
    config = make_config(launch)
    others = [replace(launch, model=name) for name in baselines]
    for other in others:
        make_config(other)  # what is wrong with a baseline shows before anything is trained
    results = {launch.model: run(launch)}
    return results | {other.model: run(other, _shared_settings(config, other.model)) for other in others}


def _shared_settings(config: Any, other: str) -> dict[str, Any]:
    """What a fair comparison holds equal; with slices of items that lack a modality, what says which ones do."""
    from mmenc_plugin.hosts.recbole.config import is_ours
    from mmenc_plugin.hosts.recbole.ranking_config import modalities_of
    from mmenc_plugin.settings import FeatureSettings

    keys = [*config.parameters["Training"], *config.parameters["Evaluation"]]
    keys += ["seed", "embedding_size", "ranking_mask", "scorer", "eval_slices"]
    if modalities_of(config["eval_slices"] or ()) and not is_ours(other):
        keys += FeatureSettings.model_fields
    keys = [key for key in keys if key != "train_neg_sample_args" and config[key] is not None]
    return {key: config[key] for key in keys}


def result_table(results: dict[str, dict[str, Any]], title: str) -> str:
    """The test metrics of several runs, a row each."""
    return _table({name: result["test_result"] for name, result in results.items()}, title)


def slice_tables(results: dict[str, dict[str, Any]]) -> str:
    """The metrics of each slice of the test, a block each; nothing without slices."""
    blocks = []
    for slice_name in next(iter(results.values()))["test_slices"]:
        of_models = {name: result["test_slices"][slice_name] for name, result in results.items()}
        title = f"{slice_name}: {MEANING[slice_name]}"
        if not any(found["users"] for found in of_models.values()):
            blocks.append(f"{title}; none of these is in the test set")
            continue
        counted = {n: {k: f[k] for k in ("users", "interactions")} | f["result"] for n, f in of_models.items()}
        blocks.append(_table(counted, title))
    return "\n\n".join(blocks)


def _table(rows: dict[str, dict[str, Any]], title: str) -> str:
    """A row for each model, with the columns of the first."""
    columns = list(next(iter(rows.values())))
    cells = [["model", *columns], *([name, *(_cell(row[c]) for c in columns)] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([title, *lines])


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{float(value):.4f}"
