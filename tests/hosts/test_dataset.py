"""RecBole's rows and ours are the same rows."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmenc_plugin.errors import DataError
from mmenc_plugin.resources import resource_dir


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Three items, whose pictures have the colour of their names; `.inter` names them in another order."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    rows = ["item_id:token\ttitle:token_seq\timage:token"]
    for colour in ("red", "lime", "blue", "white"):
        Image.new("RGB", (16, 16), colour).save(folder / "images" / f"{colour}.png")
        rows.append(f"{colour}\ta {colour} thing\t{colour}.png")
    (folder / "shop.item").write_text("\n".join(rows) + "\n")
    (folder / "shop.inter").write_text("user_id:token\titem_id:token\nu\tblue\nu\tred\nv\tlime\nv\tblue\n")
    return folder


def dataset_of(folder, **settings):
    from recbole.config import Config
    from recbole.data import create_dataset

    base = {"data_path": str(folder.parent), "item_text": ["title"], "show_progress": False, "feature_scaling": "none"}
    return create_dataset(Config("VBPR", "shop", config_dict={**base, **settings}))


def test_features_stand_in_recboles_rows_with_zeros_for_padding(shop):
    from mmenc_plugin import encoders

    dataset = dataset_of(shop)
    features = dataset.item_features()
    tokens = dataset.field2id_token["item_id"]
    assert tokens.tolist() == ["[PAD]", "blue", "red", "lime"]
    expected = encoders.build("classic").embed_images([shop / "images" / f"{token}.png" for token in tokens[1:]])
    assert torch.equal(features.table("image")[1:], expected)
    assert not features.table("image")[0].any()
    assert features.present("text").tolist() == [False, True, True, True]


def test_texts_and_picture_names_never_become_features_of_recbole(shop):
    dataset = dataset_of(shop)
    assert set(dataset.field2type) == {"user_id", "item_id"}


def test_an_item_of_inter_that_item_lacks_is_an_error_that_names_it(shop):
    with (shop / "shop.inter").open("a") as file:
        file.write("v\tgold\n")
    with pytest.raises(DataError, match=r"1 of 4 items .* have no row in the item file \('gold'\). Add a row"):
        dataset_of(shop).item_features()


def test_a_missing_picture_is_masked_or_an_error_as_the_settings_say(shop):
    (shop / "images" / "red.png").unlink()
    features = dataset_of(shop, missing="zeros").item_features()
    assert features.present("image").tolist() == [False, True, False, True]
    assert not features.table("image")[2].any()
    with pytest.raises(DataError, match=r"1 of 3 items have no image \('red: the file does not exist"):
        dataset_of(shop, missing="error").item_features()


def test_a_missing_picture_gets_the_mean_of_those_that_share_its_users(shop):
    (shop / "images" / "red.png").unlink()
    with (shop / "shop.inter").open("a") as file:
        file.write("w\twhite\n")
    dataset = dataset_of(shop, missing="neighbours")
    features, row = dataset.item_features(), dict(zip(dataset.field2id_token["item_id"], range(5), strict=True))
    image = features.table("image")
    assert not features.present("image")[row["red"]]
    assert torch.equal(image[row["red"]], image[row["blue"]])  # u took both; nobody took red and another one
    assert not image[0].any()


def test_of_the_neighbours_of_an_item_only_those_of_the_training_part_count(tmp_path, monkeypatch):
    from recbole.quick_start import run_recbole

    from mmenc_plugin.hosts.recbole import dataset

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])
    fill, seen = dataset.fill_from_neighbours, []

    def watched(table, users, items):
        seen.append(len(items))
        return fill(table, users, items)

    monkeypatch.setattr(dataset, "fill_from_neighbours", watched)
    settings = {"missing": "neighbours", "show_progress": False, "state": "ERROR"}
    run_recbole(model="ItemKNNContent", dataset="demo", config_dict=settings, saved=False)
    all_ = sum(1 for _ in (resource_dir("dataset_atomic") / "demo/demo.inter").open()) - 1
    assert len(seen) == 2  # image and text
    assert max(seen) < 0.9 * all_


def test_a_cached_data_set_with_other_feature_settings_is_not_taken(shop):
    saved = dataset_of(shop, save_dataset=True)
    again = dataset_of(shop, save_dataset=True, modalities=["text"])
    assert saved.item_features().modalities == ("image", "text")
    assert again.item_features().modalities == ("text",)


def test_adam_runs_fused_and_learns_what_recboles_adam_learns(shop, monkeypatch):
    from recbole.quick_start import run_recbole

    from mmenc_plugin.hosts.recbole.trainer import MultimodalTrainer

    config = {"data_path": str(shop.parent), "item_text": ["title"], "show_progress": False, "epochs": 3}
    config |= {"eval_args": {"split": {"RS": [1, 0, 0]}, "mode": "full"}, "embedding_size": 4, "content_size": 4}
    kept = {}

    def run(name):
        fit = MultimodalTrainer.fit

        def watch(self, *args, **kwargs):
            out = fit(self, *args, **kwargs)
            kept[name] = [p.detach().numpy().copy() for p in self.model.parameters()]
            kept[name + "_fused"] = self.optimizer.param_groups[0]["fused"]
            return out

        with monkeypatch.context() as patch:
            patch.setattr(MultimodalTrainer, "fit", watch)
            if name == "plain":
                patch.delattr(MultimodalTrainer, "_build_optimizer")
            run_recbole(model="VBPR", dataset="shop", config_dict=dict(config), saved=False)

    run("fused")
    run("plain")
    assert kept["fused_fused"]
    assert not kept["plain_fused"]
    for fused, plain in zip(kept["fused"], kept["plain"], strict=True):
        np.testing.assert_allclose(fused, plain, atol=1e-6)


def test_a_joint_encoders_vectors_stand_in_recboles_rows(shop, tiny_vlmo):
    from mmenc_plugin import encoders

    uri = f"vlmo:{tiny_vlmo}"
    dataset = dataset_of(shop, encoder={"fused": uri, "text": uri}, modalities=["fused", "text"])
    features, tokens = dataset.item_features(), dataset.field2id_token["item_id"][1:]
    encoder = encoders.build(uri)
    pairs = [shop / "images" / f"{token}.png" for token in tokens], [f"a {token} thing" for token in tokens]
    torch.testing.assert_close(features.table("fused")[1:], encoder.embed_pairs(*pairs), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.table("text")[1:], encoder.embed_texts(pairs[1]), rtol=0, atol=1e-5)


def test_the_encoder_settings_reach_the_encoder(shop, tiny_clip):
    from mmenc_plugin.hosts.recbole.features import blocks_of, items_of

    options = {
        "encoder": f"openclip:local-dir:{tiny_clip}",
        "encoder_precision": "bfloat16",
        "encoder_preparation": "fast",
        "picture_cache": "pictures",
    }
    config = dataset_of(shop, **options).config
    blocks = blocks_of(config, items_of(config))
    image, text = blocks["image"].recipe["encoder"], blocks["text"].recipe["encoder"]
    assert (image["precision"], image["preparation"], text["precision"]) == ("bfloat16", "fast", "bfloat16")
    assert "preparation" not in text
    exact = blocks_of(dataset_of(shop, encoder=options["encoder"]).config, items_of(config))
    cosine = torch.nn.functional.cosine_similarity(blocks["image"].values, exact["image"].values)
    assert 0.99 < cosine.min() < 1
    assert len(list((shop.parent / "pictures").glob("*.sqlite"))) == 1
