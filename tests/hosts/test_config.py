"""Settings are closed: everything wrong stops the run before any data is read."""

import pytest

from mmenc_plugin.errors import DataError, SettingsError, UnknownNameError


def make(model="VBPR", dataset="demo", files=None, **config_dict):
    from recbole.config import Config

    return Config(model, dataset, config_file_list=files, config_dict=config_dict)


@pytest.fixture(autouse=True)
def _no_data_is_read(monkeypatch):
    import pandas as pd

    def read_csv(*args, **kwargs):
        raise AssertionError("data was read")

    monkeypatch.setattr(pd, "read_csv", read_csv)


def test_defaults_are_the_models_then_its_yaml_then_the_users(tmp_path):
    (tmp_path / "my.yaml").write_text("embedding_size: 48\ncontent_size: 24\n")
    config = make(files=[str(tmp_path / "my.yaml")], content_size=12)
    assert config["embedding_size"] == 48
    assert config["content_size"] == 12
    assert config["encoder"] == "classic"
    assert config["missing"] == "mean"


def test_full_ranking_does_not_take_one_user_at_a_time_unless_asked():
    assert make()["eval_batch_size"] >= 1_000_000
    assert make(eval_batch_size=4096)["eval_batch_size"] == 4096
    sampled = make(eval_args={"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "uni100"})
    assert sampled["eval_batch_size"] == 4096


def test_misspelt_key_in_config_dict():
    with pytest.raises(
        SettingsError, match=r"no setting named 'reg_wieght' \(in config_dict\). Did you mean 'reg_weight'"
    ):
        make(reg_wieght=0.1)


def test_misspelt_key_in_a_file(tmp_path):
    (tmp_path / "my.yaml").write_text("stoping_step: 3\n")
    with pytest.raises(SettingsError, match=r"'stoping_step' \(in a config file\). Did you mean 'stopping_step'"):
        make(files=[str(tmp_path / "my.yaml")])


def test_misspelt_key_on_the_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_recbole.py", "--encodr=classic"])
    with pytest.raises(SettingsError, match=r"'encodr' \(on the command line.*\). Did you mean 'encoder'"):
        make()


def test_every_key_that_recbole_reads_is_known():
    """RecBole's sources, searched for the keys they read; models and their trainers have keys of their own."""
    import re
    from pathlib import Path

    import recbole

    from mmenc_plugin.hosts.recbole import config as ours

    root = Path(recbole.__file__).parent
    sources = [p for p in root.rglob("*.py") if "model" not in p.parts and p.name not in {"transform.py", "trainer.py"}]
    read = {key for p in sources for key in re.findall(r"""config\[["'](\w+)["']\]""", p.read_text())}
    made_by_config = set(make().final_config_dict)
    assert read - ours._host_keys(make()) - made_by_config <= {"reg_weight"}


LIVE = {"paradigm": "end_to_end", "encoder": "openclip:ViT-Ti-8-64/random"}
DYNAMIC = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_size": 0}, "embedding_size is 0: input should be greater than or equal to 1"),
        ({"embedding_size": "wide"}, "embedding_size is 'wide': input should be a valid integer"),
        ({"reg_weight": -1.0}, "reg_weight is -1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: input should be greater than 0"),
        ({"learner": "adma"}, "learner is 'adma'.*Did you mean 'adam'"),
        ({"epochs": -1}, "epochs is -1"),
        ({"missing": "means"}, "missing is 'means'.*Did you mean 'mean'"),
        ({"paradigm": "end_2_end"}, "paradigm is 'end_2_end'.*Did you mean 'end_to_end'"),
        ({"paradigm": "end_to_end"}, "paradigm end_to_end trains encoders, and classic has no .* openclip"),
        ({**LIVE, "learner": "sgd"}, "learner is 'sgd', but .* set learner to adam or adamw"),
        ({**LIVE, "train_neg_sample_args": DYNAMIC}, "train_neg_sample_args is dynamic.* Leave dynamic out"),
        ({**LIVE, "refresh": "step:5"}, "refresh is 'step:5': epoch, .*Did you mean 'steps'"),
        ({**LIVE, "refresh": "steps:0"}, "refresh is 'steps:0'.*whole number from 1"),
        ({"modalities": ["image", "txet"]}, r"modalities.1 is 'txet'.*Did you mean 'text'"),
        ({"modalities": []}, "modalities is"),
        ({"encoder": "clasic"}, "no encoder family named 'clasic'. Did you mean 'classic'"),
        ({"encoder": {"image": "classic"}}, r"encoder names \['image'\] but modalities asks for 'text'"),
        ({"valid_metric": "Recall@7"}, "valid_metric is Recall@7, which is not among metrics"),
        (
            {"item_text": ["titel"]},
            r"no column of demo.item \(named by item_text\) named 'titel'. Did you mean 'title'",
        ),
        ({"item_image": "picture"}, r"no column of demo.item \(named by item_image\) named 'picture'"),
        (
            {"eval_args": {"splt": {"RS": [8, 1, 1]}}},
            r"no setting named 'splt' \(inside eval_args\). Did you mean 'split'",
        ),
        ({"train_neg_sample_args": {"distributon": "popularity"}}, "no setting named 'distributon'"),
        ({"train_neg_sample_args": None}, "VBPR learns from items that were not taken"),
        ({"load_col": {"itm": ["item_id"]}}, r"no setting named 'itm' \(inside load_col\)"),
        ({"reg_weight": float("inf")}, "reg_weight is inf"),
        ({"item_text": []}, "item_text is"),
        ({"valid_metric": "NDCG"}, "valid_metric is NDCG.*Choose one of recall@20, ndcg@20"),
        ({"ITEM_ID_FIELD": "iid"}, r"no column of demo.item \(named by ITEM_ID_FIELD\) named 'iid'"),
    ],
)
def test_wrong_values_name_the_key_and_the_way_out(settings, message):
    with pytest.raises(SettingsError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("name", "meant"), [("VBPRR", "VBPR"), ("vbpr", "VBPR"), ("LigtGCN", "LightGCN"), ("bpr", "BPR")]
)
def test_unknown_model_gets_the_nearest_name_not_a_missing_lightgbm(name, meant):
    with pytest.raises(UnknownNameError, match=f"no model named '{name}'. Did you mean '{meant}'"):
        make(model=name)


