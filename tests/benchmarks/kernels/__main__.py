"""Time and peak memory of the kernels, as ratios to the plain PyTorch way, beside their peers; one run, one page.

    python -m tests.benchmarks.kernels [score_loss|score_topk|bpr_loss|evaluation|all] [--quick] [--threads=2]
    python tests/benchmarks/kernels --device=cuda --out=table.md

Time is the process's CPU-seconds, or milliseconds between CUDA events; all sides run in each round, in turn, in one
process. Memory is the peak above the inputs, outputs included; on a CPU each side is measured in a process of its
own. No table is printed unless our sides and the plain way give the right answers; a peer that cannot run here, or
gives another answer, is named with the reason.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Threads that wait for work sleep: else their spinning is counted as time, most of all on a machine that others use.
# OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if not __package__:  # run as a folder
    sys.path[0] = str(Path(__file__).resolve().parents[3])
    __package__ = "tests.benchmarks.kernels"

from .cli import main

if __name__ == "__main__":
    main()
