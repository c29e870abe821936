"""The store's blocks listed, verified, compared and deleted."""

import json
import os
import time

import pytest
import torch
from filelock import FileLock

from mmenc_plugin.encoders import EncoderSpec
from mmenc_plugin.errors import SettingsError, StoreError, UnknownNameError
from mmenc_plugin.features import Recipe, manage, open_block
from mmenc_plugin.features.compare import compare_blocks, compare_stores
from mmenc_plugin.features.store import write_block


def make(store, values, ids=None, masked=(), modality="image", **spec):
    """A block of the encoder mine:net, or as `spec` says; returns its folder."""
    values = torch.tensor(values, dtype=torch.float32)
    ids = ids or [f"i{k}" for k in range(len(values))]
    present = torch.tensor([item not in masked for item in ids])
    fields = {"family": "mine", "architecture": "net", "weights": "v1", "weights_sha256": "", **spec}
    made = EncoderSpec(**fields, width={modality: values.shape[1]}, preprocessing={modality: {"size": 8}})
    recipe = Recipe.of(made, modality, len(ids), "-".join(ids), 256, 32)
    tensors = {"values": values * present[:, None], "present": present}
    write_block(store, recipe, ids, tensors, dict.fromkeys(masked, "gone"))
    return store / recipe.key


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


# --- List -------------------------------------------------------------------------------------------


def test_a_summary_says_what_a_block_is(store):
    folder = make(store, [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]], masked=["i2"])
    other = make(store, [[1.0]], modality="text", weights="none", weights_sha256="0123456789abcdef")
    image, text = manage.summaries(store)
    assert (image.key, image.modality, image.encoder) == (folder.name, "image", "mine:net/v1")
    assert (image.items, image.width, image.masked, image.damage) == (3, 2, 1, "")
    assert image.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert (text.key, text.encoder) == (other.name, "mine:net/01234567")


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": {}}', '{"recipe": null}'])
def test_a_block_whose_manifest_is_none_is_listed_as_damaged(store, text):
    make(store, [[1.0]])
    damaged = make(store, [[1.0]], modality="text")
    (damaged / "manifest.json").write_text(text)
    image, found = manage.summaries(store)
    assert not image.damage
    assert (found.key, found.modality) == (damaged.name, "text")
    assert found.damage


def test_other_things_in_a_store_are_no_blocks(store):
    folder = make(store, [[1.0]])
    for name in ("pictures", f"{folder.name}.new", f"{folder.name}-abc.shards"):
        (store / name).mkdir()
    (store / "picture_digests.sqlite").write_bytes(b"")
    (store / "image-file").write_text("")
    assert manage.block_folders(store) == [folder]


def test_no_store_is_an_error_that_names_the_option(tmp_path):
    with pytest.raises(StoreError, match=r"there is no feature store .*none\. Name one with --store"):
        manage.summaries(tmp_path / "none")


def test_blocks_are_found_by_any_part_of_their_key_that_no_other_has(store):
    image, text = make(store, [[1.0]]), make(store, [[1.0]], modality="text")
    assert manage.find_block(store, "image") == image
    assert manage.find_block(store, text.name) == text
    assert manage.find_block(store, text.name[-6:]) == text
    with pytest.raises(SettingsError, match=r"'mine-net' is part of 2 keys: 'image-.*', 'text-.*'. Write more"):
        manage.find_block(store, "mine-net")
    with pytest.raises(UnknownNameError, match=r"no block in .* named 'imgae'\. .*Known: image-"):
        manage.find_block(store, "imgae")


# --- Verify -----------------------------------------------------------------------------------------


def test_damage_is_named_and_the_other_blocks_are_still_read(store):
    folders = [make(store, [[float(k)]], ids=[f"x{k}"]) for k in range(3)]
    flip(folders[1] / "values.safetensors")
    found = dict(manage.verify(folders))
    assert [found[folder.name] == "" for folder in folders] == [True, False, True]
    assert "values.safetensors is not the file that the manifest describes" in found[folders[1].name]


def test_a_folder_under_another_name_and_an_unknown_recipe_are_named(store):
    folder = make(store, [[1.0]])
    renamed = folder.rename(store / "image-other")
    assert dict(manage.verify([renamed])) == {
        "image-other": f"its recipe belongs to the key {folder.name}; the folder was renamed or the manifest changed."
    }
    manifest = json.loads((renamed / "manifest.json").read_text())
    manifest["recipe"].update(format=1, more="yes")
    (renamed / "manifest.json").write_text(json.dumps(manifest))
    assert "store format 1" in dict(manage.verify([renamed]))["image-other"]


# --- Compare ----------------------------------------------------------------------------------------


def test_a_block_and_its_copy_are_the_same(tmp_path):
    one, other = (make(tmp_path / name, [[1.0, 2.0], [3.0, 4.0]]) for name in "ab")
    found = compare_blocks(open_block(one), open_block(other))
    assert found.same
    assert found.cosines.least == found.cosines.mean == 1
    assert found.cosines.largest_difference == 0
    assert compare_stores(tmp_path / "a", tmp_path / "b").same


def test_one_recipe_with_other_bytes_is_not_the_same(tmp_path):
    one, other = make(tmp_path / "a", [[1.0, 0.0], [3.0, 4.0]]), make(tmp_path / "b", [[1.0, 0.0], [3.0, 4.5]])
    assert one.name == other.name
    found = compare_blocks(open_block(one), open_block(other))
    assert not found.same
    assert not found.recipe
    assert found.cosines.largest_difference == 0.5
    stores = compare_stores(tmp_path / "a", tmp_path / "b")
    assert not stores.same
    assert stores.shared[one.name] == found


