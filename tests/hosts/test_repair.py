"""RecBole's own models on today's stack, and each repair by itself."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from mmenc_plugin.hosts.recbole import repair

TEN = ["BPR", "LightGCN", "NGCF", "NeuMF", "SGL", "MultiVAE", "ItemKNN", "SASRec", "GRU4Rec", "DeepFM"]

# a fair share of ml-100k that keeps ten models within two minutes
SMALL = {"val_interval": {"rating": "[4,inf)"}, "user_inter_num_interval": "[60,inf)"}
RANKING = {"topk": [50], "valid_metric": "MRR@50"}
VALUE_METRICS = {
    "metrics": ["AUC"],
    "valid_metric": "AUC",
    "eval_args": {"mode": "labeled"},
    "threshold": {"rating": 4},
}
SEQUENCES = {
    "train_neg_sample_args": None, "eval_batch_size": 256, "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 10,
    "user_inter_num_interval": "[150,inf)",
}  # fmt: skip
OF_MODEL = {
    "DeepFM": {**VALUE_METRICS, "val_interval": None, "user_inter_num_interval": "[150,inf)"},
    "SASRec": {**SEQUENCES, "n_layers": 1, "inner_size": 16},
    "GRU4Rec": SEQUENCES,
    "SGL": {"train_batch_size": 4096},
    "MultiVAE": {"mlp_hidden_size": [32], "latent_dimension": 16},
}


@pytest.mark.parametrize("model", TEN)
def test_recbole_model_trains_checkpoints_loads_the_best_and_tests(model, tmp_path, monkeypatch):
    from recbole.quick_start import run_recbole

    monkeypatch.chdir(tmp_path)
    config = {**SMALL, "epochs": 1, "show_progress": False, "load_col": None, **RANKING, **OF_MODEL.get(model, {})}
    result = run_recbole(model=model, dataset="ml-100k", config_dict=config, saved=True)
    name = "auc" if model == "DeepFM" else "recall@50"
    assert 0 < result["test_result"][name] <= 1
    assert len(list((tmp_path / "saved").glob(f"{model}-*.pth"))) == 1


# What is broken, seen without the repair: in a process of its own, or in RecBole's source. When the newest stack, or a
# new RecBole, makes one of them false, its repair can go.
BROKEN = {
    "numpy names": "not hasattr(np, 'float')",
    "numpy aliases": "'np.float_' in source('config/configurator.py')",
    "trusted checkpoints": "inspect.signature(torch.load).parameters['weights_only'].default is not False",
    "dok_matrix._update": "not hasattr(scipy.sparse.dok_matrix, '_update')",
    "lengths of lists": "not isinstance(pd.Series([[1], [2, 3]]).agg(len), pd.Series)",
    "lengths of lists (knowledge)": "'.agg(len)' in source('data/dataset/kg_dataset.py')",
    "lengths of lists (sequences)": "'.agg(len)' in source('data/dataset/sequential_dataset.py')",
    "missing values": "chained_fill_does_nothing()",
    "ray": "'from ray import tune' in source('quick_start/quick_start.py')",
    "torchrun": "'LOCAL_RANK' not in source('quick_start/quick_start.py') + source('config/configurator.py')",
    "processes on the CPU": "'backend=\"nccl\"' in source('config/configurator.py')",
    "gradients between CPU processes": "'device_ids=[config[\"local_rank\"]]' in source('trainer/trainer.py')",
    "one checkpoint of several processes": "'barrier' not in source('trainer/trainer.py')",
    "folders of several processes": "'os.makedirs(dir_path)' in source('utils/utils.py')",
    "metrics of the whole list": "'_data_dict[key].cpu()' in source('evaluator/collector.py')",
    "warnings": "'torch.cuda.amp' in source('trainer/trainer.py')",
}
PROBE = """
import importlib.util, inspect, json, sys, warnings
sys.meta_path = [f for f in sys.meta_path if "mmenc" not in getattr(f, "__module__", "")]
warnings.simplefilter("ignore")
import numpy as np, pandas as pd, scipy.sparse, torch
from pathlib import Path
root = Path(importlib.util.find_spec("recbole").origin).parent
source = lambda name: (root / name).read_text()
def chained_fill_does_nothing():
    frame = pd.DataFrame({"a": [1.0, None]})
    frame["a"].fillna(0, inplace=True)
    return bool(frame["a"].isna().any())
