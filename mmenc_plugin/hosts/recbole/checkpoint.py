"""The one place that decides what a RecBole checkpoint may hold.

RecBole pickles its Config, class references and optimizer state into a checkpoint, which torch's
weights-only loader refuses; unpickling freely would run whatever code the file names. What is trusted:

- a file that this very process has written, and that nobody has touched since, wholly;
- of any other file: tensors, arrays, sparse matrices, plain containers, RecBole's enums and the *state*
  of a Config. A Config is rebuilt without running its constructor (which evaluates strings), forgets
  the paths of RecBole's own pickled caches (which RecBole would open next), and references to classes
  (the model's, YAML's loader) come back as inert marks that nothing can call; RecBole's own are put in
  their place. Every other name is refused, as are torch's older formats, which reach other unpicklers.
"""

from __future__ import annotations

import importlib
import os
import pickle
import zipfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mmenc_plugin.errors import CheckpointError

_PLAIN = {
    "collections": {"OrderedDict", "defaultdict", "deque", "Counter"},
    "builtins": {
        "set", "frozenset", "slice", "range", "complex", "bytearray", "dict", "list", "tuple", "int", "float", "bool",
    },
    "datetime": {"date", "datetime", "timedelta"},
    "pathlib._local": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},  # Python 3.13
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "torch": {"device", "Size"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_sparse_tensor"},
    "torch.serialization": {"_get_layout"},
    "numpy": {"ndarray", "dtype", "bool_", "matrix"},
    "recbole.utils.enum_type": {
        "ModelType", "InputType", "EvaluatorType", "FeatureType", "FeatureSource", "KGDataLoaderState",
    },
}  # fmt: skip
_INERT = ("recbole.model.", "mmenc_plugin.hosts.recbole.adapter", "yaml.")
_NOWHERE = os.path.join(os.devnull, "no pickled cache for a loaded checkpoint")  # a path that cannot exist
_ours: dict[str, tuple[int, int, int]] = {}  # files written by this process: path -> size, time, inode


class _Reference:
    """A class that the checkpoint names and that unpickling must not be able to call."""

    def __init__(self, name: str) -> None:
        self.name = name


class _BareConfig:
    """Stands for recbole's Config while unpickling: makes an empty one, and takes no arguments."""

    def __new__(cls) -> Any:
        from recbole.config.configurator import Config

        return object.__new__(Config)


_PythonUnpickler: Any = pickle._Unpickler  # its opcodes can be overridden


class _Unpickler(_PythonUnpickler):
    dispatch = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("recbole.config.configurator", "Config"):
            return _BareConfig
        if module.startswith(_INERT):
            return _Reference(f"{module}.{name}")
        if name in _PLAIN.get(module, ()) or _is_number_type(module, name):
            return getattr(importlib.import_module(module), name)
        raise CheckpointError(
            f"the checkpoint names {module}.{name}, which is not among the plain values that are taken from a file "
            "that another process has written: unpickling it could run code. If you made the file and trust it, load "
            "it yourself with torch.load(path, weights_only=False)."
        )

    def load_build(self) -> None:
        """Give an object its state; a class or a function has none to be given."""
        target = self.stack[-2]
        if isinstance(target, type) or callable(target):
            raise CheckpointError(f"the checkpoint changes {target!r}, so it was not loaded.")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _is_number_type(module: str, name: str) -> bool:
    """Whether the name is a number type of torch or numpy, or part of an array or a sparse matrix."""
    if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return name in ("_reconstruct", "scalar")
    if module == "torch":
        import torch

        return name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)
    if module == "numpy.dtypes":
        return name.endswith("DType")
    if not module.startswith("scipy.sparse."):
        return False
    found = getattr(importlib.import_module(module), name, None)
    return isinstance(found, type) and name.endswith(("_matrix", "_array"))


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


_PICKLE = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)


def remember(path: str | os.PathLike[str]) -> None:
    """Note that this process has written the file."""
    _ours[os.path.realpath(path)] = _stamp(path)


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


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
        CheckpointError: the file holds what is not taken from a file of another process.
    """
    import torch

    loader = loader or torch.load
    if isinstance(f, (str, os.PathLike)) and _ours.get(os.path.realpath(f)) == (os.path.exists(f) and _stamp(f)):
        return loader(f, *args, **{**kwargs, "weights_only": False})
    _check_format(f)
    try:
        state = loader(f, *args, **{**kwargs, "weights_only": False, "pickle_module": _PICKLE})
    except (pickle.UnpicklingError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint {f} could not be rebuilt from plain values: {error}.") from error
    if isinstance(state, dict) and hasattr(state.get("config"), "final_config_dict"):
        _complete(state["config"])
    return state


def _check_format(f: Any) -> None:
    """Only what `torch.save` writes today: a zip file that is no TorchScript program."""
    if isinstance(f, (str, os.PathLike)) and not os.path.exists(f):
        raise FileNotFoundError(f"the checkpoint {f} does not exist.")
    if not zipfile.is_zipfile(f):
        raise CheckpointError(f"{f} is not a checkpoint of torch's zip format; older formats can hold code.")
    with zipfile.ZipFile(f) as archive:
        names = [name.rpartition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in names or "data.pkl" not in names:
        raise CheckpointError(f"{f} is a TorchScript program or another archive, not a checkpoint of tensors.")
    if hasattr(f, "seek"):
        f.seek(0)


def _complete(config: Any) -> None:
    """Put the class references back that were left inert, and take the pickled caches away.

    What several processes have trained is one process's business where there are none.
    """
    import torch
    from recbole.utils import get_model

    config.yaml_loader = config._build_yaml_loader()
    config.model_class = get_model(config.final_config_dict["model"])
    config.final_config_dict.update(dataset_save_path=_NOWHERE, dataloaders_save_path=_NOWHERE)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        config.final_config_dict.update(single_spec=True, local_rank=0)