def test_items_are_compared_by_their_ids(store):
    first = make(store, [[1, 0], [0, 2], [1, 1], [5, 5], [7, 7], [0, 0]], list("abcdef"), masked="d")
    second = make(store, [[9, 9], [3, 4], [2, 0], [0, -2], [1, 1], [0, 0]], list("xcabdf"), masked="f", weights="v2")
    found = compare_blocks(open_block(first), open_block(second))
    assert found.shared == 5
    assert found.only == (["e"], ["x"])
    assert found.masked == (["d"], ["f"])
    assert set(found.recipe) == {"content", "encoder.weights"}
    assert found.recipe["encoder.weights"] == ("v1", "v2")
    # a: equal direction, 1; b: opposite, -1; c: (1, 1) against (3, 4), 7 / (5 sqrt 2)
    assert found.cosines.n_items == 3
    assert found.cosines.mean == pytest.approx((1 - 1 + 7 / 50**0.5) / 3, abs=1e-12)
    assert (found.cosines.least, found.cosines.item) == (pytest.approx(-1, abs=1e-12), "b")
    assert found.cosines.largest_difference == 4
    back = compare_blocks(open_block(second), open_block(first))
    assert (back.only, back.masked) == ((["x"], ["e"]), (["f"], ["d"]))


def test_many_rows_are_compared_in_parts(store, monkeypatch):
    monkeypatch.setattr("mmenc_plugin.features.compare.CHUNK", 3)
    values = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    other = values.flip(0).clone()
    other[9 - 7] *= -1  # item i7
    ids = [f"i{k}" for k in range(10)]
    one, two = make(store, values.tolist(), ids), make(store, other.tolist(), ids[::-1])
    found = compare_blocks(open_block(one), open_block(two)).cosines
    assert (found.n_items, found.item) == (10, "i7")
    assert found.mean == pytest.approx(0.8, abs=1e-6)


def test_rows_of_zeros_are_alike_and_two_widths_have_no_cosines(store):
    zeros, ones = make(store, [[0.0, 0.0]]), make(store, [[0.0, 0.0]], weights="v2")
    assert compare_blocks(open_block(zeros), open_block(ones)).cosines.mean == 1
    wide = make(store, [[1.0, 0.0, 0.0]])
    found = compare_blocks(open_block(zeros), open_block(wide))
    assert found.widths == (2, 3)
    assert found.cosines is None


def test_stores_name_the_blocks_of_one_alone(tmp_path):
    both, _ = (make(tmp_path / name, [[1.0]]) for name in "ab")
    mine, theirs = make(tmp_path / "a", [[2.0]], ids=["x"]), make(tmp_path / "b", [[3.0]], modality="text")
    found = compare_stores(tmp_path / "a", tmp_path / "b")
    assert found.only == ([mine.name], [theirs.name])
    assert list(found.shared) == [both.name]
    assert not found.same


# --- Delete -----------------------------------------------------------------------------------------


def test_a_deleted_block_is_gone_with_its_lock_and_no_other(store):
    gone, kept = make(store, [[1.0]]), make(store, [[1.0]], modality="text")
    (store / f"{gone.name}.lock").touch()
    (store / f"{gone.name}.new").mkdir()
    size = sum(path.stat().st_size for path in gone.iterdir())
    assert manage.delete(gone) == size
    assert sorted(store.iterdir()) == [kept]
    open_block(kept)


def test_a_block_that_is_being_written_is_not_deleted(store):
    folder = make(store, [[1.0]])
    with FileLock(store / f"{folder.name}.lock"), pytest.raises(StoreError, match="is in use: another process"):
        manage.delete(folder)
    open_block(folder)


def test_an_interrupted_deletion_leaves_no_damaged_block(store, monkeypatch):
    folder = make(store, [[1.0]])

    def interrupted(path, **_):
        if os.path.isdir(path):
            (path / "values.safetensors").unlink()
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(StoreError, match=r"cannot delete .*: Permission denied"):
        manage.delete(folder)
    monkeypatch.undo()
    assert manage.block_folders(store) == []
    assert [path.name for path in manage.leftovers(store)] == [f"{folder.name}.new"]


def test_leftovers_are_what_nobody_works_on(store):
    folder = make(store, [[1.0]])
    names = [f"{folder.name}-abc.shards", f"{folder.name}.new", f"{folder.name}.lock", "text-x-1.shards", "text-y.lock"]
    for name in names:
        if name.endswith(".lock"):
            (store / name).touch()
        else:
            (store / name).mkdir()
    (store / "text-x-1.shards" / "0000000000.lock").touch()
    assert [path.name for path in manage.leftovers(store)] == sorted(names)
    with FileLock(store / f"{folder.name}.lock"):  # whose block, pieces and lock are in use
        assert [path.name for path in manage.leftovers(store)] == ["text-x-1.shards", "text-y.lock"]
    with FileLock(store / "text-x-1.shards" / "0000000000.lock"):  # a piece that a process is at
        assert "text-x-1.shards" not in [path.name for path in manage.leftovers(store)]
        with pytest.raises(StoreError, match="is in use"):
            manage.delete(store / "text-x-1.shards")
    for path in manage.leftovers(store):
        manage.delete(path)
    assert list(store.iterdir()) == [folder]
    assert manage.leftovers(store / "none") == []


def test_older_blocks_are_found_by_the_day(store):
    old, new = make(store, [[1.0]]), make(store, [[1.0]], modality="text")
    os.utime(old, times=(time.time() - 3 * 86400,) * 2)
    assert manage.older_than(store, 2) == [old]
    assert manage.older_than(store, 4) == []
    assert manage.older_than(store, -1) == [old, new]
