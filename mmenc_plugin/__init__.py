"""mmenc-plugin: large multimodal encoders inside the recommendation toolkits people already use.

Importing this package imports neither torch nor numpy (a path file imports it whenever Python
starts): its parts load when they are first touched.
"""

__version__ = "0.4.0"
__all__ = ["__version__", "data", "encoders", "features", "kernels", "models", "register"]

_PARTS = {"data", "encoders", "features", "kernels", "models"}


def __getattr__(name: str) -> object:
    if name in _PARTS:
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Make RecBole know the models of this package, in this process.

    An installed package does this by itself when Python starts. Call it where path files are not
    read: `pip install --target`, `python -S`, frozen applications.
    """
    from mmenc_plugin import autoload

    autoload.install()
