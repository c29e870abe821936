"""A training step of VBPR with its encoder: ours against the plain loop, in one run.

    python tests/benchmarks/end_to_end.py [--encoder=URI] [--items=2000] [--batch=256] [--loss=BPR|in_batch] ...

Ours encodes the different items of a batch once, prepares the pictures of the next batch meanwhile, and computes the
loss with the kernel. The plain loop opens and encodes the item of every place of the batch within the step, and
computes the loss from whole tensors. Both have the same parameters, batches and optimizer. First the losses and all
gradients are compared: where they differ there is no report. Then the sides take turns, a batch each. Positives are
drawn by popularity (the n-th item as often as 1 / n^0.8), negatives evenly; pictures are JPEG files.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmenc_plugin import encoders, models
from mmenc_plugin.data import media
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.features import AlignedFeatures, PictureOptions
from mmenc_plugin.features.live import LiveFeatures, LiveOptions
from mmenc_plugin.models.vbpr import VBPR
from mmenc_plugin.training import apply_tuning
from mmenc_plugin.training.end_to_end import live_losses
from mmenc_plugin.training.measure import peak
from mmenc_plugin.types import Interactions, ItemTable, TripletBatch

N_USERS = 1000


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="openclip:ViT-Ti-8-64/random", help="URI (default: %(default)s)")
    parser.add_argument("--modalities", default="image", help="image, text or image,text (default: %(default)s)")
    parser.add_argument("--loss", default="BPR", choices=("BPR", "in_batch"))
    parser.add_argument("--items", type=int, default=2000, help="in the catalogue (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="interactions in a step (default: %(default)s)")
    parser.add_argument("--side", type=int, default=300, help="of the pictures, in pixels (default: %(default)s)")
    parser.add_argument("--tune", default="full", help="what of the encoder is trained (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="that are timed, for each side (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="threads that prepare pictures; 0 for one a core")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--autocast", action="store_true", help="bfloat16 in both; losses are compared without it")
    args = parser.parse_args(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device=cuda: torch finds no GPU here; run without it for the CPU.")
    return args


@dataclass
class Data:
    """A catalogue and batches.

    Attributes:
        items: of the catalogue.
        interactions: of the training part.
        batches: on the device.
    """

    items: ItemTable
    interactions: Interactions
    batches: list[TripletBatch]


def make_data(folder: Path, args: argparse.Namespace) -> Data:
    """Draw pictures, texts and batches."""
    rng = np.random.default_rng(0)
    for k in range(args.items):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        coarse.resize((args.side, args.side), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg", quality=90)
    ids = [str(k) for k in range(args.items)]
    texts = [" ".join(f"word{n}" for n in rng.integers(0, 999, 20)) for _ in ids]
    popular = torch.arange(1, args.items + 1).double() ** -0.8
    positives = torch.multinomial(popular, args.batch * (args.steps + 2), replacement=True)
    users, negatives = torch.randint(N_USERS, positives.shape), torch.randint(args.items, positives.shape)
    columns = [rows.to(args.device).split(args.batch) for rows in (users, positives, negatives)]
    interactions = Interactions(users, positives, N_USERS, args.items)
    table = ItemTable(ids, texts, [f"{k}.jpg" for k in ids], folder)
    return Data(table, interactions, [TripletBatch(*parts) for parts in zip(*columns, strict=True)])


class Side:
    """One way to do a step."""

    def __init__(self, data: Data, args: argparse.Namespace, store: Path) -> None:
        torch.manual_seed(0)
        self.data, self.device = data, torch.device(args.device)
        self.modalities = args.modalities.split(",")
        self.encoder: Encoder = encoders.build(args.encoder, args.device)
        apply_tuning(self.encoder, args.tune, self.modalities)
        present = torch.ones(args.items, dtype=torch.bool)
        tables = {
            m: AlignedFeatures(torch.zeros(args.items, self.encoder.spec.width[m]), present) for m in self.modalities
        }
        options = LiveOptions(scaling="none", pictures=PictureOptions(args.workers))
        self.live = LiveFeatures(data.items, tables, dict.fromkeys(self.modalities, self.encoder), store, options)
        self.model = models.build("VBPR", {"loss_type": args.loss}, self.live, data.interactions).to(args.device)
        assert isinstance(self.model, VBPR)
        self.vbpr = self.model
        for parameter in self.vbpr.content_bias.parameters():  # it starts at zero, and would pass nothing on
            torch.nn.init.normal_(parameter, std=0.01)
        self.autocast, self.loss_type = args.autocast, args.loss
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], fused=True)

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """The parts of the loss."""
        raise NotImplementedError

    def gradients(self, batch: TripletBatch) -> dict[str, Tensor]:
        """Loss, and the gradient of each parameter, by name."""
        loss = torch.stack(list(self.losses(batch).values())).sum()
        loss.backward()
        found = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad()
        self.live.end_step()
        return {"loss": loss.detach(), **found}

    def step(self, number: int) -> None:
        """The whole step over a batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = torch.stack([part.float() for part in self.losses(self.data.batches[number]).values()]).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.live.end_step()


class Ours(Side):
    """Different items once, pictures ahead, the kernel."""

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """See Side."""
        return live_losses(self.model, batch)

    def step(self, number: int) -> None:
        """See Side; the next batch's pictures are begun first."""
        following = self.data.batches[number + 1]
        self.live.prepare(self.model.items_read(self.data.batches[number]))
        self.live.prepare(self.model.items_read(following))
        super().step(number)