print(json.dumps({name: bool(eval(code)) for name, code in json.loads(sys.argv[1]).items()}))
"""


@pytest.fixture(scope="module")
def broken():
    """name of a repair -> whether what it mends is broken here."""
    argv = [sys.executable, "-c", PROBE, json.dumps(BROKEN)]
    return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout)


@pytest.mark.parametrize("fix", repair.REPAIRS, ids=lambda r: r.name)
def test_every_repair_is_still_needed_here(fix, broken):
    assert broken[fix.name]
    assert fix.needed()


@pytest.mark.parametrize("fix", repair.REPAIRS, ids=lambda r: r.name)
def test_every_repair_names_a_module_that_recbole_has(fix):
    import importlib

    assert importlib.import_module(fix.module)
    assert fix.reason
    assert fix.apply or fix.around


def test_numpy_names_are_there_and_config_does_not_touch_them():
    import recbole.config  # noqa: F401

    assert np.float is np.float64
    assert np.dtype(np.int) == np.dtype(int)
    assert not hasattr(np, "float_"), "other packages ask for np.float_ to learn numpy's version"


def test_dok_matrix_update_writes_the_given_entries():
    from scipy.sparse import dok_matrix

    matrix = dok_matrix((2, 3))
    matrix._update({(0, 1): 2.0, (1, 2): 3.0})
    assert matrix.toarray().tolist() == [[0, 2, 0], [0, 0, 3]]


def test_missing_values_are_filled_as_recbole_means(tmp_path):
    """Empty cells become [PAD] for tokens, the mean for floats, and nothing for sequences."""
    dataset = _dataset_with_holes(tmp_path)
    items = dataset.get_item_feature()
    row = {token: i for i, token in enumerate(dataset.field2id_token["item_id"])}
    assert items["kind"][row["b"]] == 0
    assert items["price"][row["b"]] == pytest.approx(2.0)
    assert len(items["words"][row["b"]]) == 0
    assert len(items["words"][row["a"]]) == 2


def test_lengths_of_lists_are_per_row():
    from recbole.data.dataset import dataset as module

    assert pd.Series([[1, 2], [3], []]).agg(module.len).tolist() == [2, 1, 0]
    assert module.len([1, 2, 3]) == 3


def _dataset_with_holes(tmp_path):
    from recbole.config import Config
    from recbole.data import create_dataset

    folder = tmp_path / "holes"
    folder.mkdir()
    (folder / "holes.inter").write_text("user_id:token\titem_id:token\nu\ta\nu\tb\nv\tc\n")
    (folder / "holes.item").write_text(
        "item_id:token\tkind:token\tprice:float\twords:token_seq\na\tx\t1\tred shoe\nb\t\t\t\nc\ty\t3\tblue\n"
    )
    load = {"inter": ["user_id", "item_id"], "item": ["item_id", "kind", "price", "words"]}
    config = Config("BPR", "holes", config_dict={"data_path": str(tmp_path), "load_col": load})
    return create_dataset(config)


def test_ray_is_neither_imported_nor_left_in_place_of_a_stand_in():
    import recbole.quick_start  # noqa: F401

    assert "ray" not in sys.modules
    assert sys.modules["recbole.quick_start.quick_start"].tune.report(recall=1.0) is None


def test_torch_load_of_other_callers_keeps_its_safe_default(tmp_path):
    import recbole.trainer  # noqa: F401

    torch.save({"where": tmp_path}, tmp_path / "a.pth")
    with pytest.raises(Exception, match=r"[Ww]eights only"):
        torch.load(tmp_path / "a.pth")


def test_a_folder_that_is_there_already_is_no_error(tmp_path, monkeypatch):
    from recbole.utils import ensure_dir
    from recbole.utils.logger import ensure_dir as of_the_logger

    monkeypatch.setattr(os.path, "exists", lambda path: False)  # another process makes it right after the look
    for make in (ensure_dir, of_the_logger):
        make(str(tmp_path / "saved"))
        make(str(tmp_path / "saved"))
    assert (tmp_path / "saved").is_dir()


def test_counts_are_not_moved_to_the_cpu_and_stay_with_the_collector():
    from collections import Counter

    from recbole.evaluator.collector import Collector, DataStruct

    collector = Collector.__new__(Collector)
    collector.data_struct = DataStruct()
    values = {"data.num_items": 7, "data.count_items": Counter({3: 2}), "rec.topk": torch.ones(2, 3)}
    for name, value in values.items():
        collector.data_struct.set(name, value)
    assert set(collector.get_data_struct()._data_dict) == set(values)
    assert set(collector.get_data_struct()._data_dict) == {"data.num_items", "data.count_items"}
