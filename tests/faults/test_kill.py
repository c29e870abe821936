"""Extraction killed at random moments, alone and as one of two ranks: what follows ends with the undisturbed bytes."""

import hashlib
import json

import pytest

MOMENTS = 30

# Forks processes that extract, from a parent that has imported everything, so that a process costs milliseconds.
DRIVER = """
import hashlib, importlib, json, os, random, shutil, signal, sys, time
from pathlib import Path
import sklearn.feature_extraction.text
import torch
from mmenc_plugin.encoders.classic import Classic
from mmenc_plugin.types import ItemTable

module = importlib.import_module("mmenc_plugin.features.extract")
module.SHARD = 4
ids, texts, images, image_dir, folder, modality, ranks, moments = json.loads(sys.argv[1])
items, folder = ItemTable(ids, texts, images, Path(image_dir)), Path(folder)

def extract(store):
    torch.set_num_threads(1)
    module.extract(items, Classic(), modality, store, batch_size=2, show_progress=False)

def start(store, rank):
    child = os.fork()
    if child == 0:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
        status = 1
        try:
            extract(store)
            status = 0
        finally:
            os._exit(status)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def digests(store):
    (block,) = [path for path in store.iterdir() if path.is_dir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(block.iterdir())}

def pieces(store):
    return len(list(store.glob("*.shards/*.safetensors")))

def wait(store, wanted):
    '''Until so many pieces are there, or the block already, and a moment more.'''
    while pieces(store) < wanted and not list(store.glob("*/manifest.json")):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, whole / 10))

began = time.monotonic()
assert end(start(folder / "undisturbed", 0)) == 0
whole, chance = time.monotonic() - began, random.Random(0)
expected, killed, left = digests(folder / "undisturbed"), 0, set()
for moment in range(moments):
    store = folder / f"store{moment}"
    children = [start(store, rank) for rank in range(ranks)]
    wait(store, moment % 15)  # of 15
    victims = children if moment % 2 else children[:1]
    for child in victims:
        os.kill(child, signal.SIGKILL)
    killed += sum(end(child) == -9 for child in victims)
    left.add(pieces(store))
    for child in children[len(victims):]:
        assert end(child) == 0  # the other rank does the dead one's part
    if len(victims) == ranks:
        assert end(start(store, 0)) == 0
    assert digests(store) == expected, moment
    shutil.rmtree(store)
print(json.dumps([killed, len(left), expected]))
"""


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_process_that_is_killed_at_any_moment_does_no_harm(make_items, tmp_path, python, ranks, modality):
    items = make_items(60)
    damaged = items.image_dir / "7.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    images = ["none.png" if row == 11 else name for row, name in enumerate(items.images)]
    moments = MOMENTS if modality == "image" else 10
    settings = [items.ids, items.texts, images, str(items.image_dir), str(tmp_path), modality, ranks, moments]
    result = python(DRIVER, json.dumps(settings), OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    killed, stages, digests = json.loads(result.stdout)
    assert killed >= moments / 2  # the others had ended already
    assert modality == "text" or stages >= 4  # it was killed early and late
    assert digests["values.safetensors"] != hashlib.sha256(b"").hexdigest()
