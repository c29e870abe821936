"""Arguments, and one run from the checks to the page."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from . import measure, report
from .harness import Bench, Inputs, Side, check_small, compare

NAMES = ("score_loss", "score_topk", "bpr_loss", "evaluation")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.kernels", description="Time and memory of the kernels.")
    parser.add_argument("kernel", nargs="*", default="all", choices=(*NAMES, "all"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="small shapes, to see whether everything runs")
    parser.add_argument("--threads", type=int, default=2, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a file for the page (Markdown), besides the screen")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # JSON [case, side]: measure that and nothing else
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device=cuda: torch finds no GPU here; run without it for the CPU's benchmark.")
    if args.rounds < 1 or args.threads < 1:
        parser.error(f"--rounds={args.rounds} --threads={args.threads}: both must be at least 1.")
    args.kernel = NAMES if "all" in args.kernel else tuple(dict.fromkeys(args.kernel))
    return args


def bench(name: str) -> Bench:
    """The benchmark of a kernel; only what runs is imported."""
    return importlib.import_module(f".{name}", __package__).BENCH  # type: ignore[no-any-return]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps({"bytes": memory_here(args)}))
        return
    page = []
    for part in run(args):
        print(part, flush=True)
        page.append(part)
        if args.out:  # after each part: a run that breaks off leaves what it has
            args.out.write_text("\n".join(page), encoding="utf-8")


def run(args: argparse.Namespace) -> Iterator[str]:
    """The parts of the page, each when it is ready."""
    yield report.heading(args.device, args.threads, args.rounds) + f" {time.strftime('%Y-%m-%d %H:%M')}.\n"
    if args.device == "cuda":
        from .ceilings import ceilings

        yield ceilings()
    benches = [bench(name) for name in args.kernel]
    for each in benches:
        shapes = "; ".join(check_small(each, args.device))
        yield f"{each.name}: ours and the plain way agree with {each.truth} at {shapes}.\n"
    for each in benches:
        for number, case in enumerate(each.cases(args.device, args.quick)):
            memory = functools.partial(memory_of, args, each, number)
            yield report.section(each.name, case, compare(each, case, args.device, args.rounds, memory), args.device)


def memory_of(args: argparse.Namespace, of: Bench, number: int, side: Side, inputs: Inputs) -> int:
    """The peak of a side: in a process of its own on the CPU, here on a GPU."""
    if args.device == "cuda":
        return measure.peak_bytes(lambda: side.run(inputs), args.device)
    options = [of.name, f"--threads={args.threads}", f"--memory-of={json.dumps([number, side.name])}"]
    return measure.in_own_process(options + ["--quick"] * args.quick)


def memory_here(args: argparse.Namespace) -> int:
    """The peak of the one side that `--memory-of` names, in this process."""
    of, (number, name) = bench(args.kernel[0]), json.loads(args.memory_of)
    case = of.cases(args.device, args.quick)[number]
    side = next(side for side in of.sides(case, args.device) if side.name == name)
    alike = [small for small in of.small(args.device) if small.form == case.form and not side.compiled]
    warm = alike[-1] if alike else case  # so that neither libraries nor threads are counted
    side.run(of.inputs(warm, args.device))
    inputs = of.inputs(case, args.device)
    return measure.peak_bytes(lambda: side.run(inputs), args.device)
