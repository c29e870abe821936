"""mmenc mmrec: our models in a checkout of MMRec."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmenc_plugin.errors import SettingsError

HELP = "put the models into a checkout of MMRec, and take them out again"
DESCRIPTION = """\
Make MMRec's own `python main.py -m VBPR_MMENC -d baby` run a model of this package under MMRec's loader, trainer and
evaluator, on its data as they are. Two small files a model are written into the checkout, and uninstall leaves it as
it was before.

MMRec reads features from image_feat.npy and text_feat.npy in its item order, which this writes and checks:
  mmenc features export --format=mmrec --key=image-openclip --order-from=MMRec/data/baby --to=MMRec/data/baby
"""
EXAMPLES = """\
examples:
  mmenc mmrec install ~/MMRec
  mmenc mmrec install ~/MMRec --models VBPR FREEDOM
  (cd ~/MMRec/src && python main.py -m FREEDOM_MMENC -d baby)
  mmenc mmrec uninstall ~/MMRec
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("install", "uninstall"), help="what to do")
    parser.add_argument("checkout", type=Path, metavar="PATH", help="the folder that holds MMRec's src/")
    parser.add_argument("--models", nargs="+", metavar="NAME", default=[], help="install these alone (default: all)")
    parser.add_argument("--force", action="store_true", help="uninstall files that were changed since, too")


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Install or uninstall."""
    from mmenc_plugin.hosts.mmrec.install import install, uninstall

    if rest:
        raise SettingsError(f"argument '{rest[0]}' is not known.")
    if args.action == "uninstall":
        print(f"taken away: {len(uninstall(args.checkout, args.force))} files")
        return 0
    names = install(args.checkout, args.models)
    print(f"installed in {args.checkout}: {', '.join(names)}")
    print(f"run e.g.: cd {args.checkout}/src && python main.py -m {names[0]} -d baby")
    return 0
