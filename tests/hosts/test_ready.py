"""Features that are there already, in RecBole's rows, for data that has neither pictures nor texts."""

import numpy as np
import pytest

from mmenc_plugin.errors import UnknownNameError


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Items that are ids alone; `.inter` names them in another order than `.item`, the array in a third."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "bare.item").write_text("item_id:token\nb\na\nd\nc\n")
    (folder / "bare.inter").write_text("user_id:token\titem_id:token\nu\tc\nu\ta\nv\td\nv\tc\n")
    np.save(tmp_path / "feat.npy", np.array([[3.0, 3.5], [1.0, 1.5], [2.0, 2.5]]))
    (tmp_path / "ids.txt").write_text("c\na\nb\n")
    return folder


def dataset_of(folder, **settings):
    from recbole.config import Config
    from recbole.data import create_dataset

    base = {"data_path": str(folder.parent), "show_progress": False, "feature_scaling": "none"}
    return create_dataset(Config("VBPR", "bare", config_dict={**base, **settings}))


@pytest.mark.parametrize("modalities", [["image"], ["text"], ["image", "text"]])
def test_every_item_of_recbole_has_its_own_row(bare, modalities):
    dataset = dataset_of(bare, encoder="npy:feat.npy?ids=ids.txt", modalities=modalities, missing="zeros")
    features = dataset.item_features()
    assert dataset.field2id_token["item_id"].tolist() == ["[PAD]", "c", "a", "d"]
    for modality in modalities:
        assert features.table(modality).tolist() == [[0, 0], [3, 3.5], [1, 1.5], [0, 0]]
        assert features.present(modality).tolist() == [False, True, True, False]


def test_the_uri_can_stand_on_a_command_line(bare, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run", "--encoder=npy:feat.npy?ids:ids.txt", "--modalities=['image']"])
    assert dataset_of(bare).item_features().table("image")[1].tolist() != [0, 0]


def test_an_encoder_beside_it_still_needs_its_columns(bare):
    uris = {"image": "npy:feat.npy?ids=ids.txt", "text": "classic"}
    with pytest.raises(UnknownNameError, match=r"no column of bare\.item \(named by item_text\) named 'title'"):
        dataset_of(bare, encoder=uris)
