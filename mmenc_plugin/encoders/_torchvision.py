"""Keeps torchvision importable beside a torch that it was not built for.

Its compiled part then fails to load and `import torchvision` ends with "operator torchvision::nms
does not exist", which takes OpenCLIP, timm, transformers' picture classes and
sentence-transformers down with it, though none of them needs that operator here
(pytorch/pytorch#157648). Declaring the two operators that torchvision wants to decorate is enough;
calling them still fails, as it would.
"""

from __future__ import annotations

import sys
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []  # a torch.library.Library takes its operators back when it is collected


def state() -> str:
    """How torchvision stands: "absent", "working" or "mended"."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return "absent"
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_operators()
    return "mended" if _kept else "working"


def _declare_operators() -> None:
    import torch

    for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[name]
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)
    _kept.append(library)
    import torchvision  # noqa: F401
