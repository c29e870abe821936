"""MMRec's side: its loaders, trainer and evaluator, from a checkout that stays as it is."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.models import clocks, data
from tests.benchmarks.models.settings import MODALITIES, PAIRS, THEIRS
from tests.parity.mmrec import record


def mend() -> None:
    """As for the recordings of its models, and what its loaders and its evaluator need besides."""
    gumbel_softmax = torch.nn.functional.gumbel_softmax
    record.mend()
    torch.nn.functional.gumbel_softmax = gumbel_softmax  # the recordings take the noise out
    unused = sys.modules["utils.data_utils"]
    for name in ("ImageResize", "ImagePad", "image_to_tensor", "load_decompress_img_from_lmdb_value"):
        setattr(unused, name, None)
    plots = types.ModuleType("matplotlib"), types.ModuleType("matplotlib.pyplot")
    plots[0].pyplot = plots[1]  # type: ignore[attr-defined]
    sys.modules.update(zip(("matplotlib", "matplotlib.pyplot"), plots, strict=True))
    np.float = float  # type: ignore[attr-defined]


class Theirs:
    """One of MMRec's models in MMRec.

    Args:
        model: its name.
        folder: of the data.
        checkout: of MMRec.
        certain: take out what is drawn by chance.
    """

    def __init__(self, model: str, folder: Path, checkout: Path, certain: bool = False) -> None:
        mend()
        os.chdir(checkout / "src")  # where MMRec looks for its settings
        sys.path.insert(0, str(checkout / "src"))
        from utils.configurator import Config
        from utils.dataloader import EvalDataLoader, TrainDataLoader
        from utils.dataset import RecDataset
        from utils.utils import init_seed

        self.caches = tempfile.TemporaryDirectory()  # MMRec writes its graphs beside the data
        own = Path(self.caches.name) / data.NAME
        own.mkdir()
        for file in (folder / "mmrec" / data.NAME).iterdir():
            (own / file.name).symlink_to(file)
        pair = PAIRS[model]
        given = THEIRS | pair.theirs | (pair.certain_theirs if certain else {})
        self.config = Config(model, data.NAME, given | {"data_path": f"{self.caches.name}/", "seed": 999})
        for key in self.config["hyper_parameters"]:
            if isinstance(self.config[key], list):
                self.config[key] = self.config[key][0]
        init_seed(999)
        parts = RecDataset(self.config).split()
        if (parts[0].user_num, parts[0].item_num) != (data.N_USERS, data.N_ITEMS):
            raise SystemExit("no report: the drawn data lack a user or an item; take another --seed.")
        for part in parts:
            str(part)  # counts what the loaders ask for
        self.loader = TrainDataLoader(self.config, parts[0], self.config["train_batch_size"], shuffle=True)
        self.loader.pretrain_setup()
        size = self.config["eval_batch_size"]
        self.valid = EvalDataLoader(self.config, parts[1], additional_dataset=parts[0], batch_size=size)

    def build(self) -> None:
        """The model and its trainer."""
        from common.trainer import Trainer
        from utils.utils import get_model

        self.model = get_model(self.config["model"])(self.config, self.loader).to(self.config["device"])
        self.trainer = Trainer(self.config, self.model)

    def train(self, steps: int) -> clocks.Reading:
        """Seconds of an epoch."""
        self.loader.pr = 0
        loader, start = clocks.Steps(self.loader, steps), clocks.read()
        self.model.pre_epoch_processing()
        self.trainer._train_epoch(loader, 0)
        return loader.epoch(start)

    def evaluate(self) -> dict[str, Any]:
        """The metrics of the validation part."""
        return self.trainer.evaluate(self.valid)  # type: ignore[no-any-return]


def first_batch(side: Theirs, n: int = 2048) -> torch.Tensor:
    """[3, n] users, their items, and drawn items that may be anything."""
    frame = side.loader.dataset.df.iloc[:: len(side.loader.dataset.df) // n][:n]
    pairs = torch.tensor(frame[["userID", "itemID"]].to_numpy().T)
    return torch.cat([pairs, torch.randint(data.N_ITEMS, (1, n))])


def features(folder: Path) -> dict[str, torch.Tensor]:
    """[I, D] by modality."""
    return {m: torch.from_numpy(np.load(data.features_path(folder, m))) for m in MODALITIES}
