"""mmenc extract: features ahead of a run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmenc_plugin.cli._host_arguments import OVERRIDES, add_host_arguments, launch_of, own_gpu

HELP = "encode the items' pictures and texts ahead of a run"
DESCRIPTION = f"""\
Encode the items of a data set and keep the features in the store, where runs with the same settings find them.
It can be stopped at any time, even killed: the same command goes on where it was and ends with the same bytes.
Several processes share the work, each on a GPU of its own where there are several.

{OVERRIDES}"""
EXAMPLES = """\
examples:
  mmenc extract --dataset=demo
  mmenc extract -d baby --data_path=dataset --encoder=openclip:ViT-B-32/laion2b_s34b_b79k --modalities=image
  torchrun --nproc-per-node=2 -m mmenc_plugin extract --dataset=demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_host_arguments(parser)


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Extract, and print a line a block."""
    from mmenc_plugin.cli._blocks import print_block
    from mmenc_plugin.hosts.recbole.features import blocks_of, items_of
    from mmenc_plugin.hosts.recbole.run import make_config

    config = make_config(launch_of(args, [*rest, *own_gpu(rest)]))
    for modality, block in blocks_of(config, items_of(config)).items():
        if os.environ.get("RANK", "0") == "0":  # one of several processes speaks for all
            print_block(modality, block)
    return 0
