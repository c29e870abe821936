"""Our side: RecBole's trainer, as users run it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.models import clocks, data
from tests.benchmarks.models.settings import MODALITIES, OURS, PAIRS


class Ours:
    """One of our models in RecBole.

    Args:
        model: its name.
        folder: of the data.
    """

    def __init__(self, model: str, folder: Path) -> None:
        import mmenc_plugin

        mmenc_plugin.register()
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import init_seed

        os.chdir(folder)  # RecBole writes its logs to the working folder
        sys.argv = ["benchmark"]
        encoder = {m: f"npy:{data.features_path(folder, m)}?order=number" for m in MODALITIES}
        places = {"data_path": str(folder / "recbole"), "feature_dir": str(folder / "features"), "encoder": encoder}
        quiet = {"show_progress": False, "state": "ERROR", "benchmark_filename": list(data.PARTS)}
        own = PAIRS[model].ours | {"feature_scaling": "none"}
        self.config = Config(model, data.NAME, config_dict={**OURS, **places, **quiet, **own})
        init_seed(self.config["seed"], True)
        self.loader, self.valid, _ = data_preparation(self.config, create_dataset(self.config))

    def build(self) -> None:
        """The model and its trainer."""
        from recbole.utils import get_model, get_trainer

        model = get_model(self.config["model"])(self.config, self.loader._dataset).to(self.config["device"])
        self.trainer = get_trainer(self.config["MODEL_TYPE"], self.config["model"])(self.config, model)
        self.trainer.eval_collector.data_collect(self.loader)

    def train(self, steps: int) -> clocks.Reading:
        """Seconds of an epoch."""
        loader, start = clocks.Steps(self.loader, steps), clocks.read()
        self.trainer._train_epoch(loader, 0)
        return loader.epoch(start)

    def evaluate(self) -> dict[str, Any]:
        """The metrics of the validation part."""
        return dict(self.trainer.evaluate(self.valid, load_best_model=False))
