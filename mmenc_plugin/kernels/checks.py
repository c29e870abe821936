"""Checks of kernel arguments. Each error names the argument, what was found and what was expected.

Checks of shapes, types and devices read no values and stand in the public functions; checks of values stand inside
the operators, so that `torch.compile` need not look into them.
"""

from __future__ import annotations

import torch
from torch import Tensor

CSR = tuple[Tensor, Tensor]  # offsets [B + 1] and ids [nnz], int64: ids[offsets[b] : offsets[b + 1]] belong to row b


def check_floats(**tensors: Tensor | None) -> None:
    """All are of a floating type that the kernels compute in.

    Raises:
        TypeError: names the first that is not.
    """
    taken = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in taken:
            raise TypeError(f"{name} is {tensor.dtype}, but must be float32, float64, bfloat16 or float16: convert it.")


def check_ids(**tensors: Tensor | None) -> None:
    """All are of type int64 (or int32).

    Raises:
        TypeError: names the first that is not.
    """
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} is {tensor.dtype}, but row numbers must be int64: convert it with .long().")


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...], meaning: str) -> None:
    """The tensor has the expected shape, None standing for any size.

    Raises:
        ValueError: e.g. "bias is [3], but must be [N] = [4]", where `meaning` is "[N]".
    """
    fits = tensor.ndim == len(expected) and all(
        e is None or s == e for s, e in zip(tensor.shape, expected, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name} is {list(tensor.shape)}, but must be {meaning} = [{sizes}].")


def check_same_device(**tensors: Tensor | None) -> None:
    """All are on one device.

    Raises:
        ValueError: names the first that is elsewhere than the first of all.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first = next(iter(given))
    for name, tensor in given.items():
        if tensor.device != given[first].device:
            raise ValueError(
                f"{name} is on {tensor.device} but {first} on {given[first].device}: move them to one device."
            )


def check_range(name: str, ids: Tensor, n: int) -> None:
    """All ids lie in 0..n-1 (reads values).

    Raises:
        ValueError: one does not.
    """
    if ids.numel():
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high >= n:
            raise ValueError(f"{name} holds {low if low < 0 else high}, but must lie in 0..{n - 1}.")


def check_csr(name: str, csr: CSR, rows: int, n: int) -> None:
    """Offsets [rows + 1] rise from 0 to the number of ids, and the ids lie in 0..n-1 (reads values).

    Raises:
        ValueError: they do not.
    """
    offsets, ids = csr
    check_shape(f"{name}[0]", offsets, (rows + 1,), "offsets [B + 1]")
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(ids) or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"{name}[0] must be offsets that rise from 0 to the number of ids, {len(ids)}; found {int(offsets[0])} to "
            f"{int(offsets[-1])}{', falling in between' if bool((offsets.diff() < 0).any()) else ''}."
        )
    check_range(f"{name}[1]", ids, n)


def check_no_nan(**tensors: Tensor | None) -> None:
    """None holds a NaN (reads values).

    Raises:
        ValueError: names the first that does, and its first row.
    """
    for name, tensor in tensors.items():
        # The largest value is NaN where any is: one pass over a table, and no flags of its size.
        if tensor is not None and tensor.numel() and bool(tensor.amax().isnan()):
            row = int(tensor.isnan().nonzero()[0, 0]) if tensor.ndim else 0
            raise ValueError(f"{name} holds NaN (first in row {row}), so no score of it has a value.")
