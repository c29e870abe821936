"""Weights from files: safetensors, or torch files opened by the weights-only loader; never code."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmenc_plugin.errors import WeightsError


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a weights file, as they lie there; wrappers such as {"state_dict": ...} are kept.

    Args:
        path: a `.safetensors` file, or anything that `torch.save` wrote.

    Raises:
        WeightsError: no file, a damaged one, or one that holds pickled code (which is not run).
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist. Name a .safetensors file or a torch file (.pt, .pth, .bin).")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, and is not opened, since pickled code could do anything: "
            f"{_first_line(error)} Save the state dict alone, best as .safetensors."
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is damaged or cut off: {_first_line(error)} Bring the file again.") from None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0][:300].rstrip(". ") if text else type(error).__name__) + "."
