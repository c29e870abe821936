"""Every repair of RecBole 1.2 on today's numpy, pandas, scipy, torch and Python.

Each entry of `REPAIRS` says which RecBole module it belongs to, why it is there, and when it is
needed; a test fails for an entry that is no longer. The places are of RecBole 1.2.1.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mmenc_plugin.hosts.recbole import processes, ray_stub

_OLD_NUMPY_NAMES = {
    "bool": "bool_", "int": "int_", "float": "float64", "complex": "complex128",
    "object": "object_", "str": "str_", "long": "int_", "unicode": "str_",
}  # fmt: skip


@dataclass(frozen=True)
class Repair:
    """One repair.

    Attributes:
        name: what `mmenc doctor` calls it.
        module: the RecBole module it is applied to, right after that module has run.
        reason: what breaks without it.
        needed: whether this environment needs it.
        apply: takes the module that has just run.
        around: a context in which the module runs.
    """

    name: str
    module: str
    reason: str
    needed: Callable[[], bool]
    apply: Callable[[Any], None] | None = None
    around: Callable[[], AbstractContextManager[None]] | None = None


def active(module: str) -> list[Repair]:
    """The repairs of one module that this environment needs."""
    return [r for r in REPAIRS if r.module == module and r.needed()]


def _since(package: str, *release: int) -> Callable[[], bool]:
    """A guard: whether the installed package is of that release or a newer one."""

    def needed() -> bool:
        from importlib.metadata import version

        return tuple(int(part) for part in version(package).split(".")[: len(release)]) >= release

    return needed


def _always() -> bool:
    return True


# warnings ---------------------------------------------------------------------------------------


def _silence_warnings(_: ModuleType) -> None:
    """What these modules warn of is their own code; `recbole.data.utils`, which warns users, is not among them."""
    import warnings

    warnings.filterwarnings(
        "ignore", module=r"recbole\.(model|trainer|evaluator|data\.(dataset|dataloader|interaction))|thop"
    )


# numpy ------------------------------------------------------------------------------------------


def _set_numpy_names(_: ModuleType) -> None:
    import numpy as np

    for old, new in _OLD_NUMPY_NAMES.items():
        if old not in np.__dict__:
            setattr(np, old, getattr(np, new))


def _keep_numpy_names(module: Any) -> None:
    module.Config.compatibility_settings = lambda self: None


# torch ------------------------------------------------------------------------------------------


def _trust_checkpoints(_: ModuleType) -> None:
    """Route the `torch.load` calls of RecBole's own modules through our restricted loader."""
    import torch

    from mmenc_plugin.hosts.recbole import checkpoint

    original_load, original_save = torch.load, torch.save

    @functools.wraps(original_load)
    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        if _called_by_recbole() and "weights_only" not in kwargs:
            return checkpoint.load(f, *args, loader=original_load, **kwargs)
        return original_load(f, *args, **kwargs)

    @functools.wraps(original_save)
    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        original_save(obj, f, *args, **kwargs)
        if _called_by_recbole() and isinstance(f, (str, os.PathLike)):
            checkpoint.remember(f)

    torch.load, torch.save = load, save