def test_columns_are_asked_only_for_the_modalities_in_use():
    assert make(modalities=["text"], item_image="picture")["modalities"] == ["text"]


def test_data_set_without_an_item_file(tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "bare.inter").write_text("user_id:token\titem_id:token\nu\ti\n")
    with pytest.raises(DataError, match=r"bare.item does not exist. A multimodal model needs it"):
        make(dataset="bare", data_path=str(tmp_path))


def test_users_own_data_set_of_a_bundled_name_wins(tmp_path):
    folder = tmp_path / "demo"
    (folder / "images").mkdir(parents=True)
    (folder / "demo.item").write_text("item_id:token\ttitle:token_seq\tdescription:token_seq\timage:token\n")
    assert make(data_path=str(tmp_path))["data_path"] == str(folder)


def test_bundled_config_files_are_found_by_name():
    assert make(files=["encoder/classic.yaml"])["encoder"] == "classic"


def test_recboles_own_models_are_left_as_they_were():
    config = make(model="BPR", some_new_key=1)
    assert config["some_new_key"] == 1
    assert config["encoder"] is None
    assert config["eval_batch_size"] == 4096


def test_numbers_written_as_texts_become_numbers():
    config = make(epochs="3", learning_rate="1e-3", learner="Adam")
    assert (config["epochs"], config["learning_rate"], config["learner"]) == (3, 1e-3, "adam")


def test_an_encoder_for_each_modality_may_be_written_on_the_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["mmenc", "--encoder={image: classic, text: classic}"])
    assert make()["encoder"] == {"image": "classic", "text": "classic"}


def test_keys_of_other_models_are_taken_with_a_word(caplog):
    """A YAML or a command line for several models names keys that ours does not read."""
    assert make(n_layers=3)["n_layers"] == 3
    assert "VBPR does not read n_layers" in caplog.text


def test_the_data_sets_yaml_serves_recboles_models_too():
    config = make(model="BPR")
    assert config["valid_metric"] == "NDCG@20"
    assert config["item_text"] is None


def test_a_folder_of_pictures_that_does_not_exist():
    with pytest.raises(DataError, match=r"image_dir: the folder .*demo/pictures does not exist"):
        make(image_dir="pictures")
