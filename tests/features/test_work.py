"""Extraction does no work twice: equal contents, grown catalogues, prepared pictures, batches that do not fit."""

import dataclasses
import importlib
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from mmenc_plugin.encoders import EncoderSpec, PictureRule, ReadyFeatures
from mmenc_plugin.encoders.classic import Classic
from mmenc_plugin.errors import DataError, StoreError
from mmenc_plugin.features import PictureOptions, extract
from mmenc_plugin.types import ItemTable

BOTH = pytest.mark.parametrize("modality", ["image", "text"])


class Spy(Classic):
    """classic, which keeps what it was given."""

    def __init__(self, fits=10**9):
        super().__init__()
        self.sizes, self.texts, self.prepared, self.fits = [], [], [], fits

    def prepare_file(self, path):
        self.prepared.append(path.name)
        return super().prepare_file(path)

    def embed(self, modality, inputs):
        if len(inputs) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        self.sizes.append(len(inputs))
        if modality == "text":
            self.texts.extend(inputs)
        return super().embed(modality, inputs)


class Joint(Spy):
    """A joint encoder: the text's features with the picture's mean colour added."""

    family, modalities = "joint", frozenset({"fused"})

    def __init__(self):
        super().__init__()
        spec = self.spec
        self.spec = dataclasses.replace(
            spec, family="joint", width={"fused": 1024}, preprocessing={"fused": spec.preprocessing}
        )

    def encode_pair(self, pixels, tokens):
        return self.encode_text(tokens) + pixels.mean((1, 2, 3))[:, None]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(importlib.import_module("mmenc_plugin.features.extract"), "SHARD", 4)


def run(items, modality, store, encoder, **options):
    return extract(items, encoder, modality, store, show_progress=False, **options)


def manifest(block):
    return json.loads((block.folder / "manifest.json").read_text())


# --- Equal contents ----------------------------------------------------------------------------------


def with_copies(items):
    """The items, then the first three again under other ids, their pictures as files of their own."""
    for k in range(3):
        (items.image_dir / f"copy{k}.png").write_bytes((items.image_dir / f"{k}.png").read_bytes())
    return ItemTable(
        [*items.ids, "c0", "c1", "c2"],
        [*items.texts, *items.texts[:3]],
        [*items.images, "copy0.png", "copy1.png", "copy2.png"],
        items.image_dir,
    )


@BOTH
def test_equal_contents_are_encoded_once(make_items, tmp_path, modality):
    items, spy = with_copies(make_items(7)), Spy()
    block = run(items, modality, tmp_path, spy, batch_size=3)
    assert sum(spy.sizes) == 7
    assert torch.equal(block.values[7:], block.values[:3])
    plain = run(make_items(7), modality, tmp_path / "other", Classic(), batch_size=3)
    assert torch.equal(block.values[:7], plain.values)


def test_equal_damaged_pictures_are_all_listed(make_items, tmp_path):
    items = make_items(4)
    for name in ("0.png", "2.png"):
        (items.image_dir / name).write_bytes(b"no picture")
    block = run(items, "image", tmp_path / "store", Spy())
    assert block.present.tolist() == [False, True, False, True]
    assert set(block.rejected) == {"i0", "i2"}


def test_texts_are_encoded_in_the_order_of_their_lengths(make_items, tmp_path):
    items = make_items(9)
    lengths = [7, 1, 9, 3, 3, 8, 2, 6, 5]
    texts = ["x" * length + str(k) for k, length in enumerate(lengths)]
    spy = Spy()
    block = run(dataclasses.replace(items, texts=texts), "text", tmp_path, spy, batch_size=2)
    assert spy.texts == sorted(texts, key=lambda text: (len(text), text[-1]))
    expected = torch.cat([Classic().embed_texts([text]) for text in texts])
    torch.testing.assert_close(block.values, expected, rtol=0, atol=1e-6)


# --- A catalogue that changes ------------------------------------------------------------------------


@BOTH
def test_a_catalogue_that_grows_costs_its_new_items_alone(make_items, tmp_path, modality):
    items = make_items(9)
    head = ItemTable(items.ids[:6], items.texts[:6], items.images[:6], items.image_dir)
    before, spy = run(head, modality, tmp_path, Spy()), Spy()
    after = run(items, modality, tmp_path, spy)
    assert sum(spy.sizes) == 3
    assert torch.equal(after.values[:6], before.values)
    whole = run(items, modality, tmp_path / "other", Classic())
    torch.testing.assert_close(after.values, whole.values, rtol=0, atol=1e-6)
    assert manifest(after)["reused"] == {before.folder.name: 6}
    assert manifest(whole)["reused"] == {}
    assert after.recipe == whole.recipe


