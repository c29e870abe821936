"""What the path file costs a Python process that uses none of this.

    python tests/benchmarks/start.py

Starts Python with and without importing the hook, in turns, and prints the difference of the medians and the ratio,
in processor time, which other work on the machine moves least.
"""

import os
import statistics
import subprocess
import sys

HOOK = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; import mmenc_plugin.autoload"
BARE = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}"


def start(code: str) -> float:
    """Seconds of processor time that a process takes from its start to its end."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def main(rounds: int = 100) -> None:
    """Measure and print."""
    pairs = [(start(BARE), start(HOOK)) for _ in range(rounds)]
    bare, hooked = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    print(f"bare {bare:.2f} ms, with the hook {hooked:.2f} ms: {hooked - bare:+.2f} ms, ratio {hooked / bare:.3f}")


if __name__ == "__main__":
    main()
