"""Our models against MMRec's own, on the CPU: training, evaluation and memory, as ratios of one run.

    python -m tests.benchmarks.models --mmrec=PATH [VBPR FREEDOM ...] [--steps=10] [--rounds=2] [--threads=1]

PATH is a checkout of github.com/enoche/MMRec (commit e775373). It is not touched: what it imports and does not need is
stubbed and what stops it on today's libraries or without a GPU is mended in memory. Its MMGCN and GRCN need
torch_geometric. MMGCL is not in MMRec.

Both sides get the same data, drawn from a seed with the shape of Amazon Baby (19,445 users, 7,050 items, 160,792
interactions, pictures 4096 wide and texts 384 wide), width 64, batches of 2048, Adam. Ours runs as users run it, by
RecBole's Trainer with this package's host and ranking; theirs by MMRec's Trainer and evaluator. Each side has a process
of its own, and the two take turns, so that what else the machine does hits both.

- train: seconds of an epoch: what is made once an epoch, sampling, loss, gradient, optimizer. With --steps=N the first
  N batches are run and the others are taken to last as long as the second to the N-th do on average; 0 runs all.
- evaluation: the validation part, full ranking of all users, top 20, Recall, NDCG, Precision and MAP.
- memory: peak of the process from building the model on, above what it held with the data loaded.

Seconds are CPU-seconds of the process, wall-clock seconds in brackets, the smallest of the rounds. A row is printed
only if both sides give the same loss and scores at this size from the same parameters, with dropout and the like off.
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
    __package__ = "tests.benchmarks.models"

from .cli import main

if __name__ == "__main__":
    main(__doc__)
