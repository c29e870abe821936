"""The one place that decides what a RecBole checkpoint may hold.

RecBole pickles its Config, class references and optimizer state into a checkpoint, which torch's
weights-only loader refuses; unpickling freely would run whatever code the file names. This loader
goes between: it rebuilds tensors, arrays, sparse matrices, plain containers, RecBole's enums and the
*state* of a Config, and refuses every other name. A Config is rebuilt without running its
constructor (which evaluates strings), and references to classes (the model's, YAML's loader) come
back as inert marks that nothing can call; they are put in from RecBole itself afterwards.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mmenc_plugin.errors import CheckpointError

_PLAIN = {
    "collections": {"OrderedDict", "defaultdict", "deque", "Counter"},
    "builtins": {"set", "frozenset", "slice", "complex", "bytearray", "dict", "list", "tuple", "int", "float", "bool"},
    "torch": {"device", "Size"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_sparse_tensor"},
    "torch.serialization": {"_get_layout"},
    "numpy": {"ndarray", "dtype", "bool_"},
    "recbole.utils.enum_type": {
        "ModelType", "InputType", "EvaluatorType", "FeatureType", "FeatureSource", "KGDataLoaderState",
    },
}  # fmt: skip
_INERT = ("recbole.model.", "mmenc_plugin.hosts.recbole.adapter", "yaml.")


class _Reference:
    """A class that the checkpoint names and that unpickling must not be able to call."""

    def __init__(self, name: str) -> None:
        self.name = name


class _BareConfig:
    """Stands for recbole's Config while unpickling: makes an empty one, and takes no arguments."""

    def __new__(cls) -> Any:
        from recbole.config.configurator import Config

        return object.__new__(Config)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("recbole.config.configurator", "Config"):
            return _BareConfig
        if module.startswith(_INERT):
            return _Reference(f"{module}.{name}")
        if name in _PLAIN.get(module, ()) or _is_number_type(module, name):
            return getattr(importlib.import_module(module), name)
        raise CheckpointError(
            f"the checkpoint names {module}.{name}, which no checkpoint of RecBole or of mmenc-plugin holds, so it was "
            "not loaded: unpickling it could run code. If you made the file and trust it, load it yourself with "
            "torch.load(path, weights_only=False)."
        )


def _is_number_type(module: str, name: str) -> bool:
    """Whether the name is a number type of torch or numpy, or part of an array or a sparse matrix."""
    if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return name in ("_reconstruct", "scalar")
    if module == "torch":
        import torch

        return name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)
    if module == "numpy.dtypes":
        return name.endswith("DType")
    return module.startswith("scipy.sparse.") and name.endswith(("_matrix", "_array"))


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


_PICKLE = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)


def load(f: Any, *args: Any, loader: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Load a RecBole checkpoint without running code from it.

    Args:
        f: path or file, as for `torch.load`.
        *args: passed on to `torch.load`.
        loader: the original `torch.load`.
        **kwargs: passed on to `torch.load`.

    Returns:
        What was saved; a Config in it is whole again.

    Raises:
        CheckpointError: the file names something that no checkpoint holds.
    """
    import torch

    state = (loader or torch.load)(f, *args, **{**kwargs, "weights_only": False, "pickle_module": _PICKLE})
    if isinstance(state, dict) and hasattr(state.get("config"), "final_config_dict"):
        _complete(state["config"])
    return state


def _complete(config: Any) -> None:
    """Put the class references back that were left inert."""
    from recbole.utils import get_model

    config.yaml_loader = config._build_yaml_loader()
    config.model_class = get_model(config.final_config_dict["model"])
