"""mmenc features: what lies in the feature store, and its way to and from other toolkits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from mmenc_plugin.cli._host_arguments import add_host_arguments
from mmenc_plugin.errors import SettingsError

HELP = "list, check, compare, delete, export and import the features in the store"
DESCRIPTION = """\
Look after the feature store, the folder in which `mmenc extract` and `mmenc run` keep what they encode (the setting
feature_dir, by default ./features), and exchange features with other toolkits. A block is the features of all items of
a data set in one modality; its key is its folder's name. Wherever a KEY is asked for, any part of it that no other key
has will do.
"""
EXAMPLES = """\
examples:
  mmenc features list
  mmenc features verify
  mmenc features diff features image-openclip-ViT-B-32-0a1b
  mmenc features delete --unused --dataset=baby,sports --config_files=my.yaml
  mmenc features export --format=mmrec --key=image-openclip --order-from=MMRec/data/baby --to=MMRec/data/baby
  mmenc features import --format=mmrec --modality=image --dataset=baby MMRec/data/baby/image_feat.npy

`mmenc features COMMAND --help` says more of each.
"""
FORMATS = """\
formats:
  plain    an array .npy and the ids .ids.txt, row by row
  mmrec    image_feat.npy or text_feat.npy in the order of MMRec's item numbers
  ducho    a folder with <item id>.npy for each item, as Ducho writes and Elliot reads
  cornac   an array .npy and ids .ids.txt, and the lines that make a FeatureModality of them
  recbole  an atomic file .itememb for RecBole's preload_weight
  warprec  a table .tsv of item side information; WarpRec reads its numbers as categories (export alone)
"""
_LIST = "Print a line a block: its key, modality and encoder, how many items it has, D, and how many are masked."
_VERIFY = "Read every file again and compare it with its sha256. The exit status is 1 if a block is damaged."
_DIFF = """\
Compare two blocks item by item, or two stores block by block. Each of A and B is the folder of a store or of a block,
or a KEY. The exit status is 0 if they are the same, 1 if they differ.

Of two blocks it says in what their recipes differ, which items one of them lacks or masks, and how alike the features
of the others are: the cosine of the two vectors of each item, its mean and the least. Two versions of one encoder have
cosines near 1; those of two encoders that happen to have one width mean nothing."""
_DELETE = """\
Delete blocks. What will go is shown first, and asked about unless --yes is given. A block that a process is writing is
never deleted.

--unused keeps the blocks that the named data sets ask for under the given settings, and deletes all others: name every
data set that shares the store. The encoders are loaded for it, since their weights are part of a block's key. Any
setting may follow as --key=value, as in `mmenc run`."""
_EXPORT = """\
Write a block for another toolkit, and print the lines that make it use the files. Items without features get no row in
plain and ducho, and the mean of the others elsewhere; --missing says otherwise."""
_IMPORT = """\
Take in features that you have from elsewhere: find out which row is which item's of the data set, check every row, copy
them into the store, and print the encoder: line under which `mmenc run` uses them. Nothing is guessed: files without
ids are taken only where the rule is certain, and an error says what is missing.

The file must stay where it is for the line to work. Any setting may follow as --key=value, as in `mmenc run`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands and their arguments."""
    parser.set_defaults(print_help=parser.print_help)
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", title="commands")
    _parser(commands, "list", "what lies in the store", _LIST, _add_list)
    _parser(commands, "verify", "read every file again and compare it with its sha256", _VERIFY, _add_verify)
    _parser(commands, "diff", "two blocks, or two stores, side by side", _DIFF, _add_diff)
    _parser(commands, "delete", "delete blocks, or what stopped runs have left", _DELETE, _add_delete)
    _parser(commands, "export", "write a block for another toolkit", _EXPORT, _add_export, FORMATS)
    _parser(commands, "import", "take in features from elsewhere", _IMPORT, _add_import, FORMATS)


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Do what the second word says."""
    from mmenc_plugin.cli import _features

    if not args.action:
        args.print_help()
        return 0
    takes_settings = args.action == "import" or (args.action == "delete" and args.unused)
    if rest and not takes_settings:
        raise SettingsError(
            f"'{rest[0]}' is not an argument of mmenc features {args.action}; see mmenc features {args.action} --help."
        )
    return _features.ACTIONS[args.action](args, rest)


def _parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
    add: Callable[[argparse.ArgumentParser], None],
    epilog: str = "",
) -> None:
    parser = commands.add_parser(
        name, help=summary, description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    add(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", default="features", metavar="DIR", help="folder of the store (default: %(default)s)")


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY", help="only these blocks")
    _add_store(parser)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="folder of a store or block, or a KEY")
    parser.add_argument("second", metavar="B", help="likewise")
    _add_store(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_delete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY", help="these blocks")
    _add_store(parser)
    parser.add_argument("--unused", action="store_true", help="blocks that the settings and data sets do not ask for")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="blocks written more than DAYS days ago")
    parser.add_argument(
        "--leftovers", action="store_true",
        help="what stopped runs have left: finished pieces (from which they would go on), half a block, old locks",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_host_arguments(parser)
    parser.set_defaults(dataset=None)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", required=True, help="see below")
    parser.add_argument("--key", required=True, metavar="KEY", help="of the block")
    parser.add_argument("--to", required=True, metavar="PATH", help="file or folder to write")
    parser.add_argument(
        "--order-from", metavar="PATH",
        help="whose items are written, in their order: a .inter or .item file, MMRec's folder, or a list of ids "
        "(.txt .csv .tsv .json .npy); needed by mmrec and recbole",
    )  # fmt: skip
    parser.add_argument(
        "--id-column", default="item_id", metavar="NAME", help="of the items, in a .inter or .item (default: item_id)"
    )
    parser.add_argument(
        "--missing", choices=("mean", "zeros", "error", "omit"), help="what items without features get; omit: no row"
    )
    parser.add_argument("--replace", action="store_true", help="overwrite files that are there")
    _add_store(parser)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the file or folder")
    parser.add_argument("--format", required=True, help="see below")
    parser.add_argument("--modality", required=True, choices=("image", "text", "fused"), help="what they are of")
    parser.add_argument("--ids", metavar="FILE", help="a list of the ids, row by row (.txt .csv .tsv .json .npy)")
    add_host_arguments(parser)
