"""Runs whenever Python starts (a path file imports it), so it imports nothing but sys.

It puts one finder in front of `sys.meta_path`, which does nothing until RecBole is imported.
"""

import sys


class Finder:
    """Hands imports of RecBole (and of ray, for RecBole's run_hyper.py) to `plugin`."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        """See importlib.abc.MetaPathFinder."""
        if name == "recbole" or name.startswith("recbole.") or name == "ray":
            from mmenc_plugin.hosts.recbole import plugin

            return plugin.find_spec(name, path, target)
        return None


def install() -> None:
    """Put the finder in place, once; parts of RecBole that are already imported are repaired now."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
    if "recbole" in sys.modules:
        from mmenc_plugin.hosts.recbole import plugin

        plugin.patch_imported()


install()