def test_a_picture_that_changes_gets_a_new_row_and_the_old_rows_are_kept(make_items, tmp_path):
    items = make_items(6)
    before = run(items, "image", tmp_path / "store", Spy())
    old_bytes = (before.folder / "values.safetensors").read_bytes()
    Image.new("RGB", (20, 18), "red").save(items.image_dir / "2.png")
    spy = Spy()
    after = run(items, "image", tmp_path / "store", spy)
    assert spy.prepared == ["2.png"]
    assert (after.values != before.values).any(1).tolist() == [False, False, True, False, False, False]
    torch.testing.assert_close(after.values[2], Classic().embed_images([items.image_dir / "2.png"])[0])
    assert (before.folder / "values.safetensors").read_bytes() == old_bytes


@BOTH
def test_an_order_that_changes_costs_nothing(make_items, tmp_path, modality):
    items, spy = make_items(6), Spy()
    order = [3, 0, 5, 1, 4, 2]
    mixed = ItemTable(*([part[k] for k in order] for part in (items.ids, items.texts, items.images)), items.image_dir)
    before, after = run(items, modality, tmp_path, Spy()), run(mixed, modality, tmp_path, spy)
    assert spy.sizes == []
    assert torch.equal(after.values, before.values[order])


def test_rows_of_another_encoder_batch_size_or_preparation_are_not_taken(make_items, tmp_path):
    items = make_items(4)
    more = make_items(5)
    run(items, "image", tmp_path, Spy())
    changed = Spy()
    changed.spec = dataclasses.replace(changed.spec, architecture="another")
    fast = Spy()
    fast.spec = dataclasses.replace(fast.spec, preparation="fast")
    fast.prepare_file = lambda path: Classic.prepare_image(fast, Image.open(path))
    for spy, options in ((changed, {}), (fast, {}), (Spy(), {"batch_size": 2})):
        run(more, "image", tmp_path, spy, **options)
        assert sum(spy.sizes) == 5


def test_a_picture_that_was_damaged_is_looked_at_again(make_items, tmp_path):
    items = make_items(3)
    good = (items.image_dir / "1.png").read_bytes()
    (items.image_dir / "1.png").write_bytes(b"no picture")
    assert not run(items, "image", tmp_path / "store", Spy()).present[1]
    (items.image_dir / "1.png").write_bytes(good)
    assert run(items, "image", tmp_path / "store", Spy()).present.all()


def test_a_damaged_block_lends_nothing(make_items, tmp_path):
    items, spy = make_items(6), Spy()
    head = ItemTable(items.ids[:3], items.texts[:3], items.images[:3], items.image_dir)
    block = run(head, "text", tmp_path, Spy())
    (block.folder / "values.safetensors").write_bytes(b"garbage")
    run(items, "text", tmp_path, spy)
    assert sum(spy.sizes) == 6


# --- Memory ------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_with_a_notice_and_all_items_are_there(make_items, tmp_path, caplog):
    items, spy = make_items(20), Spy(fits=3)
    importlib.import_module("mmenc_plugin.features.extract").SHARD = 20  # taken back by the fixture
    with caplog.at_level(logging.WARNING, "mmenc_plugin"):
        block = run(items, "image", tmp_path, spy, batch_size=10)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: going on with batches of 5",
        "out of memory: going on with batches of 2",
    ]
    assert spy.sizes == [2] * 10
    expected = Classic().embed_images([items.image_dir / name for name in items.images])
    torch.testing.assert_close(block.values, expected, rtol=0, atol=1e-6)


def test_one_item_that_does_not_fit_is_an_error(make_items, tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        run(make_items(4), "image", tmp_path, Spy(fits=0))


def test_another_error_of_the_encoder_is_not_taken_for_memory(make_items, tmp_path):
    class Broken(Spy):
        def embed(self, modality, inputs):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(make_items(4), "image", tmp_path, Broken())


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_threads_changes_nothing(make_items, tmp_path, workers):
    items, threads = make_items(11), torch.get_num_threads()
    blocks = [run(items, "image", tmp_path / str(n), Classic(), pictures=PictureOptions(n)) for n in (2, workers)]
    assert torch.equal(blocks[0].values, blocks[1].values)
    assert torch.get_num_threads() == threads


# --- Prepared pictures -------------------------------------------------------------------------------


def test_prepared_pictures_are_taken_from_the_cache_and_are_the_same(make_items, tmp_path):
    items, options = make_items(9), PictureOptions(cache=tmp_path / "cache")
    first = run(items, "image", tmp_path / "a", Spy(), pictures=options)
    spy = Spy()
    second = run(items, "image", tmp_path / "b", spy, pictures=options)
    plain = run(items, "image", tmp_path / "c", Spy())
    assert spy.prepared == []
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.values, plain.values)


