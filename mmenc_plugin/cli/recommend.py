"""mmenc recommend: top-k lists of a trained model, as a table and as a page with pictures."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mmenc_plugin.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    from mmenc_plugin.hosts.recbole.recommend import Recommendations, SavedRun

HELP = "top-k lists of a trained model, as CSV or parquet, and as a page with pictures"
DESCRIPTION = """\
Recommend items to users with a model that RecBole (or mmenc run) has trained and saved. Items that a user took, in any
part of the split, do not come again unless --again is given. Run it in the folder in which the model was trained, so
that the data set's path holds.

Without --output and --html the lists are printed. Columns of the table: user_id, rank (from 1), item_id, score.
"""
EXAMPLES = """\
examples:
  mmenc recommend saved --users u1 u2 --k 10
  mmenc recommend saved/VBPR-Nov-28-2026_12-00-00.pth --output=top20.csv
  mmenc recommend saved --users u7 --html=u7.html
  mmenc recommend saved --users-file=vip.txt --k 100 --output=vip.parquet
"""
HEADER = ("user_id", "rank", "item_id", "score")
SHOWN = 50  # users on a page, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a checkpoint, or a folder whose newest one is taken")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--users", nargs="+", metavar="ID", help="user ids (default: all users)")
    who.add_argument("--users-file", type=Path, metavar="FILE", help="a file with a user id a line")
    parser.add_argument("--k", type=int, default=20, help="items for each user (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="items that a user took may come again")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table: .csv or .parquet")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help=f"write a page with pictures, of {SHOWN} users at most"
    )


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Load, rank, write."""
    _check(args, rest)
    from tqdm import tqdm

    from mmenc_plugin.hosts.recbole.recommend import SavedRun

    sys.argv = ["mmenc"]  # RecBole reads settings from there
    run = SavedRun(args.run)
    users = _users(args, run)
    progress = tqdm(total=len(users), desc="recommend", unit="user", disable=None)
    lists = _counted(run.recommend(users, args.k, args.again), progress)
    if args.html:
        from mmenc_plugin.cli._recommend_page import page

        whole = list(lists)
        lists = iter(whole)
        _write(args.html, page(run, whole, SHOWN))
    if args.output:
        _save(args.output, lists)
    elif not args.html:
        _print(lists, sys.stdout)
    for file in filter(None, (args.output, args.html)):
        print(f"written: {file}", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace, rest: Sequence[str]) -> None:
    if rest:
        raise SettingsError(f"argument '{rest[0]}' is not known; the run's own settings are in its checkpoint.")
    if args.k < 1:
        raise SettingsError(f"--k is {args.k}, but at least one item must be asked for.")
    if args.output and args.output.suffix not in (".csv", ".parquet"):
        raise SettingsError(f"--output is {args.output}, but its name must end in .csv or .parquet.")
    for option, file in (("--output", args.output), ("--html", args.html)):
        if file and not file.absolute().parent.is_dir():
            raise SettingsError(f"{option}: the folder {file.absolute().parent} does not exist. Make it first.")
    if args.output and args.output.suffix == ".parquet":
        _parquet()


def _users(args: argparse.Namespace, run: SavedRun) -> list[str]:
    if args.users_file is None:
        return args.users or run.users
    try:
        users = args.users_file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--users-file: cannot read {args.users_file} ({error}).") from None
    users = [user.strip() for user in users if user.strip()]
    if not users:
        raise SettingsError(f"--users-file: {args.users_file} holds no user id; write one a line.")
    return users


def _counted(lists: Iterator[Recommendations], progress: Any) -> Iterator[Recommendations]:
    with progress as bar:
        for block in lists:
            yield block
            bar.update(len(block.users))


def _rows(block: Recommendations) -> Iterator[tuple[str, int, str, float]]:
    for user, items, scores in zip(block.users, block.items, block.scores, strict=True):
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
            yield user, rank, item, score


def _print(lists: Iterable[Recommendations], to: TextIO) -> None:
    table = csv.writer(to, lineterminator="\n")
    table.writerow(HEADER)
    for block in lists:
        table.writerows((user, rank, item, f"{score:.6g}") for user, rank, item, score in _rows(block))


def _save(path: Path, lists: Iterable[Recommendations]) -> None:
    """Write the table under another name, and rename it when it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".csv":
            with part.open("w", encoding="utf-8", newline="") as file:
                _print(lists, file)
        else:
            _save_parquet(part, lists)
        part.replace(path)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror or error}. Name another file.") from error
    finally:
        part.unlink(missing_ok=True)


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("--output=....parquet", "parquet", error) from None
    return pyarrow, pyarrow.parquet


def _save_parquet(path: Path, lists: Iterable[Recommendations]) -> None:
    arrow, parquet = _parquet()
    kinds = (arrow.string(), arrow.int32(), arrow.string(), arrow.float32())
    schema = arrow.schema(list(zip(HEADER, kinds, strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:
        for block in lists:
            columns = zip(*_rows(block), strict=True)
            writer.write_table(arrow.table(dict(zip(HEADER, map(list, columns), strict=True)), schema))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--html: cannot write {file}: {error.strerror or error}. Name another file.") from error
