"""RecBole without ray: it uses ray for one call, `tune.report`, and its run_hyper.py imports it at the top."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextmanager
def throwaway_ray() -> Iterator[None]:
    """A `ray` that can be imported and is gone afterwards; importing the real one takes a second, or fails."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name == "ray" or name.startswith("ray.")}
    sys.modules["ray"], sys.modules["ray.tune"] = stub = ModuleType("ray"), ModuleType("ray.tune")
    stub[0].tune = stub[1]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in ("ray", "ray.tune"):
            sys.modules.pop(name, None)
        sys.modules.update(kept)


class Tune:
    """RecBole's `tune`: reports to a ray session where there is one, else to nobody."""

    @staticmethod
    def report(**metrics: Any) -> None:
        """Report the metrics of a trial; ray took them as keywords up to 2.6, as one mapping since."""
        is_initialized = vars(sys.modules.get("ray", sys)).get("is_initialized")
        if is_initialized and is_initialized():
            from importlib.metadata import version

            report = importlib.import_module("ray.tune").report
            old = tuple(int(part) for part in version("ray").split(".")[:2]) < (2, 7)
            report(**metrics) if old else report(metrics)


def use_tune_adapter(module: Any) -> None:
    """Put the adapter in the place of what RecBole imported as `tune`."""
    module.tune = Tune


def spec_for_run_hyper() -> ModuleSpec | None:
    """A spec of `ray` for RecBole's run_hyper.py: the real one where it works, else a stand-in."""
    return importlib.util.spec_from_loader("ray", _Loader(_real_ray()), is_package=True)


def _real_ray() -> ModuleType | None:
    """The module `ray`, with `ray.tune` imported; None, and nothing left in sys.modules, where that fails."""
    before = set(sys.modules)
    try:
        importlib.import_module("ray.tune.schedulers")
    except Exception:  # a broken ray fails with whatever its first broken import raises
        for name in set(sys.modules) - before:
            if name == "ray" or name.startswith("ray."):
                del sys.modules[name]
        return None
    return sys.modules["ray"]


class _Loader(Loader):
    """Hands the real ray on, or loads one that can be imported and says how to do without when it is used."""

    def __init__(self, real: ModuleType | None) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> None:
        """Use Python's default module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill `ray`, and for the stand-in `ray.tune` and `ray.tune.schedulers` as well."""
        if self.real:
            sys.modules["ray"] = self.real  # what the import statement gives is what stands here
            return
        tune, schedulers = ModuleType("ray.tune"), ModuleType("ray.tune.schedulers")
        for part in (module, tune, schedulers):
            part.__getattr__ = _use  # type: ignore[method-assign]
        module.tune, tune.schedulers = tune, schedulers  # type: ignore[attr-defined]
        schedulers.ASHAScheduler = _use  # type: ignore[attr-defined]
        sys.modules.update({"ray.tune": tune, "ray.tune.schedulers": schedulers})


def _use(name: str = "", *_: Any, **__: Any) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    from mmenc_plugin.errors import MissingExtraError

    raise MissingExtraError(
        "--tool=Ray", "hyper", ImportError("ray cannot be imported; tune with hyperopt, --tool=Hyperopt")
    )