def _called_by_recbole() -> bool:
    """Whether the caller of the function that asks is a module of RecBole."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("recbole.")


# metrics ----------------------------------------------------------------------------------------


def _keep_counts(module: Any) -> None:
    """Hide what is no tensor (numbers and counts of items and users) from the step that moves all to the CPU."""
    original = module.Collector.get_data_struct

    def get_data_struct(self: Any) -> Any:
        values = self.data_struct._data_dict
        counts = {name: values.pop(name) for name in list(values) if not hasattr(values[name], "cpu")}
        struct = original(self)
        for holder in (self.data_struct, struct):
            holder._data_dict.update(counts)
        return struct

    module.Collector.get_data_struct = get_data_struct


# scipy ------------------------------------------------------------------------------------------


def _restore_dok_update(_: ModuleType) -> None:
    from scipy.sparse import dok_matrix

    dok_matrix._update = lambda self, data: self._dict.update(data)


# pandas -----------------------------------------------------------------------------------------


def _lengths_of_elements(module: Any) -> None:
    """`series.agg(len)` means one length an element, as before pandas 3."""
    import pandas as pd

    def length(x: Any) -> Any:
        return x.map(len) if isinstance(x, pd.Series) else len(x)

    module.len = length


def _fill_missing_values(module: Any) -> None:
    """Fill through assignment: a chained in-place `fillna` changes nothing any more, silently."""
    import numpy as np
    from recbole.utils import FeatureType

    def _fill_nan(self: Any) -> None:
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in feat:
                kind = self.field2type[field]
                if kind == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif kind == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    empty = np.array([], dtype=np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64)
                    feat[field] = feat[field].map(lambda x, empty=empty: empty if isinstance(x, float) else x)

    module.Dataset._fill_nan = _fill_nan
    module.pd = _PandasFillingSequences(module.pd)


class _PandasFillingSequences:
    """pandas, with a read_csv that reads an empty cell of a sequence column as an empty text."""

    def __init__(self, pandas: ModuleType) -> None:
        self._pandas = pandas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pandas, name)

    def read_csv(self, *args: Any, **kwargs: Any) -> Any:
        frame = self._pandas.read_csv(*args, **kwargs)
        sequences = [c for c in frame.columns if str(c).endswith("_seq")]
        frame[sequences] = frame[sequences].fillna("")
        return frame


REPAIRS: tuple[Repair, ...] = (
    Repair("numpy names", "recbole", "np.float, np.int, ... were removed (metrics.py:90)",
           _since("numpy", 1, 24), _set_numpy_names),
    Repair("numpy aliases", "recbole.config.configurator",
           "Config overwrites numpy's names and reads np.float_, gone in numpy 2 (configurator.py:630)",
           _always, _keep_numpy_names),
    Repair("trusted checkpoints", "recbole",
           "torch 2.6 loads weights only and refuses RecBole's checkpoints (trainer.py:583)",
           _since("torch", 2, 6), _trust_checkpoints),
    Repair("dok_matrix._update", "recbole", "scipy 1.13 removed it (lightgcn.py:111 and six more)",
           _since("scipy", 1, 13), _restore_dok_update),
    Repair("lengths of lists", "recbole.data.dataset.dataset",
           "pandas 3 gives agg(len) the whole column (dataset.py:712)", _since("pandas", 3), _lengths_of_elements),
    Repair("lengths of lists (knowledge)", "recbole.data.dataset.kg_dataset",
           "as above (kg_dataset.py:316)", _since("pandas", 3), _lengths_of_elements),
    Repair("lengths of lists (sequences)", "recbole.data.dataset.sequential_dataset",
           "as above (sequential_dataset.py:166)", _since("pandas", 3), _lengths_of_elements),
    Repair("missing values", "recbole.data.dataset.dataset",
           "pandas 3 ignores a chained fillna(inplace=True), silently (dataset.py:501, 648)",
           _since("pandas", 3), _fill_missing_values),
    Repair("ray", "recbole.quick_start.quick_start",
           "imports ray at its top for one call; ray<=2.6.3 is missing or broken on today's stack (quick_start.py:20)",
           _always, ray_stub.use_tune_adapter, ray_stub.throwaway_ray),
    Repair("torchrun", "recbole.quick_start.quick_start",
           "takes each of torchrun's processes for the only one (quick_start.py:45)", _always, processes.torchrun),
    Repair("processes on the CPU", "recbole.config.configurator",
           "several processes assume nccl and a GPU each (configurator.py:476)", _always, processes.cpu_processes),
    Repair("gradients between CPU processes", "recbole.trainer.trainer",
           "gives DistributedDataParallel a GPU's number (trainer.py:79)", _always, processes.ddp_on_cpu),
    Repair("one checkpoint of several processes", "recbole.trainer.trainer",
           "each names its own and reads it while it is written (trainer.py:133, 583)",
           _always, processes.one_checkpoint),
    Repair("folders of several processes", "recbole.utils.utils",
           "of processes that make the same folder at once, all but one stop (utils.py:52)",
           _always, processes.folders_of_several),
    Repair("metrics of the whole list", "recbole.evaluator.collector",
           "ItemCoverage, AveragePopularity, GiniIndex and TailPercentage stop at a number's .cpu() (collector.py:227)",
           _since("recbole", 1, 2, 1), _keep_counts),
    Repair("warnings", "recbole", "the repaired places, and others, warn of what a user cannot mend",
           _always, _silence_warnings),
)  # fmt: skip
