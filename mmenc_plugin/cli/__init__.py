"""The command `mmenc`. One module of this folder is one subcommand."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

import mmenc_plugin
from mmenc_plugin.errors import MmencError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status: 0 done, 1 something failed, 2 asked wrongly."""
    argv = sys.argv[1:] if argv is None else argv
    commands = _commands()
    parser = _parser(commands)
    args, rest = parser.parse_known_args(argv)
    if not args.command:
        parser.print_help()
        return 0
    try:
        return int(commands[args.command].main(args, rest))
    except KeyboardInterrupt:
        print(
            "\nmmenc: interrupted; what was finished is kept, and the same command goes on from there.", file=sys.stderr
        )
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        print(f"mmenc {args.command}: {_paragraph(error, args.debug)}", file=sys.stderr)
        return 2 if isinstance(error, MmencError) else 1


def _commands() -> dict[str, ModuleType]:
    return {
        m.name: importlib.import_module(f"{__name__}.{m.name}")
        for m in pkgutil.iter_modules(__path__)
        if m.name[0] != "_"
    }


def _parser(commands: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmenc", description="Large multimodal encoders for recommendation, inside RecBole."
    )
    parser.add_argument("--version", action="version", version=f"mmenc-plugin {mmenc_plugin.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, module in commands.items():
        sub = subparsers.add_parser(
            name, help=module.HELP, description=module.DESCRIPTION, epilog=module.EXAMPLES, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(sub)
    return parser


def _paragraph(error: Exception, debug: bool) -> str:
    """An error as one paragraph; of a spawned process, its last line."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1]
    elif not isinstance(error, MmencError):
        text = f"{type(error).__name__}: {text}"
    hint = "" if isinstance(error, MmencError) or debug else " (--debug shows the traceback)"
    return " ".join(text.split()) + hint
