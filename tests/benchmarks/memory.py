"""Peak memory and time of an extraction at two sizes of the catalogue, with an encoder that costs nothing.

    python tests/benchmarks/memory.py [--small=10000] [--large=1000000] [--width=512]

Each size runs in a process of its own. What must be held is the table of the items itself (ids and texts) and a
digest of each; the features, width * 4 bytes an item, must not be. The last line is the growth per item beyond the
table's, against the bytes of an item's features.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mmenc_plugin.encoders.classic import Classic
from mmenc_plugin.features import extract
from mmenc_plugin.types import ItemTable


class Trivial(Classic):
    """Numbers of a text's first bytes, repeated: nearly no work."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spec.width["text"] = width
        self._width = width

    def embed(self, modality: str, inputs: list[str]) -> torch.Tensor:
        """Texts -> [B, width]."""
        head = torch.tensor([[float(ord(c)) for c in text[:8].ljust(8)] for text in inputs])
        return head.repeat(1, self._width // 8)


def peak() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(n: int, width: int) -> dict[str, float]:
    """Extract n items; what it took, checked on a few rows."""
    items = ItemTable([f"i{k}" for k in range(n)], [f"{k:08d} item" for k in range(n)], [""] * n, Path())
    table, encoder, start = peak(), Trivial(width), time.perf_counter()
    with tempfile.TemporaryDirectory() as store:
        block = extract(items, encoder, "text", store, batch_size=256, show_progress=False)
        seconds = time.perf_counter() - start
        for row in (0, n // 2, n - 1):
            expected = encoder.embed("text", [items.texts[row]])[0]
            if not torch.equal(block.values[row], expected):
                raise SystemExit(f"no report: row {row} is not its item's.")
        return {"items": n, "table": table, "peak": peak(), "seconds": seconds}


def main() -> None:
    """Measure both sizes and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.width)))
        return
    rows = []
    for n in (args.small, args.large):
        command = [sys.executable, __file__, f"--one={n}", f"--width={args.width}"]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for row in rows:
        print(
            f"{row['items']:>9,} items: peak {row['peak']:6.0f} MB, of which the item table and the libraries "
            f"{row['table']:6.0f} MB; {row['seconds']:.1f} s"
        )
    small, large = rows
    grown = (large["peak"] - large["table"] - small["peak"] + small["table"]) * 2**20 / (args.large - args.small)
    print(f"growth an item {grown:.0f} bytes; its features {4 * args.width} bytes; ratio {grown / 4 / args.width:.3f}")


if __name__ == "__main__":
    main()
