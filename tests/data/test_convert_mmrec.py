"""MMRec's data sets as RecBole's: the split, the users left out, and the features' order."""

import numpy as np
import pytest
import yaml

from mmenc_plugin import cli
from mmenc_plugin.data.converters.mmrec import convert
from mmenc_plugin.errors import DataError

ROWS = [
    (0, 2, 0),
    (0, 1, 1),
    (0, 0, 2),
    (1, 3, 0),
    (1, 2, 0),
    (1, 0, 2),
    (2, 1, 1),
    (2, 3, 2),
]  # user 2: none in training


@pytest.fixture
def baby(tmp_path):
    folder = tmp_path / "MMRec" / "data" / "baby"
    folder.mkdir(parents=True)
    lines = ["userID\titemID\ttimestamp\tx_label", *(f"{u}\t{i}\t{9 - i}\t{x}" for u, i, x in ROWS)]
    (folder / "baby.inter").write_text("\n".join(lines) + "\n")
    np.save(folder / "text_feat.npy", np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    return folder


def test_the_split_is_kept(baby, tmp_path):
    made = convert(baby, tmp_path / "dataset")
    read = {p: (tmp_path / "dataset/baby" / f"baby.{p}.inter").read_text() for p in ("train", "valid", "test")}
    assert read["train"] == "user_id:token\titem_id:token\ttimestamp:float\n0\t2\t7\n1\t3\t6\n1\t2\t7\n"
    assert read["valid"].splitlines()[1:] == ["0\t1\t8"]
    assert read["test"].splitlines()[1:] == ["0\t0\t9", "1\t0\t9"]
    assert (made.counts, made.dropped, made.items) == ({"train": 3, "valid": 1, "test": 2}, 2, 4)
    assert (tmp_path / "dataset/baby/baby.item").read_text().split() == ["item_id:token", "0", "1", "2", "3"]
    settings = yaml.safe_load(made.settings)
    assert settings["modalities"] == ["text"]
    assert settings["encoder"] == {"text": f"npy:{baby}/text_feat.npy?order=number"}


def test_recbole_runs_on_it_as_split(baby, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["mmrec", "dataset", str(baby), "--to", "dataset"]) == 0
    (tmp_path / "baby.yaml").write_text(capsys.readouterr().out)
    monkeypatch.setattr("sys.argv", ["test"])
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    config = Config(
        "VBPR", "baby", config_file_list=["baby.yaml"], config_dict={"data_path": "dataset", "state": "ERROR"}
    )
    dataset = create_dataset(config)
    parts = data_preparation(config, dataset)
    names = dataset.field2id_token["item_id"]
    train = parts[0]._dataset.inter_feat
    assert sorted(names[train["item_id"].numpy()].tolist()) == ["2", "2", "3"]
    table = parts[0]._dataset.item_features().table("text")
    raw = np.load(baby / "text_feat.npy")
    cosines = np.corrcoef(
        np.vstack([table[1:].numpy() - table[1:].numpy().mean(0), raw[names[1:].astype(int)] - raw.mean(0)])
    )
    assert np.allclose(np.diag(cosines[: len(table) - 1, len(table) - 1 :]), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("userID\titemID\n0\t1\n", "MMRec's table has x_label too"),
        ("userID\titemID\tx_label\nu1\t1\t0\n", "userID must hold numbers from 0"),
        ("userID\titemID\tx_label\n0\t1\t3\n", r"x_label holds \[3\]"),
        ("userID\titemID\tx_label\n0\t1\t1\n", r"x_label holds \[1\]"),
        ("", "cannot be read as MMRec's table"),
    ],
)
def test_what_is_not_mmrecs_is_refused(baby, tmp_path, text, message):
    (baby / "baby.inter").write_text(text)
    with pytest.raises(DataError, match=message):
        convert(baby, tmp_path)
    (baby / "baby.inter").unlink()
    with pytest.raises(DataError, match=r"does not exist\. Name a data folder of MMRec"):
        convert(baby, tmp_path)
