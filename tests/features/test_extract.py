"""Extraction: every item its own features, done once, whatever is wrong with some of the items."""

import dataclasses
import importlib
import logging
import os
import shutil

import pytest
import torch
from PIL import Image

from mmenc_plugin.encoders.classic import Classic
from mmenc_plugin.errors import DataError, EncoderOutputError, StoreError
from mmenc_plugin.features import extract
from mmenc_plugin.types import ItemTable

MODALITIES = pytest.mark.parametrize("modality", ["image", "text"])


class Spy(Classic):
    """classic, which keeps how many items it was given each time."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def embed(self, modality, inputs):
        self.sizes.append(len(inputs))
        return super().embed(modality, inputs)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(importlib.import_module("mmenc_plugin.features.extract"), "SHARD", 8)


def run(items, modality, store, encoder=None, **options):
    return extract(items, encoder or Classic(), modality, store, show_progress=False, **options)


def one_by_one(items, modality):
    """What the encoder says of each item alone."""
    encoder = Classic()
    if modality == "text":
        return torch.cat([encoder.embed_texts([text]) for text in items.texts])
    return torch.cat([encoder.embed_images([items.image_dir / name]) for name in items.images])


# --- Values -----------------------------------------------------------------------------------------


@MODALITIES
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.usefixtures("small_shards")
def test_every_item_has_its_own_features(make_items, tmp_path, modality, batch_size):
    items = make_items(21)
    block = run(items, modality, tmp_path / "store", batch_size=batch_size)
    assert block.ids == items.ids
    assert block.present.all()
    assert block.rejected == {}
    torch.testing.assert_close(block.values, one_by_one(items, modality), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("small_shards")
def test_batches_are_as_large_as_asked(make_items, tmp_path):
    spy = Spy()
    run(make_items(21), "image", tmp_path / "store", spy, batch_size=3)
    assert spy.sizes == [3, 3, 2, 3, 3, 2, 3, 2]


# --- Once ------------------------------------------------------------------------------------------


@MODALITIES
def test_the_same_recipe_is_not_encoded_again(make_items, tmp_path, modality):
    items, spy = make_items(5), Spy()
    first = run(items, modality, tmp_path / "store", spy)
    again = run(items, modality, tmp_path / "store", spy)
    assert spy.sizes == [5]
    assert again.folder == first.folder
    assert torch.equal(again.values, first.values)


@MODALITIES
def test_another_order_other_ids_and_another_batch_size_are_other_blocks(make_items, tmp_path, modality):
    items = make_items(4)
    backwards = ItemTable(items.ids[::-1], items.texts[::-1], items.images[::-1], items.image_dir)
    renamed = dataclasses.replace(items, ids=["x", *items.ids[1:]])
    blocks = [run(table, modality, tmp_path / "store") for table in (items, backwards, renamed)]
    blocks.append(run(items, modality, tmp_path / "store", batch_size=2))
    assert len({block.folder for block in blocks}) == 4
    assert torch.equal(blocks[1].values, blocks[0].values.flip(0))


@MODALITIES
def test_the_other_modality_does_not_change_the_block(make_items, tmp_path, modality):
    items = make_items(4)
    other = {"images": ["none"] * 4} if modality == "text" else {"texts": ["other"] * 4}
    folders = {
        run(table, modality, tmp_path / "store").folder for table in (items, dataclasses.replace(items, **other))
    }
    assert len(folders) == 1


def test_a_picture_whose_bytes_change_gives_another_block(make_items, tmp_path):
    items = make_items(4)
    before = run(items, "image", tmp_path / "store")
    picture, size = items.image_dir / "2.png", (20, 18)
    Image.new("RGB", size, "red").save(picture)
    after = run(items, "image", tmp_path / "store")
    assert after.folder != before.folder
    assert (after.values != before.values).any(1).tolist() == [False, False, True, False]


def test_a_picture_that_is_only_touched_or_moved_gives_the_same_block(make_items, tmp_path):
    items, spy = make_items(4), Spy()
    run(items, "image", tmp_path / "store", spy)
    os.utime(items.image_dir / "2.png", ns=(1, 1))
    run(items, "image", tmp_path / "store", spy)
    moved = dataclasses.replace(items, image_dir=items.image_dir.rename(tmp_path / "elsewhere"))
    run(moved, "image", tmp_path / "store", spy)
    assert spy.sizes == [4]


def test_a_data_set_that_moves_keeps_its_block_also_where_a_picture_is_missing(make_items, tmp_path):
    items, spy = make_items(4), Spy()
    (items.image_dir / "2.png").unlink()
    run(items, "image", tmp_path / "store", spy)
    moved = dataclasses.replace(items, image_dir=items.image_dir.rename(tmp_path / "elsewhere"))
    run(moved, "image", tmp_path / "store", spy)
    assert spy.sizes == [3]


def test_a_block_of_something_else_under_the_key_is_refused(make_items, tmp_path):
    items = make_items(4)
    block = run(items, "text", tmp_path / "store")
    other = run(dataclasses.replace(items, texts=["other"] * 4), "text", tmp_path / "store")
    shutil.rmtree(block.folder)
    shutil.copytree(other.folder, block.folder)
    with pytest.raises(StoreError, match="damaged"):
        run(items, "text", tmp_path / "store")


# --- Items without ----------------------------------------------------------------------------------


def spoil(folder):
    """Unfit pictures: name -> the essential part of the reason."""
    good = Image.open(folder / "0.png")
    whole = folder / "whole.jpg"
    good.save(whole)
    (folder / "truncated.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "text.jpg").write_text("This is no picture.")
    good.resize((1, 1)).save(folder / "pixel.png")
    good.convert("P").save(folder / "animated.gif", save_all=True, append_images=[good.rotate(90).convert("P")])
    good.convert("LAB").save(folder / "lab.tiff")
    good.save(folder.parent / "outside.png")
    (folder / "link.png").symlink_to("../outside.png")
    return {
        "": "no picture is named",
        "none.png": "does not exist",
        "../outside.png": "leads out of",
        "/etc/passwd": "leads out of",
        "link.png": "leads out of",
        "truncated.jpg": "truncated or damaged",
        "text.jpg": "not a picture of a known format",
        "pixel.png": "a side under",
        "animated.gif": "animated",
        "lab.tiff": "colours stored as LAB",
    }


@pytest.mark.usefixtures("small_shards")
def test_unfit_pictures_are_listed_and_the_others_keep_their_rows(make_items, tmp_path):
    items = make_items(12)
    reasons = spoil(items.image_dir)
    names = [name for pair in zip(items.images[:10], reasons, strict=True) for name in pair] + items.images[10:]
    mixed = ItemTable([f"x{k}" for k in range(22)], [""] * 22, names, items.image_dir)
    block = run(mixed, "image", tmp_path / "store", batch_size=3)
    good = torch.tensor([name not in reasons for name in names])
    assert torch.equal(block.present, good)
    torch.testing.assert_close(block.values[good], one_by_one(items, "image"), rtol=0, atol=1e-6)
    assert not block.values[~good].any()
    assert set(block.rejected) == {f"x{k}" for k in range(1, 20, 2)}
    for item, reason in block.rejected.items():
        assert reasons[names[int(item[1:])]] in reason


def test_items_without_text_are_listed_and_the_others_keep_their_rows(make_items, tmp_path):
    items = make_items(6)
    gaps = dataclasses.replace(items, texts=["" if k in (0, 4) else text for k, text in enumerate(items.texts)])
    block = run(gaps, "text", tmp_path / "store", batch_size=2)
    assert block.present.tolist() == [False, True, True, True, False, True]
    torch.testing.assert_close(block.values[block.present], one_by_one(items, "text")[block.present])
    assert block.rejected == {"i0": "no text", "i4": "no text"}


def test_what_is_missing_is_said_once_and_counted(make_items, tmp_path, caplog):
    items = dataclasses.replace(make_items(4), images=["0.png", "none.png", "", "gone.png"])
    with caplog.at_level(logging.WARNING, "mmenc_plugin"):
        block = run(items, "image", tmp_path / "store")
    (record,) = caplog.records
    said = record.getMessage()
    assert "3 of 4 items have no image features: " in said
    assert "the file does not exist in the picture folder (2); no picture is named (1)" in said
    assert str(block.folder / "rejected.json") in said


@MODALITIES
def test_not_one_usable_item_is_an_error_and_leaves_no_block(make_items, tmp_path, modality):
    items = make_items(4)
    nothing = dataclasses.replace(items, texts=[""] * 4, images=["none.png"] * 4)
    reason = "no text" if modality == "text" else "the file does not exist in the picture folder"
    for _ in range(2):
        with pytest.raises(DataError, match=rf"not one of 4 items has a usable {modality} \({reason}"):
            run(nothing, modality, tmp_path / "store")
    assert not [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    assert run(items, modality, tmp_path / "store").present.all()


def test_an_empty_table_is_an_error(make_items, tmp_path):
    with pytest.raises(DataError, match="there are no items"):
        run(make_items(0), "text", tmp_path / "store")


@MODALITIES
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_stops_the_extraction_and_names_the_items(make_items, tmp_path, modality, value):
    class Failing(Spy):
        def embed(self, modality, inputs):
            out = super().embed(modality, inputs)
            out[1, 3] = value
            return out

    items = make_items(3)
    with pytest.raises(
        EncoderOutputError, match=rf"not finite .* for the {modality} of 1 items \('i1'\).*encoder_precision to float32"
    ):
        run(items, modality, tmp_path / "store", Failing())
    assert not list((tmp_path / "store").glob(f"{modality}-*/manifest.json"))


def test_a_picture_that_may_not_be_read_does_not_stop_the_others(make_items, tmp_path, monkeypatch):
    items, digests = make_items(4), importlib.import_module("mmenc_plugin.data.digests")
    read = digests.file_digest

    def protected(path):
        if path.name == "2.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(digests, "file_digest", protected)
    assert run(items, "image", tmp_path / "store").present[[0, 1, 3]].all()
