"""What a checkpoint may hold, and what it may not."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import scipy.sparse
import torch

from mmenc_plugin.errors import CheckpointError
from mmenc_plugin.hosts.recbole import checkpoint


class Malicious:
    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, legacy, protocol):
    marker = tmp_path / "ran"
    bad = {"state_dict": Malicious((os.system, (f"touch {marker}",)))}
    torch.save(bad, tmp_path / "bad.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"older formats" if legacy else r"system.*could run code"):
        checkpoint.load(tmp_path / "bad.pth")
    assert not marker.exists()


def test_a_bare_pickle_that_runs_code_is_refused(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Malicious((os.system, (f"touch {marker}",)))))
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "bad.pth")
    assert not marker.exists()


def test_a_config_is_rebuilt_without_its_constructor_which_evaluates_strings(tmp_path):
    from recbole.config import Config

    marker = tmp_path / "ran"
    code = {"x": f"__import__('pathlib').Path({str(marker)!r}).touch()"}
    bad = {"config": Malicious((Config, ("BPR", "ml-100k", None, code)))}
    torch.save(bad, tmp_path / "bad.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "bad.pth")
    assert not marker.exists()


def test_a_model_class_cannot_be_called_while_loading(tmp_path):
    from recbole.model.general_recommender import BPR

    torch.save({"x": Malicious((BPR, ()))}, tmp_path / "bad.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "bad.pth")


def test_what_recbole_saves_comes_back_whole(tmp_path):
    from recbole.config import Config

    config = Config("BPR", "ml-100k", config_dict={"learning_rate": 0.5})
    saved = {
        "config": config,
        "best_valid_score": np.float64(0.25),
        "state_dict": {"w": torch.arange(6.0).view(2, 3).half()},
        "other_parameter": {"w": scipy.sparse.csr_matrix(np.eye(3)), "ids": np.arange(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
    }
    torch.save(saved, tmp_path / "good.pth", pickle_protocol=4)
    loaded = checkpoint.load(tmp_path / "good.pth")
    caches = {"dataset_save_path", "dataloaders_save_path"}
    same = {key: value for key, value in config.final_config_dict.items() if key not in caches}
    assert {k: v for k, v in loaded["config"].final_config_dict.items() if k not in caches} == same
    assert loaded["config"].model_class is config.model_class
    assert loaded["config"].yaml_loader is config.yaml_loader
    assert loaded["best_valid_score"] == 0.25
    assert torch.equal(loaded["state_dict"]["w"], saved["state_dict"]["w"])
    assert (loaded["other_parameter"]["w"] != saved["other_parameter"]["w"]).nnz == 0
    assert loaded["other_parameter"]["ids"].tolist() == [0, 1, 2]


def test_a_loaded_checkpoint_can_be_saved_and_loaded_again(tmp_path):
    from recbole.config import Config

    torch.save({"config": Config("VBPR", "demo")}, tmp_path / "a.pth", pickle_protocol=4)
    torch.save(checkpoint.load(tmp_path / "a.pth"), tmp_path / "b.pth", pickle_protocol=4)
    assert checkpoint.load(tmp_path / "b.pth")["config"]["model"] == "VBPR"


def test_a_torchscript_program_is_refused_before_torch_sees_it(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x

    torch.jit.script(Net()).save(tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="TorchScript"):
        checkpoint.load(tmp_path / "bad.pth")


def test_a_checkpoint_cannot_change_a_class(tmp_path):
    before = scipy.sparse.csr_matrix.toarray
    program = (
        b"\x80\x04cscipy.sparse._csr\ncsr_matrix\nN}\x8c\x07toarrayc" + b"builtins\ndict\ns\x86b."
    )  # csr_matrix, (None, {"toarray": dict}), BUILD
    torch.save({}, tmp_path / "bad.pth")
    with zipfile.ZipFile(tmp_path / "bad.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, program if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match="changes"):
        checkpoint.load(tmp_path / "bad.pth")
    assert scipy.sparse.csr_matrix.toarray is before


def test_a_loaded_config_does_not_open_pickled_caches(tmp_path, monkeypatch):
    """RecBole would unpickle them; the paths come from the file."""
    from recbole.config import Config
    from recbole.data import create_dataset

    marker = tmp_path / "ran"
    monkeypatch.chdir(tmp_path)
    config = Config("BPR", "ml-100k", config_dict={"checkpoint_dir": str(tmp_path)})
    cache = tmp_path / "ml-100k-Dataset.pth"
    config["dataset_save_path"] = str(cache)
    cache.write_bytes(pickle.dumps(Malicious((os.system, (f"touch {marker}",)))))
    torch.save({"config": config}, tmp_path / "a.pth", pickle_protocol=4)
    loaded = checkpoint.load(tmp_path / "a.pth")["config"]
    assert create_dataset(loaded).item_num == 1683
    assert not marker.exists()


@pytest.mark.parametrize("model", ["EASE", "DIN"])
def test_models_that_save_more_than_tensors_load_what_this_process_wrote(model, tmp_path, monkeypatch):
    from recbole.quick_start import run_recbole

    monkeypatch.chdir(tmp_path)
    config = {"epochs": 1, "show_progress": False, "user_inter_num_interval": "[250,inf)"}
    if model == "DIN":
        config |= {
            "metrics": ["AUC"],
            "valid_metric": "AUC",
            "MAX_ITEM_LIST_LENGTH": 5,
            "eval_args": {"mode": "uni10", "order": "TO"},
        }
    assert run_recbole(model=model, dataset="ml-100k", config_dict=config, saved=True)["test_result"]


def test_a_file_that_somebody_changed_after_us_is_not_trusted(tmp_path):
    path, marker = tmp_path / "a.pth", tmp_path / "ran"
    torch.save({"w": torch.ones(1)}, path)
    checkpoint.remember(path)
    assert torch.equal(checkpoint.load(path)["w"], torch.ones(1))
    torch.save({"x": Malicious((os.system, (f"touch {marker}",)))}, path)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not marker.exists()
