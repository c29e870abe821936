"""Runs of RecBole for the command line: one model, and baselines under the same settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any


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
        RecBole's result: best_valid_score, best_valid_result, test_result, ...
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
    return result


def run_with_baselines(launch: Launch, baselines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A model and its baselines, all with the model's training and evaluation settings, seed and width.

    Returns:
        name -> RecBole's result, the model first.
    """
    shared = _shared_settings(make_config(launch))
    others = [replace(launch, model=name) for name in baselines]
    for other in others:
        make_config(other)  # what is wrong with a baseline shows before anything is trained
    results = {launch.model: run(launch)}
    return results | {other.model: run(other, dict(shared)) for other in others}


def _shared_settings(config: Any) -> dict[str, Any]:
    """What a fair comparison holds equal."""
    keys = [*config.parameters["Training"], *config.parameters["Evaluation"]]
    keys += ["seed", "embedding_size", "ranking_mask", "scorer"]
    keys = [key for key in keys if key != "train_neg_sample_args" and config[key] is not None]
    return {key: config[key] for key in keys}


def result_table(results: dict[str, dict[str, Any]], title: str) -> str:
    """The test metrics of several runs, a row each."""
    metrics = list(next(iter(results.values()))["test_result"])
    rows = [["model", *metrics]]
    rows += [[name, *(f"{float(r['test_result'][m]):.4f}" for m in metrics)] for name, r in results.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, *lines])
