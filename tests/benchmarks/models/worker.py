"""One side in a process of its own, which does what it is told line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.models import clocks


def serve(side: str, model: str, folder: Path, checkout: Path, threads: int) -> None:
    """Load the data and the model, then answer each line of the standard input with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the hosts print is no answer
    torch.set_num_threads(threads)
    try:
        _serve(_loaded(side, model, folder, checkout), answers)
    except Exception as error:  # told to the other end, which names the model
        print(json.dumps({"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}), file=answers, flush=True)
        raise


def _loaded(side: str, model: str, folder: Path, checkout: Path) -> Any:
    if side == "ours":
        from tests.benchmarks.models.ours import Ours

        return Ours(model, folder)
    from tests.benchmarks.models.theirs import Theirs

    return Theirs(model, folder, checkout)


def _serve(side: Any, answers: Any) -> None:
    with_data = clocks.forget_peak()
    side.build()

    def evaluate() -> dict[str, Any]:
        start = clocks.read()
        metrics = side.evaluate()
        return {"seconds": clocks.since(start), "metrics": {k: float(v) for k, v in metrics.items()}}

    orders: dict[str, Callable[..., dict[str, Any]]] = {
        "build": dict,
        "train": lambda steps: {"seconds": side.train(steps)},
        "evaluate": evaluate,
        "memory": lambda: {"bytes": clocks.status("VmHWM") - with_data},
    }
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        print(json.dumps(orders[order](*arguments)), file=answers, flush=True)


class Worker:
    """The other end: `worker("train", 10)` waits for the answer.

    Args:
        arguments: of the command line, `--worker=...` among them.
    """

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.models", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).resolve().parents[3],
        )  # fmt: skip
        self.errors: list[str] = []

    def __call__(self, order: str, *arguments: Any) -> dict[str, Any]:
        """The answer to an order.

        Raises:
            RuntimeError: the process failed; says why.
        """
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps([order, *arguments]), file=self.process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.kill()
            answer = {"error": f"stopped with {self.process.wait()}"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
