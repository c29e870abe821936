"""Two processes with half a batch each train as one process with the whole batch does."""

import json
from pathlib import Path

import pytest
from test_live import shop as shop

# Both processes, and one alone, are forked from a parent that has imported everything.
DRIVER = """
import json, os, sys, traceback
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist
from pathlib import Path
from live_items import Shop, build
from mmenc_plugin import encoders
from mmenc_plugin.training.end_to_end import live_losses
from mmenc_plugin.types import ItemTable, TripletBatch

torch.set_num_threads(1)
(ids, texts, images, image_dir), uri, store, out, cases = json.loads(sys.argv[2])
shop = Shop(ItemTable(ids, texts, images, Path(image_dir)), uri, Path(store))
shop.tables(encoders.build(uri), ["image", "text"])  # the store is filled once

def work(name, batch, itc_weight, rank, world, path):
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{path}.meeting", rank=rank, world_size=world)
    live = shop.live(tune="full").double()
    live._stale = True
    live.refresh()
    model = build(name, shop, live).train()
    model.follow_features()
    torch.manual_seed(3)
    model.begin_epoch()
    share = TripletBatch(*(torch.tensor(rows).chunk(world)[rank] for rows in batch))
    parts = live_losses(model, share, itc_weight)
    nothing = sum(p.sum() for p in model.parameters()) * 0
    (sum(parts.values()) + nothing).backward()
    gradients = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    if world > 1:
        for gradient in gradients.values():
            dist.all_reduce(gradient)
            gradient /= world
    live.end_step()
    live.refresh()
    tables = {m: live.table(m) for m in live.modalities}
    torch.save({"gradients": gradients, "tables": tables}, f"{path}.{world}.{rank}")

for place, (name, batch, itc_weight) in enumerate(cases):
    children = []
    for world in (1, 2):
        for rank in range(world):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    work(name, batch, itc_weight, rank, world, f"{out}/{place}")
                    status = 0
                except Exception:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 3, (place, name)
for place, case in enumerate(cases):
    whole, *halves = (torch.load(f"{out}/{place}.{end}") for end in ("1.0", "2.0", "2.1"))
    scale = max(float(g.abs().max()) for n, g in whole["gradients"].items() if "encoders" in n)
    apart = max(float((g - half["gradients"][n]).abs().max()) for half in halves for n, g in whole["gradients"].items())
    tables = max(float((t - half["tables"][m]).abs().max()) for half in halves for m, t in whole["tables"].items())
    print("RESULT", json.dumps([scale, apart, tables]))
"""
ROW = {f"i{k}": 9 - k for k in range(9)}  # the host has the items in the opposite order
# Users, positives and negatives. The second half of the last batch has no picture at all; in the third the halves share
# their items.
BATCHES = [
    ("VBPR", [[1, 2, 3, 4], [2, 3, 8, 1], [6, 2, 1, 5]], 0.0),
    ("FREEDOM", [[1, 2, 3, 4], [2, 3, 8, 1], [6, 2, 1, 5]], 0.3),
    ("GRCN", [[1, 2, 1, 2], [2, 3, 2, 3], [6, 4, 6, 4]], 0.0),
    ("VBPR", [[1, 1, 1, 2], [ROW["i1"], ROW["i3"], ROW["i2"], ROW["i2"]], [1, 3, ROW["i2"], ROW["i2"]]], 0.2),
    (
        "VBPR",
        [[1, 2], [ROW["i2"], ROW["i2"]], [ROW["i2"], ROW["i2"]]],
        0.0,
    ),  # nobody has a picture, and a tie has no gradient
]


@pytest.fixture
def results(shop, tmp_path, python):
    items = shop.items
    table = [items.ids, items.texts, items.images, str(items.image_dir)]
    arguments = [table, shop.uri, str(shop.store), str(tmp_path), BATCHES]
    done = python(DRIVER, Path(__file__).parent, json.dumps(arguments), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT")]


def test_gradients_of_two_halves_are_those_of_the_whole_batch(results):
    assert len(results) == len(BATCHES)
    assert min(scale for scale, *_ in results[:-1]) > 1e-6
    for scale, apart, tables in results:
        assert apart < 1e-10 * max(scale, 1)
        assert tables < 1e-12
