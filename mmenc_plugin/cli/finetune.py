"""mmenc finetune: an encoder that learns from the items' pictures and texts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmenc_plugin.cli._host_arguments import OVERRIDES, add_host_arguments, launch_of, own_gpu

HELP = "fine-tune an encoder on the items' pictures and texts"
DESCRIPTION = f"""\
Fine-tune an encoder on the pairs of picture and text that a data set's items are, so that its features tell these
items apart. The result is a checkpoint in the encoder's own format, with its lineage beside it; the URI that is
printed may stand wherever an encoder is named. With paradigm: finetuned a run does the same on its own.

What is learned (finetune_objectives):
  itc      a picture finds its text among those of the batch, and a text its picture
  itm      does this text belong to this picture: hard negatives, of encoders that see both together (vlmo)
  mlm      which word was hidden, with the picture in view (vlmo)
  bought   items that users of the training part took together are near each other

How much (tune): full, head, top:N (the last N blocks) or lora:R. A large finetune_batch_size costs time, not memory:
finetune_chunk pairs are encoded at once. Part of the pairs is held out (finetune_validation); training stops when the
validation loss has not fallen for finetune_patience epochs, and the best epoch is kept. Printed at the end: how often
the right text (picture) of those held out is among the first 1, 5 and 10, before and after.

It can be stopped at any time, even killed: the same command goes on from the last checkpoint and ends with the same
weights. Several processes (torchrun) share each batch, and learn what one would.

{OVERRIDES}"""
EXAMPLES = """\
examples:
  mmenc finetune --dataset=demo --encoder=openclip:ViT-Ti-8-64/random --encoder_learning_rate=5e-4 --output=tuned
  mmenc finetune -d baby --data_path=dataset --encoder=openclip:ViT-B-32/laion2b_s34b_b79k --tune=lora:8 \\
      --encoder_learning_rate=1e-4 --autocast=bfloat16 --finetune_batch_size=1024
  mmenc finetune -d baby --encoder=vlmo:base_patch16_224//path/to/vlmo_base_patch16_224.pt \\
      "--finetune_objectives=['itc','itm','mlm']"
  torchrun --nproc-per-node=2 -m mmenc_plugin finetune --dataset=demo --encoder=openclip:ViT-Ti-8-64/random
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_host_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the result (default: one below finetune_dir, named by what it is made of)",
    )


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Fine-tune, and print where the encoder is and what it has learned."""
    from mmenc_plugin.hosts.recbole.features import pairs_of
    from mmenc_plugin.hosts.recbole.finetuning import finetuned
    from mmenc_plugin.hosts.recbole.run import make_config

    given = [argument for argument in rest if not argument.startswith("--paradigm=")]
    config = make_config(launch_of(args, [*given, "--paradigm=finetuned", *own_gpu(rest)]))
    result = finetuned(config, pairs_of(config), output=args.output)
    if os.environ.get("RANK", "0") == "0":  # one of several processes speaks for all
        print(_told(result.report))
        print(f"encoder: {result.uri}")
    return 0


def _told(report: Mapping[str, Any]) -> str:
    pairs, before, after, best = report["pairs"], report["before"], report["after"], report["best_epoch"] + 1
    lines = [
        f"{pairs['training']} pairs learned from, {pairs['validation']} held out; "
        f"best epoch {best} of {len(report['history'])}",
        f"{'on the ' + report['measured_on'] + ' pairs':<24}{'before':>8}{'after':>8}",
    ]
    lines += [f"{name:<24}{value:>8.3f}{after[name]:>8.3f}" for name, value in before.items()]
    return "\n".join(lines)
