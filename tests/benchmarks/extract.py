"""Pictures a second of the extraction, against the bare forward pass and the loops that people write.

    python tests/benchmarks/extract.py [--encoder=URI] [--precision=bfloat16] [--pictures=256] [--device=cuda]

Every side runs in each round, in turn; the ratios are of the medians over the rounds. The limit is the same
encoder's forward pass over pixels that lie ready in memory. Nothing is reported unless all sides give the same
features (the fast preparation: features of a cosine over .999).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmenc_plugin import encoders
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.features import PictureOptions, extract
from mmenc_plugin.types import ItemTable

BATCH = 32


def make_pictures(folder: Path, n: int) -> ItemTable:
    """JPEGs of 500 x 500 pixels, about 90 kB each: smooth shapes under grain."""
    rng = np.random.default_rng(0)
    for k in range(n):
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((500, 500), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.normal(0, 9, (500, 500, 1)).astype(np.int16)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{k}.jpg", quality=90)
    names = [f"{k}.jpg" for k in range(n)]
    return ItemTable(names, [""] * n, names, folder)


def paths(items: ItemTable) -> list[Path]:
    """Where the pictures lie."""
    return [items.image_dir / name for name in items.images]


def bare_forward(encoder: Encoder, pixels: Tensor) -> Tensor:
    """The limit: normalised pixels in memory, nothing but the network."""
    with torch.inference_mode():
        return torch.cat([encoder.encode_image(batch).float().cpu() for batch in pixels.split(BATCH)])


def plain_loop(encoder: Encoder, items: ItemTable, size: int) -> Tensor:
    """Open, preprocess and encode a batch after the other, in one process."""
    out, names = [], paths(items)
    with torch.inference_mode():
        for start in range(0, len(names), size):
            pictures = [Image.open(path).convert("RGB") for path in names[start : start + size]]
            pixels = encoder.preprocess_images(pictures).to(encoder.device, next(encoder.parameters()).dtype)
            out.append(encoder.encode_image(pixels).float().cpu())
    return torch.cat(out)


def sides(args: argparse.Namespace, items: ItemTable, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Name -> a run that gives the features [N, D]."""
    exact, fast = (encoders.build(args.encoder, args.device, args.precision, how) for how in ("exact", "fast"))
    with torch.inference_mode():
        prepared = torch.stack([exact.prepare_file(path) for path in paths(items)])
        pixels = exact.normalize(prepared.to(args.device)).to(next(exact.parameters()).dtype)
    cached = PictureOptions(cache=folder / "cache")

    def ours(encoder: Encoder, pictures: PictureOptions | None = None) -> Tensor:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            block = extract(items, encoder, "image", store, batch_size=BATCH, pictures=pictures, show_progress=False)
            return block.values.clone()

    ours(exact, cached)  # fills the cache
    return {
        "bare forward pass": lambda: bare_forward(exact, pixels),
        "mmenc extract, exact": lambda: ours(exact),
        "mmenc extract, fast": lambda: ours(fast),
        "mmenc extract, exact, pictures cached": lambda: ours(exact, cached),
        f"plain loop, {BATCH} at a time": lambda: plain_loop(exact, items, BATCH),
        "plain loop, 1 at a time": lambda: plain_loop(exact, items, 1),
    }


def check(features: dict[str, Tensor], precision: str) -> None:
    """Stop unless all sides say the same."""
    expected = features["bare forward pass"]
    for name, values in features.items():
        near = torch.nn.functional.cosine_similarity(values, expected).min().item()
        if near < (0.999 if "fast" in name or precision == "bfloat16" else 0.999999):
            raise SystemExit(f"no report: the features of '{name}' are others (cosine {near:.6f}).")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="openclip:ViT-B-32/random")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        items = make_pictures(Path(folder), args.pictures)
        runs = sides(args, items, Path(folder))
        check({name: run() for name, run in runs.items()}, args.precision)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    print(
        f"{args.encoder}, {args.precision}, {args.device}, {torch.get_num_threads()} threads, {args.pictures} pictures"
    )
    limit = statistics.median(seconds["bare forward pass"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        spread = f"{args.pictures / max(taken):.1f} to {args.pictures / min(taken):.1f}"
        print(f"{name:38} {args.pictures / median:7.1f} pictures/s ({spread})   ratio {limit / median:.3f}")


if __name__ == "__main__":
    main()
