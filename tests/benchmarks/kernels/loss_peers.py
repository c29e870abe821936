"""Other people's fused losses, called as their documentation says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .harness import Case, Inputs
from .peers import missing

Peer = tuple[str, Callable[[Inputs], Tensor], dict[str, Any]]  # name, loss, further arguments of Side


def label_peers(case: Case, device: str) -> Iterator[Peer]:
    """Those of cross-entropy with one label a row, no bias, no mask and no scale."""
    yield from _torch_peers(case)
    yield from _cut_cross_entropy(device)
    yield "Liger, scaled cross-entropy", _liger_scaled, {"missing": missing("liger_kernel", "liger-kernel", device)}
    gpu = missing("liger_kernel", "liger-kernel", device, needs_gpu=True)
    yield "Liger, linear cross-entropy, large chunks", _liger_linear, {"missing": gpu}
    yield "inf-cl", lambda given: _inf(given).mean(), {"missing": _inf_missing(case, device)}
    yield "QuACK", _quack, {"missing": missing("quack", "quack-kernels", device, needs_gpu=True)}


def bias_peers(case: Case, device: str) -> Iterator[Peer]:
    """Those that add a bias [N] to the scores."""
    yield from _torch_peers(case)
    for name in ("Cut Cross-Entropy", "Liger, scaled cross-entropy", "inf-cl", "QuACK"):
        yield name, _quack, {"missing": "takes no bias (the release on PyPI)"}


def symmetric_peers(case: Case, device: str) -> Iterator[Peer]:
    """Those of the loss of matching pairs."""
    yield "open_clip ClipLoss", _clip, {"missing": _clip_missing(device)}

    def both(given: Inputs) -> Tensor:
        turned = {**given, "queries": given["items"], "items": given["queries"]}
        return (_inf(given).mean() + _inf(turned).mean()) / 2

    yield "inf-cl", both, {"missing": _inf_missing(case, device)}


def _torch_peers(case: Case) -> Iterator[Peer]:
    absent = "" if hasattr(F, "linear_cross_entropy") else f"torch {torch.__version__} has no F.linear_cross_entropy"

    def chunked(**options: Any) -> Callable[[Inputs], Tensor]:
        def loss(given: Inputs) -> Tensor:
            chosen = torch.nn.LinearCrossEntropyOptions(**options)
            return F.linear_cross_entropy(
                given["queries"], given["items"], given["targets"], linear_bias=given.get("bias"), options=chosen
            )

        return loss

    rows = max(256, 2**24 // case.sizes["N"] // 256 * 256)
    yield "F.linear_cross_entropy, chosen chunks", chunked(batch_chunk_size=rows), {"missing": absent}
    if case.form == "label":  # once is enough
        yield "F.linear_cross_entropy, its own chunks", chunked(), {"missing": absent, "once": True}


def _cut_cross_entropy(device: str) -> Iterator[Peer]:
    def loss(**options: Any) -> Callable[[Inputs], Tensor]:
        def run(given: Inputs) -> Tensor:
            from cut_cross_entropy import linear_cross_entropy

            return linear_cross_entropy(given["queries"], given["items"], given["targets"], **options)

        return run

    absent = missing("cut_cross_entropy", "cut-cross-entropy", device)
    if device == "cpu":
        yield "Cut Cross-Entropy, torch_compile", loss(impl="torch_compile"), {"missing": absent, "compiled": True}
    gpu = missing("cut_cross_entropy", "cut-cross-entropy", device, needs_gpu=True)
    yield "Cut Cross-Entropy, cce", loss(impl="cce"), {"missing": gpu}
    # in later releases cce_exact also accumulates in float32; the one on PyPI has only the filter to turn off
    yield "Cut Cross-Entropy, cce_exact", loss(impl="cce", filter_eps=None), {"missing": gpu}


def _liger_scaled(given: Inputs) -> Tensor:
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction as Scaled

    return Scaled.apply(given["queries"], given["items"], given["targets"]).mean()


def _liger_linear(given: Inputs) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy(
        given["queries"], given["items"], given["targets"], accum_dtype=torch.float32, chunk_mem_const=1024
    )


def _inf_missing(case: Case, device: str) -> str:
    if case.sizes["D"] % 256 and case.sizes["D"] not in (64, 128):
        return "takes widths that 256 divides"
    return missing("inf_cl", "inf-cl", device, needs_gpu=True)


def _inf(given: Inputs) -> Tensor:
    from inf_cl import cal_flash_loss

    width = given["queries"].shape[1]
    return cal_flash_loss(
        given["queries"], given["items"], given["targets"], given.get("scale"), head_dim=min(width, 256)
    )


def _quack(given: Inputs) -> Tensor:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return chunked_linear_cross_entropy(given["queries"], given["items"], given["targets"])


def _clip_missing(device: str) -> str:
    from mmenc_plugin.encoders import _torchvision

    _torchvision.state()  # mends one that was built for another torch, which open_clip would stumble over
    return missing("open_clip", "open_clip_torch", device)


def _clip(given: Inputs) -> Tensor:
    from open_clip.loss import ClipLoss

    return ClipLoss()(given["queries"], given["items"], given["scale"])
