"""Extraction that is stopped, killed, short of room or asked for twice at once: the same bytes in the end."""

import dataclasses
import errno
import hashlib
import importlib
import json
import os
import subprocess
import sys
import time

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from mmenc_plugin.encoders.classic import Classic
from mmenc_plugin.errors import StoreError
from mmenc_plugin.features import extract

N, SHARD, BATCH = 40, 8, 4
MISSING, DAMAGED = {1, 3, 4}, {6, 17, 33}  # rows
WORK = N - len(MISSING)  # contents; a damaged picture is one too, until it is decoded

# Extracts in a process of its own; before its (stop + 1)-th batch it makes the file `stuck` and waits to be killed.
DRIVER = """
import importlib, json, sys, time
from pathlib import Path
from mmenc_plugin.encoders.classic import Classic
from mmenc_plugin.types import ItemTable

ids, texts, images, image_dir, store, shard, batch, stop, folder = json.loads(sys.argv[1])
folder, calls = Path(folder), 0

class Slow(Classic):
    def embed(self, modality, inputs):
        global calls
        calls += 1
        if calls > stop:
            (folder / "stuck").touch()
            time.sleep(600)
        return super().embed(modality, inputs)

module = importlib.import_module("mmenc_plugin.features.extract")
module.SHARD = shard
name = sys.argv[2]
(folder / f"ready{name}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
block = module.extract(ItemTable(ids, texts, images, Path(image_dir)), Slow(), "image", store, batch_size=batch)
print(json.dumps([calls, str(block.folder), block.values.double().sum().item()]))
"""


class Spy(Classic):
    """classic, which counts the pictures it was given, and may fail."""

    def __init__(self, fail_after=10**9):
        super().__init__()
        self.count, self.fail_after = 0, fail_after

    def embed(self, modality, inputs):
        if self.count >= self.fail_after:
            raise RuntimeError("the encoder failed")
        self.count += len(inputs)
        return super().embed(modality, inputs)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(importlib.import_module("mmenc_plugin.features.extract"), "SHARD", SHARD)


@pytest.fixture
def items(make_items):
    made = make_items(N)
    for row in DAMAGED:
        path = made.image_dir / made.images[row]
        path.write_bytes(path.read_bytes()[:200] + b"%d" % row)
    images = ["none.png" if row in MISSING else name for row, name in enumerate(made.images)]
    return dataclasses.replace(made, images=images)


def fit(shards):
    """Pictures that can be decoded in so many shards, from the first."""
    contents = [row for row in range(N) if row not in MISSING]
    return len(set(contents[: shards * SHARD]) - DAMAGED)


def left(shards):
    """Pictures that can be decoded after so many shards."""
    return WORK - len(DAMAGED) - fit(shards)


def run(items, store, spy=None):
    return extract(items, spy or Spy(), "image", store, batch_size=BATCH, show_progress=False)


@pytest.fixture
def expected(items, tmp_path):
    """name -> sha256 of the files of a block that nothing disturbed."""
    return digests(run(items, tmp_path / "undisturbed").folder)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def shards(store):
    return sorted(store.glob("*.shards/*.safetensors"))


def interrupted(items, store, finished):
    """A store in which the encoder failed after that many shards."""
    with pytest.raises(RuntimeError, match="the encoder failed"):
        run(items, store, Spy(fail_after=fit(finished)))
    return store


