"""An epoch of a model at the size of a catalogue: seconds of its parts, and peak memory.

    python -m tests.benchmarks.catalogue [--model=FREEDOM] [--users=100000] [--items=1000000] [--folder=DIR]

Made-up interactions of long-tailed popularity and features of `--width`, in RecBole's files; then one epoch of
training and one full ranking of the validation users by RecBole's own run, as a user starts it. With --folder the
files, the features and what is derived from them stay for the next run. The graph of a million items takes most of
the time: 10^12 cosines.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

HELD_OUT = 0.02  # share of the interactions in the validation set, as much in the test set


def write_data(folder: Path, args: argparse.Namespace) -> None:
    """The data set `catalogue`: .inter, .item and features.npy of 100 soft kinds of items."""
    random, folder = np.random.default_rng(0), folder / "catalogue"
    if (folder / "features.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    popularity = 1 / np.arange(10, args.items + 10) ** 0.7
    users = random.integers(args.users, size=args.interactions)
    items = random.permutation(args.items)[
        random.choice(args.items, args.interactions, p=popularity / popularity.sum())
    ]
    users = np.concatenate([users, random.integers(args.users, size=args.items)])
    items = np.concatenate([items, np.arange(args.items)])  # every item was taken once at least
    pairs = np.unique(np.stack([users, items]), axis=1)
    np.savetxt(folder / "catalogue.inter", pairs.T, "u%d\ti%d", header="user_id:token\titem_id:token", comments="")
    ids = np.arange(args.items)
    np.savetxt(folder / "catalogue.item", ids, "i%d", header="item_id:token", comments="")
    centres = random.standard_normal((100, args.width), dtype=np.float32)
    noise = random.standard_normal((args.items, args.width), dtype=np.float32)
    np.save(folder / "features.npy", centres[ids % 100] + noise)


def timed(kind: Any, name: str, seconds: dict[str, float]) -> None:
    """Let a method of a class add up the seconds that it takes."""
    original = getattr(kind, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    setattr(kind, name, wrapped)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="FREEDOM")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=2_000_000, help="beside one for each item")
    parser.add_argument("--width", type=int, default=64, help="of the features, and of the embeddings")
    parser.add_argument("--train_batch_size", type=int, default=65_536)
    parser.add_argument("--folder", help="for the files; a temporary one by default")
    args, sys.argv = parser.parse_args(), sys.argv[:1]

    from recbole.quick_start import run_recbole

    from mmenc_plugin.hosts.recbole.adapter import recbole_class
    from mmenc_plugin.hosts.recbole.trainer import MultimodalTrainer

    with ExitStack() as stack:
        folder = Path(args.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        write_data(folder, args)
        seconds: dict[str, float] = {}
        timed(recbole_class(args.model), "__init__", seconds)
        for part in ("_train_epoch", "evaluate"):
            timed(MultimodalTrainer, part, seconds)
        settings = {
            "data_path": str(folder), "encoder": f"npy:{folder}/catalogue/features.npy?order=items",
            "modalities": ["image"], "embedding_size": args.width, "epochs": 1, "topk": [20], "metrics": ["Recall"],
            "valid_metric": "Recall@20", "train_batch_size": args.train_batch_size, "state": "ERROR",
            "eval_args": {"split": {"RS": [1 - 2 * HELD_OUT, HELD_OUT, HELD_OUT]}},
            "feature_dir": str(folder / "features"), "checkpoint_dir": str(folder / "saved"),
        }  # fmt: skip
        started = time.perf_counter()
        run_recbole(model=args.model, dataset="catalogue", config_dict=settings, saved=False)
        whole = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.model}, {args.users:,} users, {args.items:,} items: peak {peak:.1f} GiB")
    print(f"model and graphs {seconds['__init__']:.0f} s, epoch {seconds['_train_epoch']:.0f} s", end=", ")
    print(f"two rankings {seconds['evaluate']:.0f} s, all {whole:.0f} s")


if __name__ == "__main__":
    main()
