"""RecBole's evaluation of a whole test split through its own Trainer.evaluate, as it is and with our ranking."""

from __future__ import annotations

import functools
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import parity
from .harness import PLAIN, Bench, Case, Inputs, Outputs, Side, Target

AT_ONCE = 256  # users, in the large batches; RecBole's eval_batch_size, of 4,096 scores, is one user of 50,000 items


def cases(device: str, quick: bool) -> list[Case]:
    """The same data with RecBole's batch size and with one of many users."""
    users, items = (300, 2_000) if quick else (6_000, 50_000)
    targets = () if quick else (Target("time", 1 / 3),)
    return [
        _case(users, items, 1, "RecBole's eval_batch_size (a user at a time)", targets),
        _case(users, items, AT_ONCE, f"{AT_ONCE} users at a time", targets),
    ]


def small(device: str) -> list[Case]:
    """Few users."""
    return [_case(60, 300, 1, "RecBole's eval_batch_size", ())]


def _case(users: int, items: int, at_once: int, what: str, targets: tuple[Target, ...]) -> Case:
    name = f"{users:,} users x {items:,} items, VBPR of width 128, RecBole's default metrics, {what}"
    return Case(name, {"U": users, "I": items, "at once": at_once}, targets=targets)


def write(folder: Path, users: int, items: int) -> None:
    """RecBole's atomic files of random interactions that name every item, and an array of features."""
    random = np.random.default_rng(0)
    each = max(20, -(-items // users) * 4)
    taken = np.concatenate([random.permutation(items) for _ in range(-(-users * each // items))])[: users * each]
    lines = (f"u{row // each}\ti{item}\n" for row, item in enumerate(taken.tolist()))
    (folder / "made").mkdir()
    (folder / "made" / "made.inter").write_text("user_id:token\titem_id:token\n" + "".join(lines))
    (folder / "made" / "made.item").write_text("item_id:token\n" + "".join(f"i{item}\n" for item in range(items)))
    np.save(folder / "features.npy", random.standard_normal((items, 32), dtype=np.float32))


def inputs(case: Case, device: str) -> Inputs:
    """RecBole's Config, test loader and model, untrained; what it writes goes to a temporary folder."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.evaluator.collector import Collector
    from recbole.trainer.trainer import Trainer
    from recbole.utils import get_model, get_trainer, init_seed

    before, sys.argv[1:] = os.getcwd(), []  # Config reads the arguments of the program
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            write(Path(folder), case.sizes["U"], case.sizes["I"])
            config, off = (
                Config("VBPR", "made", config_dict=_settings(folder, case, device, fused)) for fused in (True, False)
            )
            init_seed(0, True)
            dataset = create_dataset(config)
            train, _, test = data_preparation(config, dataset)
            model = get_model("VBPR")(config, train.dataset).to(config["device"])
            trainers = {True: get_trainer(config["MODEL_TYPE"], "VBPR")(config, model), False: Trainer(off, model)}
            trainers[False].eval_collector = Collector(off)  # RecBole's own, whatever the plugin has put in its place
            for trainer in trainers.values():
                trainer.eval_collector.data_collect(train)
        finally:
            os.chdir(before)
    return {"device": device, "test": test, "trainers": trainers}


def _settings(folder: str, case: Case, device: str, fused: bool) -> dict[str, Any]:
    settings = {
        "data_path": folder, "encoder": "npy:features.npy?order=items", "modalities": ["image"], "seed": 0,
        "fused_ranking": fused, "use_gpu": device == "cuda", "show_progress": False,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
    }  # fmt: skip
    return (
        settings
        if case.sizes["at once"] == 1
        else {**settings, "eval_batch_size": case.sizes["at once"] * (case.sizes["I"] + 1)}
    )


def evaluate(given: Inputs, fused: bool) -> Outputs:
    """The metrics, by RecBole's Trainer.evaluate."""
    result = given["trainers"][fused].evaluate(given["test"], load_best_model=False, show_progress=False)
    return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in result.items()}


def expected(case: Case, given: Inputs, dtype: torch.dtype) -> Outputs:
    """RecBole's own metrics (it has one precision)."""
    return evaluate(given, fused=False)


def check(case: Case, given: Inputs, found: Outputs, answer: Outputs, role: str) -> list[str]:
    """Every metric is the very same number, and not all are 0."""
    wrong = parity.equal(found, answer)
    return wrong if any(bool(value) for value in answer.values()) else [*wrong, "every metric is 0"]


def sides(case: Case, device: str) -> list[Side]:
    """Ours and RecBole's."""
    return [
        Side("ours", functools.partial(evaluate, fused=True), "ours"),
        Side(PLAIN, functools.partial(evaluate, fused=False), "plain"),
    ]


BENCH = Bench("evaluation", cases, small, inputs, sides, expected, check, "the metrics of RecBole's own way")