def start(items, store, folder, stop, name=""):
    settings = [items.ids, items.texts, items.images, str(items.image_dir), str(store), SHARD, BATCH, stop, str(folder)]
    command = [sys.executable, "-c", DRIVER, json.dumps(settings), name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, *processes, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not appeared"
        for process in processes:
            assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_an_extraction_that_is_killed_goes_on_and_ends_with_the_same_bytes(items, tmp_path, expected):
    store = tmp_path / "store"
    (tmp_path / "go").touch()
    process = start(items, store, tmp_path, stop=5)  # two shards and a half
    wait_for(tmp_path / "stuck", process)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert [path.name for path in shards(store)] == ["0000000000.safetensors", "0000000008.safetensors"]
    spy = Spy()
    block = run(items, store, spy)
    assert spy.count == left(2)
    assert len(block.rejected) == len(MISSING | DAMAGED)
    assert digests(block.folder) == expected
    assert not shards(store)


def test_two_processes_at_once_make_one_block(items, tmp_path, expected):
    store = tmp_path / "store"
    both = [start(items, store, tmp_path, stop=10**9, name=name) for name in "ab"]
    for name in "ab":
        wait_for(tmp_path / f"ready{name}", *both)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    one, other = (json.loads(out) for out, _ in outputs)
    assert one[0] + other[0] == -(-WORK // BATCH)
    assert one[1:] == other[1:]
    (folder,) = [path for path in store.iterdir() if path.is_dir()]
    assert digests(folder) == expected


@pytest.mark.parametrize("finished", [0, 1, 3, 4])
def test_an_encoder_that_fails_loses_no_finished_shard(items, tmp_path, expected, finished):
    store, spy = interrupted(items, tmp_path / "store", finished), Spy()
    assert len(shards(store)) == finished
    block = run(items, store, spy)
    assert spy.count == left(finished)
    assert digests(block.folder) == expected


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(b"\x80\x04garbage" * 50)


def remove(path):
    path.unlink()


def unmarked(path):
    """A readable file, but without the mark of a complete one."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("values", "present")}
    save_file(tensors, path)


def other_names(path):
    with safe_open(path, "pt") as file:
        save_file({"features": file.get_tensor("values")}, path, metadata={"complete": "yes"})


@pytest.mark.parametrize("damage", [truncate, empty, garbage, remove, unmarked, other_names])
def test_a_damaged_shard_is_made_again_and_no_other(items, tmp_path, expected, damage):
    store, spy = interrupted(items, tmp_path / "store", 3), Spy()
    damage(shards(store)[1])
    block = run(items, store, spy)
    assert spy.count == left(3) + fit(2) - fit(1)
    assert digests(block.folder) == expected


def test_what_a_killed_process_leaves_lying_about_does_no_harm(items, tmp_path, expected):
    store = interrupted(items, tmp_path / "store", 3)
    folder = shards(store)[0].parent
    (folder / "0000000024.safetensors.99999.part").write_bytes(b"half")
    new = store / (folder.name.rpartition("-")[0] + ".new")
    new.mkdir()
    (new / "values.safetensors").write_bytes(b"half")
    block = run(items, store)
    assert digests(block.folder) == expected
    assert not new.exists()
    assert not folder.exists()


@pytest.mark.parametrize("writes", [1, 3, 6, 8])
def test_a_full_disk_keeps_what_was_finished(items, tmp_path, expected, monkeypatch, writes):
    """The disk fills up at the first shard, at another, after the last one, in the block's own files."""
    store, fsync, calls = tmp_path / "store", os.fsync, []

    def filling(file):
        calls.append(file)
        if len(calls) >= writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr("os.fsync", filling)
    with pytest.raises(StoreError, match=r"No space left on device.*finished before is kept.*feature_dir"):
        run(items, store)
    monkeypatch.undo()
    assert not [path for path in store.rglob("*") if path.name.endswith(".part")]
    finished = min(max(writes - 1, 0), -(-WORK // SHARD))
    assert len(shards(store)) == finished
    monkeypatch.setattr(importlib.import_module("mmenc_plugin.features.extract"), "SHARD", SHARD)
    spy = Spy()
    block = run(items, store, spy)
    assert spy.count == left(finished)
    assert digests(block.folder) == expected


def test_a_store_that_cannot_be_made_is_an_error_before_any_work(items, tmp_path):
    (tmp_path / "file").write_text("")
    spy = Spy()
    with pytest.raises(StoreError, match=r"cannot write to .*file/store.*feature_dir"):
        run(items, tmp_path / "file" / "store", spy)
    with pytest.raises(StoreError, match=r"cannot write to .*file"):
        run(items, tmp_path / "file", spy)
    assert spy.count == 0


def test_a_system_error_of_the_encoder_is_not_taken_for_the_stores(items, tmp_path):
    class Broken(Classic):
        def embed(self, modality, inputs):
            raise OSError("the graphics card fell off the bus")

    with pytest.raises(OSError, match="fell off the bus") as caught:
        run(items, tmp_path / "store", Broken())
    assert not isinstance(caught.value, StoreError)
    assert "cannot write to" not in str(caught.value)


def test_a_damaged_block_is_refused_and_made_anew_once_deleted(items, tmp_path, expected):
    block = run(items, tmp_path / "store")
    truncate(block.folder / "values.safetensors")
    with pytest.raises(StoreError, match="Delete that folder and run again"):
        run(items, tmp_path / "store")
    for path in block.folder.iterdir():
        path.unlink()
    block.folder.rmdir()
    assert digests(run(items, tmp_path / "store").folder) == expected
