"""Which peers can run here."""

from __future__ import annotations

import importlib
import importlib.util


def missing(module: str, package: str, device: str, *, needs_gpu: bool = False) -> str:
    """Why a peer cannot run here; empty where it can.

    Args:
        module: what is imported.
        package: its name on PyPI.
        device: cpu or cuda.
        needs_gpu: it has nothing for a CPU.
    """
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return f"not installed (pip install {package})"
    if needs_gpu and device == "cpu":
        return "needs a GPU"
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"cannot be imported here ({type(error).__name__}: {error})"
    return ""
