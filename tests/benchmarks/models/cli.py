"""Arguments, and one run from the data to the table."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests.benchmarks.models import data, report
from tests.benchmarks.models.settings import PAIRS
from tests.benchmarks.models.worker import Worker, serve


def parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(
        prog="tests.benchmarks.models", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="*", help=f"of {', '.join(PAIRS)}; all without any")
    parser.add_argument("--mmrec", type=Path, required=True, metavar="PATH", help="checkout of MMRec")
    parser.add_argument("--steps", type=int, default=10, help="batches of an epoch that are run; 0 for all")
    parser.add_argument("--rounds", type=int, default=2, help="epochs and evaluations of each side")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on each side")
    parser.add_argument("--seed", type=int, default=0, help="of the data")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="keep the data here for other runs")
    parser.add_argument("--out", type=Path, help="a file for the page (Markdown), besides the screen")
    parser.add_argument("--only", choices=report.SIDES, help="measure one side, without ratios and without parity")
    parser.add_argument("--worker", choices=(*report.SIDES, "parity"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.model if name not in PAIRS]:
        parser.error(f"{', '.join(unknown)}: not in MMRec, or not ours. Both have {', '.join(PAIRS)}.")
    if not (args.mmrec / "src/models").is_dir():
        parser.error(f"--mmrec={args.mmrec}: no src/models in it. Clone github.com/enoche/MMRec and name the folder.")
    if args.steps < 0 or args.steps == 1 or args.rounds < 1 or args.threads < 1:
        parser.error("--steps must be 0 or more than 1, --rounds and --threads at least 1.")
    args.mmrec = args.mmrec.resolve()
    return args


def main(description: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    args = parse(description, arguments)
    if args.worker == "parity":
        print("; ".join(_differences(args)))
    elif args.worker:
        serve(args.worker, args.model[0], args.data, args.mmrec, args.threads)
    else:
        with _folder(args) as args.data:
            _run(args)


def _differences(args: argparse.Namespace) -> list[str]:
    from tests.benchmarks.models.parity import differences

    torch.set_num_threads(args.threads)
    with contextlib.redirect_stdout(None):
        return differences(args.model[0], args.data, args.mmrec)


@contextlib.contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    """Where the data lie, made if they are not there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.data or Path(temporary)).resolve() / f"seed{args.seed}"
        if not folder.exists():
            data.write(folder, args.seed)
        yield folder


def _run(args: argparse.Namespace) -> None:
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    page = [
        report.heading(args.steps, args.rounds, args.threads) + f"{time.strftime('%Y-%m-%d %H:%M')}, load {load}.\n"
    ]
    left_out = []
    page.append(report.HEADER)
    print("\n".join(page), flush=True)
    for model in args.model or PAIRS:
        try:
            page.append(_measured(model, args))
            print(page[-1], flush=True)
        except RuntimeError as error:
            left_out.append(f"- {model}: {error}")
    ending = ["", *left_out, "- MMGCL: not in MMRec."]
    print("\n".join(ending))
    if args.out:
        args.out.write_text("\n".join([*page, *ending, ""]), encoding="utf-8")


def _measured(model: str, args: argparse.Namespace) -> str:
    """The row of a model.

    Raises:
        RuntimeError: a side does not run, or the two disagree; says which and why.
    """
    if not args.only:
        _must_agree(model, args)
    result = report.Result()
    sides = [args.only] if args.only else report.SIDES
    with contextlib.ExitStack() as stack:
        workers = {}
        for side in sides:
            workers[side] = stack.enter_context(Worker(_command(model, args, side)))
            _named(side, workers[side], "build")
        for _ in range(args.rounds):
            for side, worker in workers.items():
                result.train[side].append(_named(side, worker, "train", args.steps)["seconds"])
            for side, worker in workers.items():
                result.evaluation[side].append(_named(side, worker, "evaluate")["seconds"])
        result.memory = {side: _named(side, worker, "memory")["bytes"] for side, worker in workers.items()}
    return report.row(model, result, sides)


def _named(side: str, worker: Worker, *order: object) -> dict:
    try:
        return worker(*order)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise RuntimeError(f"{side}: {error}") from None


def _must_agree(model: str, args: argparse.Namespace) -> None:
    worker = Worker(_command(model, args, "parity"))
    found, errors = worker.process.communicate()
    if worker.process.returncode:
        raise RuntimeError(f"no comparison, since it does not run: {errors.strip().splitlines()[-1][:300]}")
    if found.strip():
        raise RuntimeError(f"no ratio, since the answers differ: {found.strip()}")


def _command(model: str, args: argparse.Namespace, worker: str) -> list[str]:
    return [
        model, f"--worker={worker}", f"--mmrec={args.mmrec}", f"--data={args.data}", f"--threads={args.threads}",
    ]  # fmt: skip
