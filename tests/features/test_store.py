"""The feature store: what is written comes back, and what is damaged is refused."""

import errno
import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from mmenc_plugin.encoders import EncoderSpec
from mmenc_plugin.errors import StoreError
from mmenc_plugin.features import Recipe, open_block
from mmenc_plugin.features.store import write_block

IDS = ["b", "a", "Größe 3/4"]
TENSORS = {
    "values": torch.tensor([[1.0, -0.0], [0.0, 0.0], [1e-40, 3e38]]),
    "present": torch.tensor([True, False, True]),
}
REJECTED = {"a": "truncated or damaged: 'ä'"}
SPEC = EncoderSpec("mine", "net", "v1", "", {"image": 2}, {"image": {"size": 8}})
RECIPE = Recipe.of(SPEC, "image", len(IDS), "content", 1024, 32)


@pytest.fixture
def folder(tmp_path):
    """A block."""
    write_block(tmp_path / "store", RECIPE, IDS, TENSORS, REJECTED)
    return tmp_path / "store" / RECIPE.key


def rewrite_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_file(folder, name, data):
    """Put other bytes into a block, and into its manifest too."""
    from mmenc_plugin.data.digests import file_digest

    (folder / name).write_bytes(data)
    described = {"bytes": len(data), "sha256": file_digest(folder / name)}
    rewrite_manifest(folder, lambda manifest: manifest["files"].__setitem__(name, described))


def test_a_block_comes_back_as_it_was_written(folder):
    block = open_block(folder)
    assert block.ids == IDS
    assert block.values.dtype == torch.float32
    assert torch.equal(block.values.view(torch.int32), TENSORS["values"].view(torch.int32))
    assert torch.equal(block.present, TENSORS["present"])
    assert block.rejected == REJECTED
    assert block.recipe == RECIPE.as_dict()
    assert block.folder == folder


def test_a_block_is_its_folder_and_nothing_beside(folder):
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    names = {"values.safetensors", "ids.json", "rejected.json", "manifest.json"}
    assert {path.name for path in folder.iterdir()} == names


def test_the_same_block_is_the_same_bytes(folder, tmp_path):
    write_block(tmp_path / "other", RECIPE, IDS, TENSORS, REJECTED)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "other" / RECIPE.key / path.name).read_bytes()


def test_a_block_may_move(folder, tmp_path):
    moved = folder.rename(tmp_path / "moved")
    assert open_block(moved).ids == IDS


def test_a_folder_left_by_an_interrupted_run_is_replaced(tmp_path):
    part = tmp_path / f"{RECIPE.key}.new"
    part.mkdir()
    (part / "values.safetensors").write_bytes(b"half")
    (part / "strange").write_bytes(b"")
    write_block(tmp_path, RECIPE, IDS, TENSORS, REJECTED)
    assert open_block(tmp_path / RECIPE.key).ids == IDS
    assert not part.exists()
    assert not (tmp_path / RECIPE.key / "strange").exists()


DAMAGED = r"the features in .* are damaged: .*{}.* Delete that folder and run again"


@pytest.mark.parametrize("name", ["values.safetensors", "ids.json", "rejected.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(StoreError, match=DAMAGED.format(f"{name} is missing")):
        open_block(folder)


@pytest.mark.parametrize("name", ["values.safetensors", "ids.json", "rejected.json"])
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_file_is_named_with_both_sizes(folder, name, keep):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:keep])
    expected = f"{name} has {len(data[:keep]):,} bytes where the manifest says {len(data)}"
    with pytest.raises(StoreError, match=DAMAGED.format(expected)):
        open_block(folder)


@pytest.mark.parametrize("name", ["values.safetensors", "ids.json", "rejected.json"])
def test_a_changed_byte_is_found(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(StoreError, match=DAMAGED.format(f"{name} is not the file.*sha256 differs")):
        open_block(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"recipe": {}}', '{"files": {}, "recipe": {}, "more": 1}'])
def test_a_manifest_that_is_none_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=DAMAGED.format("manifest.json")):
        open_block(folder)


@pytest.mark.parametrize("text", ['{"files": [], "recipe": {}}', '{"files": null, "recipe": null}'])
def test_a_manifest_of_other_types_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=DAMAGED.format("manifest.json")):
        open_block(folder)


def test_a_missing_manifest_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(StoreError, match=DAMAGED.format("manifest.json cannot be read")):
        open_block(folder)


def test_a_manifest_that_does_not_know_a_file_is_refused(folder):
    rewrite_manifest(folder, lambda manifest: manifest["files"].pop("ids.json"))
    with pytest.raises(StoreError, match=DAMAGED.format("ids.json")):
        open_block(folder)


class Bomb:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
def test_a_pickle_in_place_of_the_values_is_refused_and_not_run(folder, tmp_path, kind):
    bomb, path = Bomb(tmp_path / "was_run"), tmp_path / "values"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"values": bomb}))
    elif kind == "torch":
        torch.save({"values": bomb}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(bomb))
    replace_file(folder, "values.safetensors", path.read_bytes())
    with pytest.raises(StoreError, match=DAMAGED.format("not a safetensors file.*pickles are refused")):
        open_block(folder)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "tensors",
    [
        {"values": torch.zeros(2, 2), "present": torch.ones(3, dtype=torch.bool)},
        {"values": torch.zeros(3, 2), "present": torch.ones(2, dtype=torch.bool)},
        {"values": torch.zeros(4, 2), "present": torch.ones(4, dtype=torch.bool)},
    ],
    ids=["values", "marks", "both"],
)
def test_ids_and_rows_that_do_not_go_together_are_refused(folder, tmp_path, tensors):
    save_file(tensors, tmp_path / "values")
    replace_file(folder, "values.safetensors", (tmp_path / "values").read_bytes())
    with pytest.raises(StoreError, match=DAMAGED.format("3 ids, . rows of values and . marks do not go together")):
        open_block(folder)


def test_a_safetensors_file_of_something_else_is_refused(folder, tmp_path):
    save_file({"weight": torch.zeros(3, 2)}, tmp_path / "values")
    replace_file(folder, "values.safetensors", (tmp_path / "values").read_bytes())
    with pytest.raises(StoreError, match="are damaged"):
        open_block(folder)


def test_too_few_ids_are_refused(folder):
    replace_file(folder, "ids.json", b'["a", "b"]')
    with pytest.raises(StoreError, match=DAMAGED.format("2 ids, 3 rows")):
        open_block(folder)


def test_no_folder_is_no_block(tmp_path):
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        open_block(tmp_path / "none")


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*file.*feature_dir"):
        write_block(tmp_path / "file" / "store", RECIPE, IDS, TENSORS, REJECTED)


def test_a_full_disk_leaves_no_block(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_block(tmp_path, RECIPE, IDS, TENSORS, REJECTED)
    monkeypatch.undo()
    assert not (tmp_path / RECIPE.key).exists()
    write_block(tmp_path, RECIPE, IDS, TENSORS, REJECTED)
    assert open_block(tmp_path / RECIPE.key).ids == IDS
