"""Names: found, answered helpfully, and one broken package of somebody else does not take the others down."""

import sys
import types

import pytest

from mmenc_plugin import registry as module
from mmenc_plugin.errors import MmencError, UnknownNameError
from mmenc_plugin.registry import Registry


class Entry:
    """An entry point of another package."""

    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"somebody:{name}", load


def empty_registry(monkeypatch, entries=()):
    monkeypatch.setitem(sys.modules, "nothing", types.SimpleNamespace(__path__=[]))
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    return Registry("thing", "nothing", "mmenc.things")


def test_a_wrong_name_gets_the_nearest_and_the_known(monkeypatch):
    things = empty_registry(monkeypatch)
    things.add("apple")(object())
    with pytest.raises(UnknownNameError, match=r"no thing named 'aple'. Did you mean 'apple'\? Known: apple."):
        things.get("aple")


def test_a_name_cannot_be_taken_twice(monkeypatch):
    things = empty_registry(monkeypatch)
    things.add("x")(test_a_wrong_name_gets_the_nearest_and_the_known)
    with pytest.raises(MmencError, match="two things are named 'x'"):
        things.add("x")(empty_registry)


def test_a_broken_entry_point_is_an_error_only_for_its_own_name(monkeypatch):
    def fail():
        raise ImportError("no module named 'zzz'")

    things = empty_registry(monkeypatch, [Entry("bad", fail), Entry("good", lambda: things.add("good")("fine"))])
    with pytest.warns(UserWarning, match="thing 'bad': somebody:bad cannot be imported"):
        assert things.get("good") == "fine"
    assert "bad" not in things
    with pytest.raises(MmencError, match=r"thing 'bad': somebody:bad cannot be imported .*zzz.*Mend the package"):
        things.get("bad")
