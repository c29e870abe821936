"""mmenc inspect: what a data set holds, before it is encoded."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mmenc_plugin.cli._host_arguments import OVERRIDES, add_host_arguments, launch_of
from mmenc_plugin.errors import SettingsError

if TYPE_CHECKING:
    from mmenc_plugin.cli._inspect_rows import Row
    from mmenc_plugin.data.inspection import Inspection

HELP = "look at the pictures, texts and interactions before anything is encoded"
DESCRIPTION = f"""\
Say what a data set holds, what is wrong with it, and what to do next: which items have no picture and why, placeholder
and repeated pictures, texts that are empty, repeated or longer than the encoder takes, items that nobody took.
Nothing is written but the files that --json and --html name. Pictures may be missing altogether; the .item and .inter
files must be well formed. The encoder's weights are loaded for its count of tokens (--encoder=classic needs none).

The exit status is 0 for a report, whatever it finds, and 2 for wrong settings or files that are not well formed.

{OVERRIDES}"""
EXAMPLES = """\
examples:
  mmenc inspect --dataset=demo
  mmenc inspect -d baby --data_path=dataset --html=baby.html --encoder=openclip:ViT-B-32/laion2b_s34b_b79k
  mmenc inspect -d baby --data_path=dataset --sample=10000 --json=- | jq .coverage
"""
SHOWN = 3  # examples of a row in the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_host_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - for the standard output, alone")
    parser.add_argument("--html", metavar="FILE", help="write the report as one page with pictures")
    parser.add_argument("--sample", type=int, metavar="N", help="look at the pictures of N items chosen at random")


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Inspect, write the files, and print the tables."""
    from mmenc_plugin.cli._inspect_page import page
    from mmenc_plugin.hosts.recbole.inspection import inspect_dataset
    from mmenc_plugin.hosts.recbole.run import make_config

    if args.sample is not None and args.sample < 1:
        raise SettingsError(f"--sample is {args.sample}, but at least one picture must be looked at.")
    files = {"--json": args.json, "--html": args.html}
    for option, file in files.items():
        _check_folder(option, file)
    config = make_config(launch_of(args, rest), without_pictures=True)
    report, items = inspect_dataset(config, args.sample)
    as_json = json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n"
    if args.json == "-":
        sys.stdout.write(as_json)
    else:
        print(table(report))
        _write("--json", args.json, as_json)
    if args.html:
        _write("--html", args.html, page(report, items))
    return 0


def table(report: Inspection) -> str:
    """The report for a terminal."""
    from mmenc_plugin.cli._inspect_rows import sections
    from mmenc_plugin.data.inspection.texts import printable

    parts = sections(report)
    width = max((len(row.label) for part in parts for row in part.rows if len(row.label) <= 24), default=0)
    lines = [report.dataset]
    for part in parts:
        lines += ["", part.title.upper() if len(part.title) < 20 else part.title]
        for row in part.rows:
            lines += _lines(row, width)
    lines += ["", "WHAT TO DO"]
    lines += [textwrap.fill(line, 118, initial_indent="  - ", subsequent_indent="    ") for line in report.advice]
    return "\n".join(printable(line) for line in lines)


def _lines(row: Row, width: int) -> list[str]:
    shown = [f"{e.item}: {e.detail}" if e.detail else e.item for e in row.examples[:SHOWN]]
    lines = [f"  {row.label.ljust(width)}  {row.value}"]
    return lines + [f"  {'':{width}}    {textwrap.shorten(line, 84, placeholder=' ...')}" for line in shown]


def _check_folder(option: str, file: str | None) -> None:
    """Before minutes are spent on pictures."""
    if file and file != "-" and not Path(file).absolute().parent.is_dir():
        raise SettingsError(f"{option}: the folder {Path(file).absolute().parent} does not exist. Make it first.")
    if file == "-" and option != "--json":
        raise SettingsError(f"{option}=- is not possible; name a file.")


def _write(option: str, file: str | None, text: str) -> None:
    if not file:
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{option}: cannot write {file}: {error.strerror or error}. Name another file.") from error
    print(f"written: {file}", file=sys.stderr)
