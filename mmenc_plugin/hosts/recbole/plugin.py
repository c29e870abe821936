"""Makes RecBole's own look-ups find our models, and applies the repairs as RecBole is imported.

RecBole finds a model by importing `recbole.model.<type>_recommender.<lowercased name>`, its trainer
and data set by `<Name>Trainer` in `recbole.trainer` and `<Name>Dataset` in `recbole.data.dataset`.
The finder answers the first, a module `__getattr__` (PEP 562) the other two. Nothing of RecBole is
edited or copied, so a checkout, an editable install and a wheel of it all work.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_MODELS = "recbole.model.general_recommender."
_HOOKED = {"recbole.config.configurator", "recbole.trainer", "recbole.trainer.trainer", "recbole.data.dataset"}


def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
    """The spec of a module that we answer for or patch; None leaves it to the other finders."""
    if name == "ray":
        return _ray_for_run_hyper()
    if name.startswith(_MODELS) and (model := _our_model(name[len(_MODELS) :])):
        return importlib.util.spec_from_loader(name, _ModelLoader(model))
    if name not in _patched_modules():
        return None
    spec = _spec_from_others(name, path, target)
    if spec and hasattr(spec.loader, "exec_module") and not isinstance(spec.loader, type):
        _run_patched(spec.loader)
    return spec


def patch_imported() -> None:
    """Patch the modules of RecBole that were imported before the finder was in place."""
    for name in _patched_modules():
        if name in sys.modules:
            _patch(sys.modules[name])


def _patched_modules() -> set[str]:
    from mmenc_plugin.hosts.recbole import repair

    return _HOOKED | {r.module for r in repair.REPAIRS}


def _spec_from_others(name: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if getattr(finder, "__module__", "") == "mmenc_plugin.autoload":
            continue
        find = getattr(finder, "find_spec", None)
        if find and (spec := find(name, path, target)):
            return spec  # type: ignore[no-any-return]
    return None


def _run_patched(loader: Any) -> None:
    """Let this loader instance run the module as always, and then our patches."""
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        from mmenc_plugin.hosts.recbole import repair

        with ExitStack() as stack:
            for fix in repair.active(module.__name__):
                if fix.around:
                    stack.enter_context(fix.around())
            execute(module)
        module.__dict__.pop("__mmenc_patched__", None)  # a reload has run the module anew
        _patch(module)

    loader.exec_module = exec_module


def _patch(module: ModuleType) -> None:
    from mmenc_plugin.hosts.recbole import repair

    if module.__dict__.get("__mmenc_patched__"):
        return
    for fix in repair.active(module.__name__):
        if fix.apply:
            fix.apply(module)
    if module.__name__ == "recbole.config.configurator":
        from mmenc_plugin.hosts.recbole import config

        config.patch(module.Config)
    elif module.__name__ == "recbole.trainer.trainer":
        from mmenc_plugin.hosts.recbole import ranking

        ranking.patch(module)
    elif module.__name__ in _HOOKED:
        suffix = "Trainer" if module.__name__ == "recbole.trainer" else "Dataset"
        module.__getattr__ = _resolver(module, suffix)  # type: ignore[method-assign]
    module.__mmenc_patched__ = True  # type: ignore[attr-defined]


def _resolver(module: ModuleType, suffix: str) -> Callable[[str], Any]:
    """A module `__getattr__` that resolves `<Model><suffix>` for our models."""

    def resolve(name: str) -> Any:
        from mmenc_plugin import models

        if name.endswith(suffix) and name[: -len(suffix)] in models.registry:
            if suffix == "Trainer":
                from mmenc_plugin.hosts.recbole.trainer import MultimodalTrainer as Found
            else:
                from mmenc_plugin.hosts.recbole.dataset import MultimodalDataset as Found
            return Found
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    return resolve


def _our_model(lowercased: str) -> str | None:
    if "." in lowercased:
        return None
    from mmenc_plugin import models

    return next((name for name in models.registry.names() if name.lower() == lowercased), None)


class _ModelLoader(Loader):
    """Loads a module that holds one class: RecBole's face of one of our models."""

    def __init__(self, model: str) -> None:
        self.model = model

    def create_module(self, spec: ModuleSpec) -> None:
        """Use Python's default module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the class into the module under the model's name."""
        from mmenc_plugin.hosts.recbole import adapter

        setattr(module, self.model, adapter.recbole_class(self.model))


def _ray_for_run_hyper() -> ModuleSpec | None:
    """For RecBole's run_hyper.py alone, which imports ray at its top even where hyperopt does the tuning."""
    if not _imported_by("run_hyper.py"):
        return None
    from mmenc_plugin.hosts.recbole import ray_stub

    return ray_stub.spec_for_run_hyper()


def _imported_by(script: str) -> bool:
    """Whether the import under way was written in a file called `script`."""
    finders = {__name__, "mmenc_plugin.autoload"}
    frame = sys._getframe(1)
    while frame and ("importlib" in frame.f_code.co_filename or frame.f_globals.get("__name__") in finders):
        frame = frame.f_back  # type: ignore[assignment]
    return bool(frame) and Path(frame.f_code.co_filename).name == script
