"""mmenc mmrec: our models in a checkout of MMRec, and its data sets for RecBole."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmenc_plugin.errors import SettingsError

HELP = "put the models into a checkout of MMRec and take them out again; read its data sets"
DESCRIPTION = """\
install makes MMRec's own `python main.py -m VBPR_MMENC -d baby` run a model of this package under MMRec's loader,
trainer and evaluator, on its data as they are. Two small files a model are written into the checkout, and uninstall
leaves it as it was before. MMRec reads features from image_feat.npy and text_feat.npy in its item order, which
`mmenc features export --format=mmrec --order-from=MMRec/data/baby` writes and checks.

dataset goes the other way: it writes a data folder of MMRec as RecBole's atomic files, with MMRec's split, and prints
the settings under which RecBole keeps that split and reads the features that lie there.
"""
EXAMPLES = """\
examples:
  mmenc mmrec install ~/MMRec
  mmenc mmrec install ~/MMRec --models VBPR FREEDOM
  (cd ~/MMRec/src && python main.py -m FREEDOM_MMENC -d baby)
  mmenc mmrec uninstall ~/MMRec
  mmenc mmrec dataset ~/MMRec/data/baby --to dataset > baby.yaml
  mmenc run --model=FREEDOM --dataset=baby --data_path=dataset --config_files=baby.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("install", "uninstall", "dataset"), help="what to do")
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="the folder that holds MMRec's src/, or one of its data"
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", default=[], help="install these alone (default: all)")
    parser.add_argument("--force", action="store_true", help="uninstall files that were changed since, too")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", default=Path("dataset"),
        help="where the data set's folder is made, RecBole's data_path (default: %(default)s)",
    )  # fmt: skip


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Install, uninstall or convert."""
    if rest:
        raise SettingsError(f"argument '{rest[0]}' is not known.")
    {"install": _install, "uninstall": _uninstall, "dataset": _dataset}[args.action](args)
    return 0


def _install(args: argparse.Namespace) -> None:
    from mmenc_plugin.hosts.mmrec.install import install

    names = install(args.path, args.models)
    print(f"installed in {args.path}: {', '.join(names)}")
    print(f"run e.g.: cd {args.path}/src && python main.py -m {names[0]} -d baby")


def _uninstall(args: argparse.Namespace) -> None:
    from mmenc_plugin.hosts.mmrec.install import uninstall

    print(f"taken away: {len(uninstall(args.path, args.force))} files")


def _dataset(args: argparse.Namespace) -> None:
    from mmenc_plugin.data.converters.mmrec import convert

    made = convert(args.path, args.to)
    sizes = ", ".join(f"{count:,} {part}" for part, count in made.counts.items())
    print(f"written: {args.to / made.name}: {made.items:,} items; interactions: {sizes}", file=sys.stderr)
    if made.dropped:
        print(f"left out, as MMRec does: {made.dropped:,} of users without a training interaction", file=sys.stderr)
    print(made.settings, end="")
