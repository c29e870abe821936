"""An exported .itememb, loaded by RecBole itself: its rows are RecBole's."""

import numpy as np
import pytest
import torch
import yaml

from mmenc_plugin.encoders import EncoderSpec
from mmenc_plugin.features import Recipe, align, exchange, open_block
from mmenc_plugin.features.store import write_block

IDS = ["b", "007", "7", "d'or", "e", "1.0", "unseen"]


def make_block(store, modality, width):
    spec = EncoderSpec("mine", "net", "v1", "", {modality: width}, {modality: {}})
    recipe = Recipe.of(spec, modality, len(IDS), "content", 256, 32)
    values = torch.randn(len(IDS), width, generator=torch.Generator().manual_seed(width))
    present = torch.tensor([item != "e" for item in IDS])
    write_block(store, recipe, IDS, {"values": values * present[:, None], "present": present}, {"e": "gone"})
    return open_block(store / recipe.key)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shop"
    folder.mkdir()
    pairs = [("u", "1.0"), ("u", "7"), ("v", "e"), ("v", "b"), ("w", "007"), ("w", "d'or"), ("w", "b")]
    (folder / "shop.inter").write_text("user_id:token\titem_id:token\n" + "".join(f"{u}\t{i}\n" for u, i in pairs))
    return folder


def load(folder, *notes):
    """RecBole's data set under the settings that the exports print."""
    from recbole.config import Config
    from recbole.data import create_dataset

    config = {"data_path": str(folder.parent), "show_progress": False}
    for note in notes:
        for key, value in yaml.safe_load(note).items():
            if isinstance(value, list):
                config[key] = config.get(key, []) + value
            else:
                config[key] = {**config.get(key, {}), **value}
    return create_dataset(Config("BPR", "shop", config_dict=config))


@pytest.mark.parametrize("missing", ["mean", "zeros"])
def test_recbole_has_every_items_own_row_and_zeros_for_padding(shop, tmp_path, missing):
    block = make_block(tmp_path / "store", "image", 5)
    written = exchange.export(block, "recbole", shop, order_from=shop / "shop.inter", missing=missing)
    assert written.files == [shop / "shop.itememb"]
    dataset = load(shop, written.note)
    tokens = dataset.field2id_token["item_id"].tolist()
    assert tokens == ["[PAD]", "1.0", "7", "e", "b", "007", "d'or"]
    weight = dataset.get_preload_weight("iid")
    expected = align(block, tokens[1:], missing=missing, padding_row=True).values.numpy()
    assert np.array_equal(weight.astype(np.float32), expected)
    assert not weight[0].any()
    assert weight[4].astype(np.float32).tolist() == block.values[IDS.index("b")].tolist()


def test_two_modalities_lie_side_by_side(shop, tmp_path):
    order, notes, blocks = shop / "shop.inter", [], []
    for modality, width, suffix in (("image", 5, "itememb"), ("text", 3, "itemtext")):
        blocks.append(make_block(tmp_path / "store", modality, width))
        notes.append(exchange.export(blocks[-1], "recbole", shop / f"shop.{suffix}", order_from=order).note)
    dataset = load(shop, *notes)
    tokens = dataset.field2id_token["item_id"].tolist()[1:]
    for block, field in zip(blocks, ("iid", "itemtext_iid"), strict=True):
        expected = align(block, tokens, missing="mean", padding_row=True).values.numpy()
        assert np.array_equal(dataset.get_preload_weight(field).astype(np.float32), expected)


def test_a_file_with_more_items_would_make_items_of_them(shop, tmp_path):
    """Why the format asks for the interactions' items."""
    block = make_block(tmp_path / "store", "image", 5)
    (tmp_path / "all.txt").write_text("\n".join(IDS))
    written = exchange.export(block, "recbole", shop, order_from=tmp_path / "all.txt")
    assert "unseen" in load(shop, written.note).field2id_token["item_id"]