def test_encoders_that_only_normalise_differently_share_pictures_and_others_do_not(make_items, tmp_path):
    items, options = make_items(3), PictureOptions(cache=tmp_path / "cache")
    run(items, "image", tmp_path / "store", Spy(), pictures=options)
    for change, prepared in (({"std": (2.0, 2.0, 2.0)}, 0), ({"resample": "bicubic"}, 3)):
        spy = Spy()
        spy.picture = dataclasses.replace(spy.picture, **change)
        run(items, "image", tmp_path / f"other{prepared}", spy, pictures=options)
        assert len(spy.prepared) == prepared


def test_a_damaged_picture_is_not_kept_and_its_reason_stays(make_items, tmp_path):
    items, options = make_items(3), PictureOptions(cache=tmp_path / "cache")
    (items.image_dir / "1.png").write_bytes(b"no picture")
    reasons = [run(items, "image", tmp_path / name, Spy(), pictures=options).rejected for name in ("a", "b")]
    assert reasons[0] == reasons[1]
    assert "not a picture" in reasons[0]["i1"]


def test_a_cache_that_is_none_is_an_error_that_names_it(make_items, tmp_path):
    items, options = make_items(3), PictureOptions(cache=tmp_path / "cache")
    run(items, "image", tmp_path / "a", Spy(), pictures=options)
    (path,) = (tmp_path / "cache").glob("*.sqlite")
    path.write_bytes(b"garbage" * 500)
    with pytest.raises(StoreError, match=r"picture cache .*pictures-.*image_cache, or delete that file"):
        run(items, "image", tmp_path / "b", Spy(), pictures=options)


# --- Pairs, and features that are there already ------------------------------------------------------


def test_a_joint_encoder_gets_each_picture_with_its_text(make_items, tmp_path):
    items = make_items(7)
    items = dataclasses.replace(
        items,
        texts=["" if k == 2 else text for k, text in enumerate(items.texts)],
        images=["none.png" if k == 5 else name for k, name in enumerate(items.images)],
    )
    block = run(items, "fused", tmp_path, Joint(), batch_size=2, pictures=PictureOptions(cache=tmp_path / "cache"))
    assert block.present.tolist() == [k not in (2, 5) for k in range(7)]
    assert block.rejected["i2"] == "no text"
    assert "does not exist" in block.rejected["i5"]
    for k in (0, 1, 3, 4, 6):
        pixels = Classic().preprocess_images([Image.open(items.image_dir / f"{k}.png")])
        expected = Classic().embed_texts([items.texts[k]])[0] + pixels.mean()
        torch.testing.assert_close(block.values[k], expected, rtol=0, atol=1e-5)


def test_one_text_with_two_pictures_is_two_pairs(make_items, tmp_path):
    items, spy = make_items(4), Joint()
    run(dataclasses.replace(items, texts=["a"] * 4), "fused", tmp_path / "store", spy)
    assert sum(spy.sizes) == 4
    spy = Joint()
    run(dataclasses.replace(items, texts=["a"] * 4, images=["0.png"] * 4), "fused", tmp_path / "other", spy)
    assert sum(spy.sizes) == 1


class Ready(ReadyFeatures):
    family, modalities = "ready", frozenset({"image"})

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.picture = PictureRule(1, 1)
        self.spec = EncoderSpec("ready", "table", "somewhere.npy", "abc", {"image": 3}, {"image": {"order": "id"}})

    def rows(self, items):
        return torch.tensor([int(item[1:]) if int(item[1:]) < len(self.table) else -1 for item in items.ids])

    def values(self, rows):
        return torch.from_numpy(self.table[rows.numpy()])


def test_ready_features_go_to_the_items_whose_they_are(make_items, tmp_path):
    table = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    items = make_items(6)
    mixed = dataclasses.replace(items, ids=["i3", "i0", "i9", "i1", "i2", "i4"])
    block = run(mixed, "image", tmp_path, Ready(table))
    assert block.present.tolist() == [True, True, False, True, True, False]
    np.testing.assert_array_equal(block.values[block.present].numpy(), table[[3, 0, 1, 2]])
    assert block.rejected == {"i9": "no row in somewhere.npy", "i4": "no row in somewhere.npy"}
    with pytest.raises(DataError, match=r"not one of 1 items has a row in somewhere\.npy"):
        run(ItemTable(["i7"], [""], [""], tmp_path), "image", tmp_path, Ready(table))