class Plain(Side):
    """Every place of the batch opened and encoded, whole tensors."""

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """See Side."""
        items = batch.positives if self.loss_type == "in_batch" else torch.cat([batch.positives, batch.negatives])
        model = self.vbpr
        features = {m: self.encoder(m, self._inputs(m, items.tolist())) for m in self.modalities}
        content = sum(model.projection.matrices[m](rows) for m, rows in features.items())
        content_bias = sum(model.content_bias.matrices[m](rows) for m, rows in features.items())
        ids, id_bias = model.item_id(items), model.item_bias(items)
        users = torch.cat([model.user_id(batch.users), model.user_content(batch.users)], dim=1)
        rows, bias = torch.cat([ids, content], dim=1), (id_bias + content_bias)[:, 0]
        penalty = (users.square().sum() + ids.square().sum() + id_bias.square().sum()) / (2 * len(users))
        main = self._softmax(users, rows, bias, batch) if self.loss_type == "in_batch" else _bpr(users, rows, bias)
        return {"main": main, "reg": model.reg_weight * penalty}

    def _inputs(self, modality: str, items: list[int]) -> list[Any]:
        table = self.data.items
        if modality == "text":
            return [table.texts[item] for item in items]
        return [self.encoder.prepare_file(media.resolve(table.image_dir, table.images[item])) for item in items]

    def _softmax(self, users: Tensor, rows: Tensor, bias: Tensor, batch: TripletBatch) -> Tensor:
        """Over the [B, B] matrix: a column for each place, of which the first of an item counts."""
        places = batch.positives
        inter = self.data.interactions
        taken = torch.zeros(N_USERS, inter.n_items, dtype=torch.bool)
        taken[inter.users, inter.items] = True
        shares = torch.bincount(inter.items, minlength=inter.n_items).double() / len(inter.items)
        chance = torch.log(-torch.expm1(len(places) * torch.log1p(-shares))).to(rows)
        same = places[:, None] == places[None, :]
        first = same.int().argmax(1)
        is_first = first == torch.arange(len(places), device=places.device)
        logits = users @ rows.T + bias - chance[places]
        known = taken.to(places.device)[batch.users][:, places] & ~same
        return F.cross_entropy(logits.masked_fill(known | ~is_first[None, :], -torch.inf), first)


def _bpr(users: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    scores = (users.repeat(2, 1) * rows).sum(1) + bias
    positive, negative = scores.chunk(2)
    return -F.logsigmoid(positive - negative).mean()


def check(ours: Side, plain: Side, batch: TripletBatch) -> float:
    """The largest relative difference of the loss and of any parameter's gradient.

    Raises:
        SystemExit: the sides do not compute the same.
    """
    found, expected = ours.gradients(batch), plain.gradients(batch)
    if found.keys() != expected.keys():
        raise SystemExit(f"no report: gradients of {found.keys() ^ expected.keys()} are on one side alone.")
    most = max(g.norm() for name, g in expected.items() if name != "loss")  # a part of it may be nothing but rounding
    apart = {n: float((found[n] - g).norm() / max(g.norm(), 1e-3 * most)) for n, g in expected.items()}
    worst = max(apart, key=lambda name: apart[name])
    if not apart[worst] < 1e-3:
        raise SystemExit(f"no report: {worst} differs by {apart[worst]:.2g} of its norm.")
    return apart[worst]


def timed(run: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu


def report(ours: Side, plain: Side, args: argparse.Namespace, difference: float) -> None:
    """Let the sides take turns, and print."""
    taken: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    held: dict[str, int] = {}
    for number in range(args.steps + 1):
        for name, side in (("plain", plain), ("ours", ours)):
            seconds = timed(lambda side=side, number=number: side.step(number), side.device)  # type: ignore[misc]
            if number:  # the first warms up
                taken[name].append(seconds)
    for name, side in (("plain", plain), ("ours", ours)):
        there = [t for p in side.model.parameters() for t in (p, p.grad) if t is not None]
        states = [t for state in side.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        with peak(side.device, [*there, *states, *side.model.buffers(), *side.encoder.buffers()]) as found:
            side.step(0)
        held[name] = found.bytes
    batch = ours.data.batches[0]
    read = ours.model.items_read(batch)
    print(
        f"{args.encoder}, {args.modalities}, tune {args.tune}, {args.loss}, {args.device}, torch {torch.__version__}, "
        f"{platform.processor() or platform.machine()}, threads {torch.get_num_threads()}\n"
        f"places of a batch {len(read):,}, different items {len(torch.unique(read)):,} "
        f"of {args.items:,}; largest difference of a gradient {difference:.1g} of its norm"
    )
    for what, column in (("seconds a step (wall clock)", 0), ("CPU seconds a step", 1)):
        a, b = (statistics.median(times[column] for times in taken[name]) for name in ("plain", "ours"))
        print(f"{what:<28} plain {a:8.3f}   ours {b:8.3f}   ratio {a / b:.2f}")
    a, b = (held[name] / 1e6 for name in ("plain", "ours"))
    print(f"{'peak of tensors, MB':<28} plain {a:8.1f}   ours {b:8.1f}   ratio {a / b:.2f}")


def main() -> None:
    """Check, measure, print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        data = make_data(folder / "images", args)
        plain, ours = Plain(data, args, folder / "store"), Ours(data, args, folder / "store")
        with closing(plain.live), closing(ours.live):
            report(ours, plain, args, check(ours, plain, data.batches[0]))


if __name__ == "__main__":
    main()
