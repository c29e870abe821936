"""Names for things: registered beside the thing, found by themselves, answered helpfully when wrong."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from mmenc_plugin.errors import MmencError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind, by name.

    On first use it imports every public module of `package`, then the entry points of `group` that
    other packages declare; both register by calling `add`.

    Args:
        kind: what a thing is called in messages, e.g. "encoder".
        package: dotted name of the package whose modules register.
        group: entry-point group for other packages, e.g. "mmenc.encoders".
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind, self.package, self.group = kind, package, group
        self._things: dict[str, T] = {}
        self._broken: dict[str, str] = {}
        self._discovered = False

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a thing under `name`.

        Raises:
            MmencError: the name is taken by something else.
        """

        def register(thing: T) -> T:
            taken = self._things.setdefault(name, thing)
            if taken is not thing and _where(taken) != _where(thing):
                raise MmencError(f"two {self.kind}s are named '{name}': {_where(taken)} and {_where(thing)}.")
            self._things[name] = thing
            return thing

        return register

    def get(self, name: str) -> T:
        """The thing called `name`.

        Raises:
            UnknownNameError: nothing has that name; the message gives the nearest one.
        """
        self._discover()
        if name in self._broken:
            raise MmencError(f"{self.kind} '{name}': {self._broken[name]}. Mend the package that adds it.")
        if name not in self._things:
            raise unknown_name(self.kind, name, self.names())
        return self._things[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._discover()
        return sorted(self._things)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._things

    def __iter__(self) -> Iterator[tuple[str, T]]:
        self._discover()
        return iter(sorted(self._things.items()))

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # already now: what is imported may ask
        try:
            self._import_all()
        except BaseException:
            self._discovered = False
            raise

    def _import_all(self) -> None:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_") and not module.ispkg:
                importlib.import_module(f"{self.package}.{module.name}")
        for entry in entry_points(group=self.group):
            try:
                entry.load()
            except Exception as error:  # of another package, which must not take the others' names down
                self._broken[entry.name] = f"{entry.value} cannot be imported ({type(error).__name__}: {error})"
                warnings.warn(f"{self.kind} '{entry.name}': {self._broken[entry.name]}", stacklevel=2)


def _where(thing: object) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}"
